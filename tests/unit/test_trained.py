"""A run folder is opened as what it holds, and runs of all kinds stand in one table."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from genrec import registry
from genrec.atomic import write_json_atomic
from genrec.checkpoint import RunDirectory, load_model_files
from genrec.commands.evaluate import evaluate_runs
from genrec.commands.recommend import recommend_for
from genrec.data.catalogue import Catalogue
from genrec.data.prepared import PreparedDataset
from genrec.errors import ArtifactError, ConfigError, DataError, MissingPathError
from genrec.evaluation.tables import check_metrics
from genrec.models.retrieval import EncoderDecoderRetrievalModel
from genrec.models.sasrec import SasRec
from genrec.models.score_ranker import ScoreRanker
from genrec.serving.recommender import Recommender
from genrec.tokenizer.residual_kmeans import ResidualKMeans
from genrec.tokenizer.semantic_id import SemanticIdTokenizer
from genrec.trained import find_other_log, load_quantizer, load_ranker, load_trained

N, S = 24, 6
SIZES = (3, 4, 2)
KEYS = [f"B{i:03d}" for i in range(N)]


class Toy(nn.Module):
    """The smallest sequence model: likes items near the newest one."""

    def __init__(self, num_items: int) -> None:
        super().__init__()
        self.near = nn.Parameter(-(torch.arange(num_items).float()))

    def saved_config(self):
        return {"model": "Toy", "num_items": len(self.near)}

    @classmethod
    def load_pretrained(cls, path, device="cpu"):
        config, weights = load_model_files(path)
        model = cls(config["num_items"])
        model.load_state_dict(weights)
        return model.to(device).eval()

    def scores(self, history):
        last = history.gather(1, (history >= 0).sum(dim=1, keepdim=True) - 1)  # (B, 1)
        return self.near[(torch.arange(len(self.near)) - last).abs()]

    def ranker(self, catalogue, options):
        return ScoreRanker("Toy", catalogue, self.scores, options["max_history"], self.near.device)


@pytest.fixture(scope="module")
def data(tmp_path_factory, write_data) -> PreparedDataset:
    rng = np.random.default_rng(0)
    walks = [(rng.integers(N) + np.arange(rng.integers(3, 12))) % N for _ in range(50)]
    path = tmp_path_factory.mktemp("data") / "walks"
    return write_data(path, KEYS, sequences=walks, item_titles=[f"title {key}" for key in KEYS])


@pytest.fixture(scope="module")
def table(data) -> SemanticIdTokenizer:
    codes = np.stack(np.unravel_index(np.random.default_rng(0).permutation(N), SIZES), axis=1)
    return SemanticIdTokenizer(codes, level_sizes=SIZES, item_keys=KEYS, policy="none")


def write_run(path: Path, model, data: PreparedDataset, max_history: int = S) -> Path:
    RunDirectory(path).save(
        5, weights=model.state_dict(), config=model.saved_config(), pointers=("latest", "best")
    )
    meta = {
        "prepared": str(data.path),
        "data_fingerprint": data.fingerprint,
        "log_fingerprint": data.log_fingerprint,
        "items_fingerprint": data.items_fingerprint,
        "evaluation": {"num_beams": 8, "ks": [1, 5], "max_history": max_history},
    }
    write_json_atomic(path / "meta.json", meta)
    Catalogue.from_data(data).save(path)
    return path


@pytest.fixture
def runs(tmp_path, data, table, monkeypatch) -> dict[str, Path]:
    monkeypatch.setitem(registry.RANKERS, "Toy", __name__)  # one line of the registry
    torch.manual_seed(0)
    generative = EncoderDecoderRetrievalModel(
        16, 16, 0.0, 2, 2, num_embeddings=SIZES, sem_id_dim=3, ff_dim=32
    )
    sasrec = SasRec(N, embedding_dim=8, ff_dim=16, max_history=S)
    found = {
        "generation": write_run(tmp_path / "decoder", generative, data),
        "SASRec": write_run(tmp_path / "sasrec", sasrec, data),
        "Toy": write_run(tmp_path / "toy", Toy(N), data),
    }
    table.save(found["generation"] / "semantic_ids")
    return found


NAMES = ["generation", "SASRec", "Toy"]


@pytest.mark.parametrize("name", NAMES)
def test_a_run_folder_is_enough(runs, data, name, tmp_path):
    moved = runs[name].rename(tmp_path / "moved")
    meta = json.loads((moved / "meta.json").read_text())
    write_json_atomic(moved / "meta.json", meta | {"prepared": str(tmp_path / "nowhere")})
    ranker = load_ranker(moved)
    assert (ranker.name, ranker.num_items, ranker.max_history) == (name, N, S)
    recommender = Recommender.from_pretrained(moved, device="cpu")
    found = recommender.recommend([["B003", "B004"], ["B009"]], k=5)
    assert [len(items) for items in found.items] == [5, 5]
    assert not {"B003", "B004"} & set(found.items[0])
    assert found.titles[0] == [f"title {key}" for key in found.items[0]]
    if name == "Toy":
        assert found.items[0] == ["B005", "B002", "B006", "B001", "B007"]


@pytest.mark.parametrize("name", NAMES)
def test_users_of_the_data_set_are_served(runs, data, name):
    recommender = Recommender.from_pretrained(runs[name], device="cpu")
    (answer,) = recommend_for(recommender, data, [3], k=4)
    assert answer["user"] == "user 3"
    assert len(answer["recommended"]) == 4


def test_beams_are_for_what_searches(runs):
    assert load_ranker(runs["generation"], num_beams=3).num_beams == 3
    assert load_ranker(runs["generation"], num_beams=None).num_beams == 8
    recommender = Recommender.from_pretrained(runs["SASRec"], device="cpu")
    with pytest.raises(ConfigError, match="num_beams must be left out for a model that ranks all"):
        recommender.recommend(["B003"], num_beams=5)


def test_one_table_for_all(runs, capsys):
    found = evaluate_runs(list(runs.values()))
    assert list(found) == [*NAMES, "popularity", "co-occurrence"]
    shown = capsys.readouterr().out
    assert shown.startswith("test split, 50 targets, all items ranked, 8 beams, 6 history items\n")
    for name in found:
        label = f"{name} {runs[name].name}" if name in runs else name  # of several runs
        assert shown.count(f"\n{label}, item level") == 2  # history hidden, and not hidden
        assert shown.count(f"\n{label}, SID level") == 2
        assert {"recall@1", "sid_ndcg@5", "hidden_mrr", "hidden_sid_recall@5"} <= set(found[name])
    assert found["Toy"]["recall@1"] == 0  # the newest item itself
    assert found["Toy"]["hidden_recall@1"] > 0.9  # the one after it, or past the end 0
    # A table of one run holds the same numbers.
    alone = evaluate_runs([runs["Toy"]], with_baselines=False)
    assert list(alone) == ["Toy"]
    same = {name: value for name, value in alone["Toy"].items() if name != "users_per_s"}
    assert same.items() <= found["Toy"].items()


def test_each_run_keeps_its_numbers_and_they_are_reused(runs, capsys, monkeypatch):
    paths = [runs["generation"], runs["Toy"]]
    first = evaluate_runs(paths)
    for path, name in zip(paths, ("generation", "Toy"), strict=True):
        kept = json.loads((path / "metrics.json").read_text())["test"]
        assert kept[name] == first[name]
        assert kept["popularity"] == first["popularity"]
    assert kept["settings"] == {"max_history": S}
    before = [os.stat(path / "metrics.json").st_mtime_ns for path in paths]
    assert evaluate_runs(paths, reuse=True) == first
    assert [os.stat(path / "metrics.json").st_mtime_ns for path in paths] == before
    wide = evaluate_runs(paths, reuse=True, num_beams=20)  # other beams: not the same numbers
    assert wide["Toy"] == first["Toy"]
    assert wide["generation"] != first["generation"]
    assert "recall@7" in evaluate_runs(paths, reuse=True, ks=[7])["Toy"]
    limited = evaluate_runs(paths, reuse=True, limit=10)
    assert limited["Toy"]["users"] == 10
    assert json.loads((paths[1] / "metrics.json").read_text())["test"]["Toy"]["users"] == 50


def test_only_one_way_is_shown_when_asked(runs, capsys):
    evaluate_runs([runs["Toy"]], hide_history=True, ks=[5])
    shown = capsys.readouterr().out
    assert "history hidden " in shown
    assert "not hidden" not in shown
    assert shown.count("Toy, item level") == 1


def test_runs_of_one_kind_are_told_apart(runs, data, tmp_path):
    torch.manual_seed(1)
    other = write_run(tmp_path / "other", SasRec(N, embedding_dim=8, max_history=3), data, 3)
    found = evaluate_runs([runs["SASRec"], other], with_baselines=False)
    assert list(found) == [f"SASRec {runs['SASRec']}", f"SASRec {other}"]
    kept = json.loads((other / "metrics.json").read_text())["test"]
    assert kept["settings"] == {"max_history": 3}  # each reads as much as in its training
    assert kept["SASRec"] == found[f"SASRec {other}"]
    again = evaluate_runs([runs["SASRec"], other], with_baselines=False, reuse=True)
    assert again == found  # speeds included: nothing was computed


def test_runs_of_other_data_are_refused(runs):
    meta = json.loads((runs["SASRec"] / "meta.json").read_text())
    write_json_atomic(runs["SASRec"] / "meta.json", meta | {"log_fingerprint": "another"})
    with pytest.raises(ArtifactError, match="SASRec must have been trained on the data set of the"):
        evaluate_runs([runs["Toy"], runs["SASRec"]])
    with pytest.raises(ConfigError, match=r"split to evaluate must be valid or test, got 'tset'"):
        evaluate_runs([runs["Toy"]], split="tset")


def test_runs_without_a_catalogue_name_their_items_elsewhere(runs, data):
    for name in ("generation", "SASRec"):
        shutil.rmtree(runs[name] / "catalogue")
        assert load_trained(runs[name]).catalogue.item_titles[0] == "title B000"
        meta = json.loads((runs[name] / "meta.json").read_text())
        write_json_atomic(runs[name] / "meta.json", meta | {"prepared": None})
    assert list(load_trained(runs["generation"]).catalogue.item_titles) == KEYS
    with pytest.raises(MissingPathError, match="run must hold a catalogue/"):
        load_trained(runs["SASRec"])


def test_what_does_not_fit_is_said(runs, table, tmp_path):
    with pytest.raises(MissingPathError, match=r"run must be a folder with meta\.json, got"):
        load_ranker(tmp_path / "nowhere")
    with pytest.raises(ArtifactError, match="can be given only to a run that has one"):
        load_ranker(runs["SASRec"], table=table)
    shutil.rmtree(runs["generation"] / "semantic_ids")
    with pytest.raises(ArtifactError, match=r"must have IDs of the model's level sizes \(3, 4, 2"):
        load_ranker(runs["generation"])


def test_a_catalogue_of_other_items_is_refused(runs, table):
    renamed = SemanticIdTokenizer(
        table.ids, level_sizes=SIZES, item_keys=[*KEYS[:-1], "other"], policy="none"
    )
    renamed.save(runs["generation"] / "semantic_ids")
    with pytest.raises(ArtifactError, match="semantic IDs must be those of the data set's items"):
        load_ranker(runs["generation"])


def test_a_quantiser_does_not_recommend_and_a_model_makes_no_ids(runs, tmp_path):
    quantizer = ResidualKMeans.fit(
        np.random.default_rng(0).normal(size=(50, 4)), codebook_sizes=(4,)
    )
    quantizer.save(tmp_path / "kmeans" / "step_1")
    RunDirectory(tmp_path / "kmeans").point("latest", 1)
    write_json_atomic(tmp_path / "kmeans" / "meta.json", {})
    with pytest.raises(
        ArtifactError, match=r"got a run of stage one; give the one that .*runs/decoder/NAME"
    ):
        load_ranker(tmp_path / "kmeans")
    assert isinstance(load_quantizer(tmp_path / "kmeans"), ResidualKMeans)
    with pytest.raises(ArtifactError, match="run must be one of stage one, got a run that rec"):
        load_quantizer(runs["SASRec"])


def test_a_mistyped_model_is_answered_by_near_names():
    with pytest.raises(ArtifactError, match=r"got 'SasRek'; did you mean SasRec\?"):
        registry.find(registry.RANKERS, "SasRek")
    for table in (registry.RANKERS, registry.QUANTIZERS):
        assert all(isinstance(registry.find(table, name), type) for name in table)


def test_serving_needs_neither_training_nor_accelerate(runs, data):
    code = (
        "import sys\n"
        "from genrec import Recommender\n"
        "for run in sys.argv[1:]:\n"
        "    Recommender.from_pretrained(run, device='cpu').recommend(['B003'], k=3)\n"
        "wrong = ('accelerate', 'polars', 'gin', 'genrec.training', 'genrec.evaluation')\n"
        "print([name for name in sys.modules if name.startswith(wrong)])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(runs["generation"]), str(runs["SASRec"])],
        capture_output=True,
        text=True,
    )
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_unknown_items_are_still_named(runs):
    recommender = Recommender.from_pretrained(runs["Toy"], device="cpu")
    with pytest.raises(DataError, match="histories must hold items of the catalogue"):
        recommender.recommend(["nothing"])


def test_the_only_run_below_a_folder_is_opened(runs, tmp_path, capsys):
    shutil.copytree(runs["SASRec"], tmp_path / "below" / "amazon" / "beauty")
    assert load_ranker(tmp_path / "below").num_items == load_ranker(runs["SASRec"]).num_items
    assert "taking the run below it" in capsys.readouterr().err


def test_new_items_of_a_table_bring_their_texts_with_a_data_set(
    runs, data, table, tmp_path, write_data
):
    more = table.extended(["N1"], table.ids[:1])
    run, walks = runs["generation"], [[0, 1, 2]]
    vectors = np.random.default_rng(0).normal(size=(N, data.embedding_dim)).astype(np.float32)
    known = write_data(tmp_path / "known", KEYS, vectors, walks)
    Catalogue.from_data(known).save(run)
    same = write_data(tmp_path / "same", [*KEYS, "N1"], np.stack([*vectors, vectors[0]]), walks)
    found = load_trained(run, table=more, titles_from=same).catalogue.sketch
    assert found.shape == (N + 1, 64)
    np.testing.assert_allclose(found[N], found[0], rtol=1e-5)
    other = write_data(
        tmp_path / "other", [*KEYS, "N1"], np.stack([*vectors[::-1], vectors[0]]), walks
    )
    for source in (None, data, other):  # unknown, or of another encoder
        found = load_trained(run, table=more, titles_from=source).catalogue.sketch
        assert np.isnan(found[N]).all()
        assert np.isfinite(found[:N]).all()


def test_the_first_run_on_another_log_is_found():
    one, other = {"log_fingerprint": "a", "data_fingerprint": "x"}, {"log_fingerprint": "b"}
    assert find_other_log([one, one | {"data_fingerprint": "y"}, other]) == 2
    assert find_other_log([one, {"data_fingerprint": "x"}]) is None  # of an older version
    assert find_other_log([one, {"data_fingerprint": "y"}]) == 1
    assert find_other_log([one, {}]) is None
    assert find_other_log([one, {}], strict=True) == 1


def test_edited_metrics_are_not_believed(runs):
    run = runs["Toy"]
    evaluate_runs([run])
    kept = (run / "metrics.json").read_text()
    known = json.loads(kept)
    known["test"]["Toy"]["recall@10"] = 0.99
    (run / "metrics.json").write_text(json.dumps(known))
    with pytest.raises(ArtifactError, match=r"metrics.json must be as it was written, got"):
        evaluate_runs([run], reuse=True)
    with pytest.raises(ArtifactError, match=r"metrics.json must be as it was written, got"):
        check_metrics(run)  # before any work
    (run / "metrics.json").write_text(kept)
    check_metrics(run)
    evaluate_runs([run], reuse=True)


def test_a_data_set_that_was_prepared_again_is_refused(runs, capsys, write_data):
    """Its held-out items may be what the run was trained on."""
    run = runs["Toy"]
    evaluate_runs([run])
    kept = (run / "metrics.json").read_bytes()
    meta = json.loads((run / "meta.json").read_text())
    write_json_atomic(run / "meta.json", meta | {"log_fingerprint": "of another log"})
    with pytest.raises(ArtifactError, match="must be the one that it was trained on, got other"):
        evaluate_runs([run])
    capsys.readouterr()
    evaluate_runs([run], data=PreparedDataset.load(meta["prepared"]))
    assert "so metrics.json stays as it is" in capsys.readouterr().err
    assert (run / "metrics.json").read_bytes() == kept
