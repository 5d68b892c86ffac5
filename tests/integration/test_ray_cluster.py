"""Two workers of Ray give what one process gives, to the last bit."""

from __future__ import annotations

import os
import signal

import numpy as np
import polars as pl
import pytest

from genrec.data.prepared import PreparedDataset
from genrec.data.text.encoders import embed_texts
from genrec.data.text.kept_encoder import load_encoder
from genrec.errors import ConfigError, DataError, TrainingError
from genrec.serving import ray as on_ray
from genrec.serving.files import recommend_to_file
from genrec.serving.recommender import Recommender
from genrec.serving.workers import Opening, on_workers
from genrec.tokenizer.quantizer import encode_ids
from genrec.trained import load_quantizer, quantizer_inputs

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


@pytest.fixture(scope="module")
def cluster():
    """A cluster of two workers."""
    ray = pytest.importorskip("ray")
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield ray
    ray.shutdown()


@pytest.fixture(scope="module")
def data(sample_decoder) -> PreparedDataset:
    return Recommender.from_pretrained(sample_decoder).data


def test_the_file_is_the_same_byte_for_byte(cluster, sample_decoder, data, tmp_path):
    (tmp_path / "allow.txt").write_text("\n".join(data.item_keys[:400]))
    how = {"allow": tmp_path / "allow.txt", "chunk_size": 300, "k": 4}
    one, two = tmp_path / "one.parquet", tmp_path / "two.parquet"
    count = recommend_to_file(Recommender.from_pretrained(sample_decoder), one, **how)
    assert on_ray.recommend_on(2, sample_decoder, two, **how) == count == data.num_users
    assert one.read_bytes() == two.read_bytes()
    assert not list(tmp_path.glob(".*.parts"))


def test_codes_and_vectors_are_the_same_bit_for_bit(
    cluster, sample_tokenizer, workshop, data, monkeypatch
):
    monkeypatch.setattr(on_ray, "_ITEMS", 300)
    monkeypatch.setattr(on_ray, "_TEXTS", 300)
    spaced = workshop.tokenizer("rqvae-spaced", collaborative_weight=0.5, collaborative_dim=16)
    for run in (sample_tokenizer, spaced):
        codes = encode_ids(load_quantizer(run), quantizer_inputs(run, data))
        assert np.array_equal(on_ray.codes_on(2, run, data), codes)
    encoder, texts = load_encoder(sample_tokenizer).encoder, list(data.item_texts)
    found = on_ray.embed_on(2)(encoder, texts, item_keys=list(data.item_keys))
    assert found.tobytes() == embed_texts(encoder, texts).tobytes()


def test_what_map_batches_calls(cluster, sample_tokenizer, sample_decoder, data):
    import ray.data

    pool = ray.data.ActorPoolStrategy(size=1)
    texts, keys = list(data.item_texts)[:50], list(data.item_keys)[:50]
    items = ray.data.from_items([{"item": k, "text": t} for k, t in zip(keys, texts, strict=True)])
    run = str(sample_tokenizer)
    coded = items.map_batches(
        on_ray.Embed, fn_constructor_args=[run], batch_format="numpy", compute=pool
    ).map_batches(on_ray.Tokenize, fn_constructor_args=[run], batch_format="numpy", compute=pool)
    codes = {row["item"]: list(row["codes"]) for row in coded.take_all()}
    vectors = load_encoder(run).encoder.encode(texts)
    assert [codes[key] for key in keys] == encode_ids(load_quantizer(run), vectors).tolist()

    histories = [{"user_id": "a", "history": keys[:3]}, {"user_id": "b", "history": keys[5:6]}]
    found = ray.data.from_items(histories).map_batches(
        on_ray.Recommend,
        fn_constructor_args=[str(sample_decoder)],
        fn_constructor_kwargs={"k": 3},
        batch_format="pyarrow",
        compute=pool,
    )
    rows = pl.DataFrame(found.take_all()).sort("user_id", "rank")
    alone = Recommender.from_pretrained(sample_decoder)
    known = alone.recommend([row["history"] for row in histories], k=3, users=["a", "b"])
    assert rows["item_id"].to_list() == known.to_polars()["item_id"].to_list()


def test_a_mistake_is_said_as_one_process_says_it(cluster, sample_decoder, data, tmp_path):
    source = tmp_path / "in.jsonl"
    lines = [{"user_id": n, "history": [data.item_keys[n]]} for n in range(40)]
    lines[33]["history"] = ["no such item"]
    pl.DataFrame(lines).write_ndjson(source)
    said = []
    for recommend in (
        lambda out, **how: recommend_to_file(
            Recommender.from_pretrained(sample_decoder), out, **how
        ),
        lambda out, **how: on_ray.recommend_on(2, sample_decoder, out, **how),
    ):
        with pytest.raises(DataError, match="no such item") as caught:
            recommend(tmp_path / "out.csv", histories=source, chunk_size=10)
        said.append(str(caught.value))
    assert said[0] == said[1]
    assert not (tmp_path / "out.csv").exists()


def test_a_worker_that_dies_is_started_anew_but_not_for_ever(cluster, tmp_path):
    died = tmp_path / "died"

    def opening(for_ever: bool):
        def work(task: int) -> int:
            if task == 3 and (for_ever or not died.exists()):
                died.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return task * task

        return work

    found = on_workers(Opening(opening, (False,)), range(6), workers=2)
    assert dict(found) == {n: n * n for n in range(6)}
    assert died.exists()
    with pytest.raises(TrainingError, match="workers must live until all is done, got Actor"):
        list(on_workers(Opening(opening, (True,)), range(6), workers=2))


def test_more_workers_than_cores_are_refused(cluster):
    with pytest.raises(ConfigError, match="at most the cores of the cluster, 2, got 3"):
        list(on_workers(Opening(int, ()), [1], workers=3))
