"""The run that a folder means."""

from __future__ import annotations

import json
import os

import pytest
from typer.testing import CliRunner

from genrec.cli import build_app
from genrec.errors import ConfigError, MissingPathError
from genrec.run_lock import RunLock
from genrec.runs import find_run, list_runs, warn_if_stopped, warn_of_journal
from genrec.training.tokenizer_run import find_tokenizer


def make(folder):
    (folder / "step_1").mkdir(parents=True)
    (folder / "meta.json").write_text("{}")
    return folder


def test_a_run_is_itself(tmp_path, capsys):
    run = make(tmp_path / "run")
    make(run / "other")  # inside a run nothing is looked for
    assert find_run(run) == run
    assert capsys.readouterr().err == ""


def test_the_only_run_below_is_opened_and_said(tmp_path, capsys):
    run = make(tmp_path / "amazon" / "beauty")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "meta.json").write_text("{}")  # a prepared data set
    assert find_run(tmp_path) == find_run(tmp_path / "amazon") == run
    assert f"taking the run below it, {run}" in capsys.readouterr().err


def test_several_are_named(tmp_path):
    runs = [make(tmp_path / name) for name in ("beauty", "toys")]
    with pytest.raises(ConfigError, match=f"2 runs below it; name one of {runs[0]}, {runs[1]}"):
        find_run(tmp_path)


def test_where_there_is_none_the_folder_stays(tmp_path):
    assert find_run(tmp_path) == tmp_path
    assert find_run(tmp_path / "nowhere") == tmp_path / "nowhere"


def test_stage_one_is_found_below_its_folder(tmp_path):
    run = make(tmp_path / "amazon" / "beauty")
    make(run / "semantic_ids")
    make(tmp_path / "amazon" / "unfinished")  # without IDs
    assert find_tokenizer(str(tmp_path / "amazon"), None) == run
    with pytest.raises(MissingPathError, match=r"got .*amazon/toys"):
        find_tokenizer(str(tmp_path / "amazon"), "toys")
    make(make(tmp_path / "amazon" / "toys") / "semantic_ids")
    with pytest.raises(ConfigError, match="name one of"):
        find_tokenizer(str(tmp_path / "amazon"), None)


def trained(folder, meta, *, at, step=5, metrics=None):
    """A run as a training leaves it, written to at some second."""
    where = folder / f"step_{step}"
    where.mkdir(parents=True)
    for name in ("model.safetensors", "config.json"):
        (where / name).write_text("{}")
    (folder / "config.gin").write_text("")
    (folder / "meta.json").write_text(json.dumps(meta))
    if metrics is not None:
        (folder / "metrics.json").write_text(json.dumps(metrics))
    for file in folder.iterdir():
        os.utime(file, (at, at))
    return folder


@pytest.fixture
def shelf(tmp_path):
    """Runs of all kinds, the newest last."""
    root = tmp_path / "runs"
    row = {"recall@10": 0.25, "ndcg@10": 0.125}
    trained(
        root / "rqvae" / "amazon" / "beauty",
        {"train_seconds": 3, "dataset": "b", "evaluation": {"eval/r2": 0.5}},
        at=1000,
    )
    test = {"settings": {}, "popularity": {"recall@10": 0.9}, "generation": row}
    trained(
        root / "decoder" / "amazon",
        {"train_seconds": 3, "dataset": "b", "validation": {"recall@10": 0.5}},
        at=2000,
        metrics={"test": test},
    )
    trained(root / "decoder" / "cut", {"dataset": "b", "validation": "x"}, at=3000)
    (root / "sasrec" / "begun").mkdir(parents=True)
    (root / "sasrec" / "begun" / "config.gin").write_text("")
    (root / "sasrec" / "begun" / "meta.json").write_text('{"stage": 3}')
    return root


def test_what_a_user_of_a_run_may_not_know_is_said(shelf, capsys):
    warn_if_stopped(shelf / "decoder" / "amazon")
    warn_of_journal(shelf / "decoder" / "amazon")
    assert capsys.readouterr().err == ""
    warn_if_stopped(shelf / "decoder" / "cut")
    assert "decoder/cut was stopped before its end" in capsys.readouterr().err
    (shelf / "decoder" / "amazon.journal").write_text("")
    warn_of_journal(shelf / "decoder" / "amazon")
    assert capsys.readouterr().err == ""
    (shelf / "decoder" / "amazon.journal").write_text("x")
    warn_of_journal(shelf / "decoder" / "amazon")
    assert "stand in" in capsys.readouterr().err


def test_runs_are_listed_newest_first(shelf):
    found = list_runs(shelf)
    assert [(run.stage, run.name) for run in found] == [
        ("sasrec", "begun"),
        ("decoder", "cut"),
        ("decoder", "amazon"),
        ("rqvae", "amazon/beauty"),
    ]
    assert [(run.metric, run.value) for run in found] == [
        (None, None),
        (None, None),
        ("valid recall@10", 0.5),
        ("R2", 0.5),
    ]
    assert [run.state for run in found] == ["stopped", "stopped", "finished", "finished"]
    assert [run.step for run in found] == [None, 5, 5, 5]
    assert [run.data for run in found] == [None, "b", "b", "b"]
    assert list_runs(shelf / "decoder" / "amazon") == [found[2]]


def test_a_run_that_trains_says_so(shelf):
    lock = RunLock(shelf / "decoder" / "cut")
    lock.acquire()
    assert {run.name: run.state for run in list_runs(shelf)}["cut"] == "training"
    lock.release()
    assert {run.name: run.state for run in list_runs(shelf)}["cut"] == "stopped"


@pytest.mark.parametrize(
    ("file", "content", "state"),
    [
        ("meta.json", None, "damaged"),
        ("meta.json", "[1]", "damaged"),
        ("meta.json", '{"train_seconds": 3, "dataset": 7, "evaluation": [1]}', "finished"),
        ("metrics.json", "{", "finished"),
        ("metrics.json", '{"test": [1], "valid": {"x": {"recall@10": null}}}', "finished"),
        ("metrics.json", '{"test": {"x": {"recall@10": NaN}}}', "finished"),
        ("metrics.json", '{"test": {"x": {"recall@10": 0.9}}, "seal": "edited"}', "finished"),
        ("step_5/model.safetensors", None, "damaged"),
    ],
)
def test_damage_is_shown_and_hides_no_other_run(shelf, file, content, state):
    broken = shelf / "decoder" / "amazon" / file
    broken.unlink() if content is None else broken.write_text(content)
    found = {run.name: run for run in list_runs(shelf)}
    assert len(found) == 4
    assert found["amazon"].state == state
    call = CliRunner().invoke(build_app(), ["runs", str(shelf)])
    assert call.exit_code == 0
    assert call.stdout.count("\n") == 5


def test_the_command(shelf, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    call = CliRunner().invoke(build_app(), ["runs"])
    assert call.exit_code == 0
    head, *rows = call.stdout.splitlines()
    assert head.split() == ["changed", "stage", "recipe", "data", "best", "state", "folder"]
    assert rows[2].endswith("b     valid recall@10 0.5000  finished, step 5  runs/decoder/amazon")
    lines = CliRunner().invoke(build_app(), ["runs", "runs", "--json"]).stdout.splitlines()
    assert json.loads(lines[2])["value"] == 0.5
    (tmp_path / "empty").mkdir()
    assert "no runs below empty" in CliRunner().invoke(build_app(), ["runs", "empty"]).stdout
    call = CliRunner().invoke(build_app(), ["runs", "nowhere"])
    assert (call.exit_code, call.stderr.count("\n")) == (2, 1)
    assert call.stderr.startswith("error: folder of runs must exist, got nowhere")


def test_a_saved_recommender_is_no_damage_and_a_test_figure_is_the_last_resort(tmp_path):
    rows = {"settings": {}, "generation": {"recall@10": 0.25}}
    saved = trained(tmp_path / "saved", {}, at=1000, step=0, metrics={"test": rows})
    (saved / "config.gin").unlink()
    (run,) = list_runs(tmp_path)
    assert (run.state, run.step, run.metric) == ("saved", None, "test recall@10")
    (tmp_path / "onnx").mkdir()
    (tmp_path / "onnx" / "step_0.onnx").write_text("")
    (tmp_path / "onnx" / "meta.json").write_text("[" * 100_000)
    (saved / "metrics.json").write_text("[" * 100_000)
    assert [found.metric for found in list_runs(tmp_path)] == [None]


def test_links_upwards_and_to_the_same_place_are_not_followed(tmp_path):
    """A link to a folder above would list runs of others, and the same ones again and again."""
    make(tmp_path / "other" / "decoder" / "foreign")
    root = tmp_path / "shop" / "runs"
    make(root / "decoder" / "own")
    make(tmp_path / "disk" / "far")
    for name, target in (("up", ".."), ("loop", "."), ("above", "../.."), ("root", "/")):
        (root / name).symlink_to(target)
    (root / "decoder" / "again").symlink_to(root / "decoder" / "own")
    (root / "decoder" / "linked").symlink_to(tmp_path / "disk" / "far")
    found = sorted(run.path for run in list_runs(root))
    assert found == [root / "decoder" / "linked", root / "decoder" / "own"]
    (tmp_path / "link").symlink_to(root)
    assert len(list_runs(tmp_path / "link")) == 2


def test_a_run_shows_its_recipe_whatever_it_is_called(shelf):
    """A name given with --name is in the folder's column; the recipe is what it was trained by."""
    for folder, recipe in [("amazon", "decoder/sample"), ("cut", "mine/own.gin")]:
        path = shelf / "decoder" / folder / "meta.json"
        path.write_text(json.dumps({"train_seconds": 3, "settings": {"recipe": recipe}}))
    trained(shelf / "rqvae" / "short", {"settings": {"recipe": "rkmeans/sample"}}, at=1)
    found = {f"{run.stage}/{run.name}": run.recipe for run in list_runs(shelf)}
    assert found == {
        "decoder/amazon": "sample",
        "decoder/cut": "mine/own.gin",
        "rqvae/amazon/beauty": "amazon",  # by its folder: an older version did not record it
        "rqvae/short": "rkmeans/sample",
        "sasrec/begun": None,
    }


@pytest.mark.parametrize(
    ("model", "stage"),
    [("ItemTokenRetrievalModel", "decoder"), ("SasRec", "sasrec"), (None, "-"), ([1], "-")],
)
def test_a_saved_recommender_is_called_so(tmp_path, model, stage):
    saved = trained(tmp_path / "shop", {"stage": "retrieval", "model": model}, at=1000, step=0)
    (saved / "config.gin").unlink()
    row = CliRunner().invoke(build_app(), ["runs", str(tmp_path)]).stdout.splitlines()[1]
    cells = [cell for cell in row.split("  ") if cell.strip()]
    assert [cell.strip() for cell in cells[1:-1]] == [stage, "-", "-", "-", "saved recommender"]
