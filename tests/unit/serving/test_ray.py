"""What Ray Data calls, called here without Ray; test_ray_cluster.py has a cluster."""

from __future__ import annotations

import json
import socket

import numpy as np
import polars as pl
import pytest

from genrec.data.text.tfidf import TfidfSvdEncoder
from genrec.errors import ArtifactError, ConfigError, DataError, MissingPathError
from genrec.serving import ray as on_ray
from genrec.serving import workers
from genrec.serving.files import recommend_to_file
from genrec.serving.recommender import Recommender
from genrec.serving.workers import Opening, _Worker, check_workers
from genrec.tokenizer.policies import build_ids
from genrec.tokenizer.quantizer import encode_ids
from genrec.tokenizer.residual_kmeans import ResidualKMeans

TEXTS = ["red cup", "blue cup", "green lamp", "red lamp", "blue bowl"]


def test_chunks_may_be_done_in_any_order(run, tmp_path):
    recommender = Recommender.from_pretrained(run, device="cpu")
    one, two = tmp_path / "one.parquet", tmp_path / "two.parquet"
    recommend_to_file(recommender, one, k=3, chunk_size=7)
    backwards = lambda chunks, todo: [(task[0], chunks.part(*task)) for task in todo[::-1]]  # noqa: E731
    recommend_to_file(recommender, two, k=3, chunk_size=7, compute=backwards)
    assert one.read_bytes() == two.read_bytes()


def test_a_batch_of_users(run):
    pytest.importorskip("pyarrow")
    recommender = Recommender.from_pretrained(run, device="cpu")
    keys = list(recommender.item_keys)
    batch = pl.DataFrame({"user_id": ["b", "a"], "history": [keys[:2], keys[3:4]]}).to_arrow()
    found = pl.DataFrame(pl.from_arrow(on_ray.Recommend(run, device="cpu", k=3)(batch)))
    known = recommender.recommend([keys[:2], keys[3:4]], k=3, users=["b", "a"]).to_polars()
    assert found["user_id"].to_list() == known["user_id"].to_list()
    assert found["item_id"].to_list() == known["item_id"].to_list()


def test_texts_in_parts_are_the_texts_as_a_whole():
    encoder = TfidfSvdEncoder(4).fit(TEXTS)
    embed = on_ray.Embed(encoder)
    parts = [embed({"text": np.array(TEXTS[i : i + 2]), "id": np.arange(2)}) for i in (0, 2, 4)]
    whole = encoder.encode(TEXTS)
    assert np.concatenate([part["embedding"] for part in parts]).tobytes() == whole.tobytes()
    assert parts[0]["id"].tolist() == [0, 1]


@pytest.mark.parametrize("policy", ["dedup_token", "none"])
def test_codes_at_hand_make_the_same_table(policy):
    vectors = np.random.default_rng(0).normal(size=(60, 4)).astype(np.float32)
    quantizer = ResidualKMeans.fit(vectors, codebook_sizes=(4, 4), num_iters=3)
    codes = np.concatenate([encode_ids(quantizer, vectors[i : i + 25]) for i in (0, 25, 50)])
    with_codes = build_ids(quantizer, vectors, policy=policy, codes=codes)
    alone = build_ids(quantizer, vectors, policy=policy)
    assert np.array_equal(with_codes.ids, alone.ids)
    assert with_codes.statistics == alone.statistics


def test_a_worker_opens_once_and_sends_mistakes_back():
    opened = []

    def opening(name: str):
        opened.append(name)

        def work(task: int) -> int:
            if task == 2:
                raise DataError("task must not be 2, got 2; leave it out")
            return 10 * task

        return work

    worker = _Worker(Opening(opening, ("model",)))
    batch = {"number": np.arange(3), "task": [json.dumps(task) for task in (1, 2, 3)]}
    done = worker(batch)
    results = list(map(workers._unpacked, done["kind"], done["result"]))
    assert results[0] == 10
    assert results[2] == 30
    assert isinstance(results[1], DataError)
    assert opened == ["model"]


def test_workers_that_cannot_be_are_refused(monkeypatch):
    with pytest.raises(ConfigError, match=r"--ray must be >= 1, got 0"):
        check_workers(0)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))  # not listened at
        monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{free.getsockname()[1]}")
        monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
        with pytest.raises(ConfigError, match="RAY_ADDRESS must name a running cluster"):
            check_workers(1)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"--ray needs Ray, .* pip install .*\[ray\]"):
        check_workers(1)


@pytest.mark.parametrize(
    "result",
    [b"\x80\x04raw", 7, [1, "\ud800"], None, np.float32([[0.1, np.nan], [np.inf, -0.0]])],
    ids=repr,
)
def test_results_travel_as_they_are(result):
    kind, packed = workers._packed(result)
    found = workers._unpacked(kind, packed)
    if isinstance(result, np.ndarray):
        assert found.dtype == result.dtype
        assert found.tobytes() == result.tobytes()
    else:
        assert found == result


@pytest.mark.parametrize("kind", [ConfigError, DataError, ArtifactError, MissingPathError])
def test_mistakes_travel_by_name(kind):
    found = workers._unpacked(*workers._packed(kind("what must be so, got 3; mend it")))
    assert type(found) is kind
    assert str(found) == "what must be so, got 3; mend it"


def test_nothing_that_runs_travels():
    with pytest.raises(TypeError):
        workers._packed(print)
    with pytest.raises(ValueError, match="Object arrays cannot be saved"):
        workers._packed(np.array([print], dtype=object))
