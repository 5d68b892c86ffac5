"""Run and step folders: round trips, pointers, what is deleted, what is refused."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from genrec.atomic import write_json_atomic
from genrec.checkpoint import RunDirectory, load_model_files, resolve_step, write_model_files
from genrec.errors import ArtifactError, MissingPathError

CONFIG = {"model": "Line", "width": 3, "sizes": [4, 4]}


def weights(value: float) -> dict[str, torch.Tensor]:
    return {
        "a": torch.full((2, 3), value),
        "b": torch.tensor([1, 2], dtype=torch.int64),
        "c": torch.tensor(True),
    }


def save(run: RunDirectory, step: int, *pointers: str, trainer: dict | None = None) -> None:
    run.save(
        step,
        weights=weights(float(step)),
        config=CONFIG,
        trainer=trainer or {"step": step},
        pointers=("latest", *pointers),
    )


def test_weights_of_every_type_come_back_and_may_share_memory(tmp_path):
    shared = torch.arange(6.0).view(2, 3)
    given = {**weights(1.5), "view": shared.T, "half": shared.half(), "again": shared}
    write_model_files(tmp_path / "model", weights=given, config=CONFIG)
    config, found = load_model_files(tmp_path / "model")
    assert config == CONFIG
    assert set(found) == set(given)
    for name, tensor in given.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor)


def test_a_best_that_was_lost_is_no_other_step(tmp_path):
    """As where a run was copied in part."""
    run = RunDirectory(tmp_path)
    save(run, 5, "best")
    save(run, 7)
    write_json_atomic(tmp_path / "meta.json", {"best": {"best": [5, 0.25]}})
    assert resolve_step(tmp_path).name == "step_5"
    (tmp_path / "best").unlink()
    with pytest.raises(ArtifactError, match=r"got .* has lost it; put it back with `echo step_5 >"):
        resolve_step(tmp_path)
    assert resolve_step(tmp_path, prefer=("latest",)).name == "step_7"
    (tmp_path / "meta.json").write_text("{")  # says nothing
    assert resolve_step(tmp_path).name == "step_7"


def test_trainer_state_round_trip(tmp_path):
    run = RunDirectory(tmp_path)
    parameter = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.AdamW([parameter], lr=0.1)
    parameter.grad = torch.full((3,), 0.5)
    optimizer.step()
    state = {
        "step": 7,
        "best": {"best": [5, 0.25]},
        "history": [[5, {"valid/recall@10": 0.25}]],
        "optimizer": optimizer.state_dict(),
        "scaler": None,
    }
    save(run, 7, trainer=state)
    found = run.load_trainer(run.step_path(7))
    assert found["best"] == state["best"]
    assert found["history"] == state["history"]
    moments = found["optimizer"]["state"][0]
    assert torch.equal(moments["exp_avg"], torch.full((3,), 0.05))


@pytest.mark.parametrize("content", ["", "step_", "step_9", "../run/step_1", "/", "step_1/.."])
def test_a_pointer_names_a_whole_step_of_its_run_or_is_none(tmp_path, content):
    run = RunDirectory(tmp_path / "run")
    save(run, 1, "best")
    (run.path / "best").write_text(content.replace("/", f"{run.path}/step_1", content == "/"))
    assert run.pointed("best") is None
    with pytest.raises(ArtifactError, match=r"best must name a step of the run, got .*run where"):
        resolve_step(run.path)
    assert resolve_step(run.path, prefer=("latest",)) == run.step_path(1)
    (run.path / "best").rename(run.path / "latest")
    with pytest.warns(UserWarning, match="has lost its latest; using step_1"):
        assert resolve_step(run.path) == run.step_path(1)


def test_files_of_a_step_have_the_usual_mode(tmp_path):
    before = os.umask(0o022)
    try:
        save(RunDirectory(tmp_path), 1)
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "step_1").iterdir()}
    assert set(modes.values()) == {0o644}, modes


def test_trainer_state_is_never_unpickled_as_code(tmp_path):
    run = RunDirectory(tmp_path)
    save(run, 1, trainer={"step": 1, "code": print})
    with pytest.raises(ArtifactError, match="Weights only load failed"):
        run.load_trainer(run.step_path(1))


def test_pointers_follow_and_pointed_steps_are_kept(tmp_path):
    run = RunDirectory(tmp_path, keep_last=2)
    save(run, 10, "best")
    for step in (20, 30, 40):
        save(run, step)
    assert run.steps() == [10, 30, 40]
    assert run.pointers() == {"latest": "step_40", "best": "step_10"}
    assert run.pointed("best") == run.step_path(10)
    save(run, 50, "best")
    assert run.steps() == [40, 50]
    assert run.pointed("worst") is None
    run.point("latest", 60)  # a pointer to what is not there is no answer
    assert run.pointed("latest") is None


def test_steps_are_ordered_as_numbers_and_half_written_ones_do_not_count(tmp_path):
    run = RunDirectory(tmp_path, keep_last=9)
    for step in (9, 100, 20):
        save(run, step)
    (tmp_path / "step_300").mkdir()
    (tmp_path / ".step_400.x.tmp").mkdir()
    (tmp_path / "step_backup").mkdir()
    assert run.steps() == [9, 20, 100]


def test_files_of_others_in_the_run_folder_survive(tmp_path):
    (tmp_path / "NOTES").write_bytes(b"\xff\xfe what I tried")
    (tmp_path / "TODO").write_text("step_1 is bad")
    run = RunDirectory(tmp_path, keep_last=1)
    save(run, 1)
    save(run, 2)
    assert run.steps() == [2]
    assert (tmp_path / "NOTES").exists()
    assert (tmp_path / "TODO").exists()


def test_a_path_may_be_a_run_a_step_or_a_file(tmp_path):
    run = RunDirectory(tmp_path / "run", keep_last=9)
    save(run, 1)
    save(run, 2, "best")
    save(run, 3)
    assert resolve_step(run.path) == run.step_path(2)
    assert resolve_step(run.path, prefer=("latest",)) == run.step_path(3)
    assert resolve_step(run.path, prefer=("none-such",)) == run.step_path(3)
    assert resolve_step(run.step_path(1)) == run.step_path(1)
    assert resolve_step(run.step_path(1) / "model.safetensors") == run.step_path(1)
    _, found = load_model_files(run.path, prefer=("latest",))
    assert found["a"][0, 0] == 3.0


@pytest.mark.parametrize("made", [True, False])
def test_a_folder_without_a_checkpoint_is_named(tmp_path, made):
    folder = tmp_path / "empty"
    if made:
        folder.mkdir()
    with pytest.raises(MissingPathError, match=r"must be a run folder or a step folder.*empty"):
        resolve_step(folder)


def test_a_step_without_trainer_state_cannot_be_resumed(tmp_path):
    write_model_files(tmp_path / "step_1", weights=weights(0.0), config=CONFIG)
    with pytest.raises(MissingPathError, match=r"resume needs trainer\.pt, got .*step_1"):
        RunDirectory(tmp_path).load_trainer(tmp_path / "step_1")


@pytest.mark.parametrize("file", ["model.safetensors", "config.json"])
def test_a_damaged_file_is_an_error_in_words(tmp_path, file):
    write_model_files(tmp_path / "model", weights=weights(0.0), config=CONFIG)
    path = tmp_path / "model" / file
    path.write_bytes(path.read_bytes()[:11])
    with pytest.raises(ArtifactError, match=rf"as it was written, got .*model with another {file}"):
        load_model_files(tmp_path / "model")


def test_a_run_that_is_cut_off_between_its_pointers_loses_none(tmp_path, monkeypatch):
    run = RunDirectory(tmp_path)
    run.save(1, weights={"w": torch.zeros(1)}, config={}, pointers=("latest", "best"))
    point = RunDirectory.point

    def cut_off(self, name, step):
        point(self, name, step)
        raise KeyboardInterrupt

    monkeypatch.setattr(RunDirectory, "point", cut_off)
    with pytest.raises(KeyboardInterrupt):
        run.save(2, weights={"w": torch.ones(1)}, config={}, pointers=("latest", "best"))
    # Going on from step 1 repeats step 2; had latest moved first, best would stay behind it.
    assert run.pointers() == {"latest": "step_1", "best": "step_2"}


class Killed(BaseException):
    """In place of a signal that no handler sees."""


@pytest.mark.parametrize("moves", range(14))
@pytest.mark.parametrize("what", ["set_aside", "restore"])
def test_a_run_killed_while_it_is_moved_is_put_back_whole(tmp_path, monkeypatch, what, moves):
    run = RunDirectory(tmp_path)
    save(run, 1, "best")
    save(run, 2)
    for name in ("config.gin", "meta.json", "metrics.jsonl"):
        (tmp_path / name).write_text(f"old {name}")
    (tmp_path / "catalogue").mkdir()
    (tmp_path / "catalogue" / "keys").write_text("a b")

    def contents() -> dict[str, bytes]:
        files = (path for path in tmp_path.rglob("*") if path.is_file())
        return {str(path.relative_to(tmp_path)): path.read_bytes() for path in files}

    before, left, rename = contents(), [moves], Path.rename

    def cut(path: Path, target: Path) -> Path:
        left[0] -= 1
        if left[0] < 0:
            raise Killed
        return rename(path, target)

    def stop_in(call) -> None:
        with monkeypatch.context() as patched:
            patched.setattr(Path, "rename", cut)
            try:
                call()
            except Killed:
                left[0] = 2  # the second try gets as far as this

    if what == "restore":
        run.set_aside()
        (tmp_path / "config.gin").write_text("new")
    stop_in(getattr(run, what))
    stop_in(run.restore)
    run.restore()
    assert contents() == before
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_a_run_that_waits_is_not_lost_to_a_second_one_without_a_checkpoint(tmp_path):
    run = RunDirectory(tmp_path)
    save(run, 1)
    run.set_aside()
    (tmp_path / "config.gin").write_text("new")  # killed here, and replaced at once
    run.set_aside()
    assert run.restore()
    assert run.steps() == [1]
