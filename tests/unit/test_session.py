"""What a run needs before its loop: the folder, what may be replaced, what is refused."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass, replace

import pytest
import torch
from accelerate import Accelerator

from genrec.atomic import read_json
from genrec.errors import ConfigError, DataError
from genrec.settings import setting
from genrec.tokenizer.semantic_id import SemanticIdTokenizer
from genrec.training.session import (
    on_main_first,
    open_run,
    read_meta,
    run_path,
    start_session,
    write_meta,
)
from genrec.training.settings import TrainingSettings


@pytest.fixture
def settings(tmp_path) -> TrainingSettings:
    return TrainingSettings(save_dir_root=str(tmp_path / "runs"), dataset_split="beauty")


def finished_run(settings: TrainingSettings) -> None:
    """Leave a run with one checkpoint, its metrics, an ID table and a file of the user."""
    session = start_session(settings)
    open_run(session, {"seed": 1, "settings": settings.as_dict()})
    session.run_dir.save(5, weights={"w": torch.ones(2)}, config={}, trainer={"step": 5})
    session.tracker.log(5, {"loss": 1.0})
    (run_path(settings) / "metrics.json").write_text("{}")
    SemanticIdTokenizer([[0], [1]], level_sizes=(2,)).save(run_path(settings) / "semantic_ids")
    (run_path(settings) / "NOTES").write_text("mine")


def contents(settings: TrainingSettings) -> dict[str, bytes]:
    """Read all files of a run except those of its lock."""
    found = run_path(settings).rglob("*")
    files = (path for path in found if path.is_file() and not path.name.startswith(".lock"))
    return {str(path.relative_to(run_path(settings))): path.read_bytes() for path in files}


def test_the_run_lies_below_its_split():
    settings = TrainingSettings(save_dir_root="runs/rqvae/amazon", dataset_split="beauty")
    assert str(run_path(settings)) == "runs/rqvae/amazon/beauty"
    assert str(run_path(replace(settings, dataset_split=None))) == "runs/rqvae/amazon"


def test_checkpoints_come_by_time_every_five_minutes_unless_told_otherwise(settings):
    for given, seconds in ((settings, 300.0), (replace(settings, save_every_minutes=0.5), 30.0)):
        session = start_session(replace(given, iterations=3, overwrite=True))
        assert session.rhythm(10).save_every_s == seconds


def test_nothing_is_written_before_the_run_opens(settings):
    session = start_session(settings)
    assert not run_path(settings).exists()
    open_run(session, {"seed": 7, "dataset": "tiny"})
    assert set(contents(settings)) == {"config.gin", "meta.json"}
    assert "train.seed = 0\n" in (run_path(settings) / "config.gin").read_text()
    meta = read_json(run_path(settings) / "meta.json")
    assert meta["seed"] == 7
    assert meta["torch"] == torch.__version__
    assert meta["num_processes"] == 1
    assert {"genrec", "commit", "python", "device", "mixed_precision", "command"} <= set(meta)


def test_an_older_run_is_neither_mixed_in_nor_lost_by_accident(settings):
    finished_run(settings)
    before = contents(settings)
    with pytest.raises(ConfigError, match=r"must be new, got .*beauty with step_5; add --resume"):
        start_session(settings)
    start_session(replace(settings, overwrite=True))  # then the data turns out to be missing
    assert contents(settings) == before


def test_overwrite_removes_the_old_run_and_nothing_else(settings):
    finished_run(settings)
    old = contents(settings)
    session = start_session(replace(settings, overwrite=True))
    open_run(session, {"seed": 2})
    waiting = {f".replaced/{name}": file for name, file in old.items() if name != "NOTES"}
    assert waiting.items() <= contents(settings).items()
    session.run_dir.save(1, weights={"w": torch.ones(2)}, config={})
    kept = {name for name in contents(settings) if not name.startswith("step_1/")}
    assert kept == {"config.gin", "meta.json", "NOTES", "latest"}
    assert read_json(run_path(settings) / "meta.json")["seed"] == 2


def test_a_run_that_dies_before_its_first_checkpoint_gives_the_old_one_back(settings, capsys):
    finished_run(settings)
    old = contents(settings)
    open_run(start_session(replace(settings, overwrite=True)), {"seed": 2})
    assert contents(settings) != old
    start_session(replace(settings, resume=True))  # as after a kill
    assert contents(settings) == old
    assert "put back" in capsys.readouterr().out


def test_a_run_in_a_folder_with_other_files_deletes_none(tmp_path):
    for name in ("LICENSE", "Makefile", "data.csv"):
        (tmp_path / name).write_text("step by step\n")
    open_run(start_session(TrainingSettings(save_dir_root=str(tmp_path))), {})
    assert {"LICENSE", "Makefile", "data.csv"} <= {path.name for path in tmp_path.iterdir()}


def test_resume_keeps_everything_and_names_the_step(settings):
    finished_run(settings)
    before = contents(settings)
    session = start_session(replace(settings, resume=True))
    assert session.resume_step == run_path(settings) / "step_5"
    open_run(session, {"extra": 1})
    after = contents(settings)
    assert {k: v for k, v in after.items() if k != "meta.json"} == {
        k: v for k, v in before.items() if k != "meta.json"
    }
    assert read_json(run_path(settings) / "meta.json")["seed"] == 1


def test_resume_without_a_checkpoint_begins(settings):
    assert start_session(replace(settings, resume=True)).resume_step is None
    assert not run_path(settings).exists()
    open_run(start_session(replace(settings, resume=True)), {"seed": 2})  # dies before it saves
    session = start_session(replace(settings, resume=True))
    open_run(session, {"seed": 3})
    assert (session.resume_step, read_meta(run_path(settings))["seed"]) == (None, 3)


@pytest.mark.parametrize("content", [None, b"", b"step", b"step_9", b"step_1/../..", b"\xff" * 99])
def test_a_lost_latest_costs_nothing(settings, capsys, content):
    finished_run(settings)
    session = start_session(replace(settings, resume=True))
    session.run_dir.save(7, weights={"w": torch.ones(2)}, config={}, trainer={"step": 7})
    session.lock.release()
    latest = run_path(settings) / "latest"
    latest.unlink() if content is None else latest.write_bytes(content)
    before = contents(settings)
    with pytest.raises(ConfigError, match=r"must be new, got .*beauty with step_7; add --resume"):
        start_session(settings)
    session = start_session(replace(settings, resume=True))
    assert session.resume_step == run_path(settings) / "step_7"
    assert "has lost its latest; going on from step_7" in capsys.readouterr().out
    assert contents(settings) == before


def test_steps_that_lack_files_are_not_cleared_either(settings):
    finished_run(settings)
    (run_path(settings) / "step_5" / "model.safetensors").unlink()
    with pytest.raises(ConfigError, match=r"a whole step, got .* with only step_5, which lacks"):
        start_session(replace(settings, resume=True))
    with pytest.raises(ConfigError, match=r"must be new, got .* with step_5"):
        start_session(settings)
    open_run(start_session(replace(settings, overwrite=True)), {})
    assert (run_path(settings) / ".replaced" / "step_5" / "trainer.pt").is_file()


def test_a_changed_setting_is_named_and_refused(settings):
    finished_run(settings)
    again = replace(settings, resume=True)
    free = {"log_every": 3, "save_model_every": 9, "save_every_minutes": 0.0, "overwrite": True}
    assert start_session(replace(again, **free)).resume_step is not None
    changed = replace(again, batch_size=16, amp=True)
    with pytest.raises(ConfigError, match=r"got batch_size 256 -> 16, amp False -> True; put it"):
        start_session(changed)
    session = start_session(replace(changed, resume_changed=True))
    open_run(session, {"settings": changed.as_dict()})
    meta = read_meta(run_path(settings))
    assert meta["changes"] == [{"step": 5, "batch_size": [256, 16], "amp": [False, True]}]
    session.lock.release()
    assert start_session(changed).resume_step is not None  # it is the run's setting now


@pytest.mark.parametrize(
    ("known", "found", "message"),
    [
        ({"num_processes": 2}, {}, "got num_processes 2 -> 1;"),
        ({"data_fingerprint": "a"}, {"data_fingerprint": "b"}, "data_fingerprint 'a' -> 'b';"),
        ({"ids_fingerprint": "a"}, {"ids_fingerprint": "b"}, "ids_fingerprint 'a' -> 'b';"),
    ],
)
def test_changed_processes_and_data_are_refused(settings, known, found, message):
    finished_run(settings)
    session = start_session(replace(settings, resume=True))
    write_meta(session, known)
    with pytest.raises(ConfigError, match=message):
        open_run(session, found)


def test_lengths_may_change_under_a_constant_schedule(settings):
    @dataclass(frozen=True, kw_only=True)
    class Scheduled(TrainingSettings):
        schedule: str = setting("Shape", "constant")

    constant = Scheduled(**vars(settings) | {"iterations": 5})
    finished_run(constant)
    longer = replace(constant, resume=True, iterations=9)
    assert start_session(longer).resume_step is not None
    with pytest.raises(ConfigError, match=r"got iterations 5 -> 9, schedule 'constant' -> 'linea"):
        start_session(replace(longer, schedule="linear"))


def test_a_running_run_is_neither_resumed_nor_replaced(settings):
    session = start_session(settings)
    open_run(session, {"seed": 1})
    before = contents(settings)
    for other in (settings, replace(settings, resume=True), replace(settings, overwrite=True)):
        with pytest.raises(ConfigError, match=rf"which process {os.getpid()} on \S+ trains; wait"):
            start_session(other)
    assert contents(settings) == before
    session.lock.release()
    start_session(settings)


def test_two_that_start_together_do_not_both_begin(settings):
    first, second = start_session(settings), start_session(settings)
    open_run(first, {"seed": 1})
    with pytest.raises(ConfigError, match="run folder must be free"):
        open_run(second, {"seed": 2})
    first.run_dir.save(1, weights={"w": torch.ones(2)}, config={})
    first.lock.release()
    with pytest.raises(ConfigError, match=r"run folder must be new, got .* with step_1"):
        open_run(second, {"seed": 2})
    assert read_meta(run_path(settings))["seed"] == 1


def test_the_lock_of_a_dead_process_is_free(settings):
    run_path(settings).mkdir(parents=True)
    code = (
        "import os, signal, sys\nfrom genrec.run_lock import RunLock\n"
        "RunLock(sys.argv[1]).acquire()\nos.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(run_path(settings))], check=False)
    assert done.returncode == -signal.SIGKILL
    assert (run_path(settings) / ".lock.owner").is_file()
    open_run(start_session(settings), {})


def test_leftovers_of_a_kill_are_swept(settings):
    finished_run(settings)
    run = run_path(settings)
    for name in (".step_6.abcd1234.tmp", ".step_4.abcd1234.old", ".step_5.abcd1234.old"):
        shutil.copytree(run / "step_5", run / name)
    (run / ".latest.abcd1234.tmp").write_text("step_6")
    (run / ".mine.tmp").write_text("not ours")
    before = contents(settings)
    start_session(replace(settings, resume=True))
    left = {p.name for p in run.iterdir()} - {name.split("/")[0] for name in before}
    assert left == {"step_4", ".lock", ".lock.owner"}  # its successor never came
    assert (run / ".mine.tmp").is_file()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"amp": True, "mixed_precision_type": "int8"},
            "mixed_precision_type must be known, got 'int8'",
        ),
        (
            {"trackers": ("mlfow",)},
            "tracker must be one of tensorboard, wandb, mlflow, got 'mlfow'",
        ),
    ],
)
def test_bad_settings_are_refused(settings, change, message):
    with pytest.raises(ConfigError, match=message):
        start_session(replace(settings, **change))


@pytest.mark.skipif(torch.cuda.is_available(), reason="fp16 is fine on a GPU")
def test_fp16_needs_a_gpu(settings):
    with pytest.raises(ConfigError, match="fp16 must run on a GPU, got none"):
        start_session(replace(settings, amp=True, mixed_precision_type="fp16"))


def test_meta_data_adds_up(settings):
    session = start_session(settings)
    open_run(session, {"seed": 3})
    write_meta(session, {"train_seconds": 1.5})
    meta = read_json(run_path(settings) / "meta.json")
    assert (meta["seed"], meta["train_seconds"]) == (3, 1.5)


def test_a_finished_run_that_goes_on_is_not_finished(settings):
    session = start_session(settings)
    open_run(session, {"settings": settings.as_dict()})
    session.run_dir.save(5, weights={"w": torch.ones(2)}, config={}, trainer={"step": 5})
    write_meta(session, {"train_seconds": 1.0, "steps": 5, "best": {"best": [5, 0.5]}, "more": 1})
    session.lock.release()
    again = start_session(replace(settings, resume=True))
    open_run(again, {"settings": settings.as_dict()})
    meta = read_meta(run_path(settings))
    assert not {"train_seconds", "steps", "best"} & set(meta)
    assert meta["more"] == 1


def test_the_session_is_seeded(settings):
    start_session(replace(settings, seed=11))
    first = torch.rand(3)
    start_session(replace(settings, seed=11))
    assert torch.equal(first, torch.rand(3))


def test_on_main_first_works_once_and_lets_errors_through():
    calls = []
    accelerator = Accelerator(cpu=True)
    assert on_main_first(accelerator, lambda: calls.append(os.getpid()) or "data") == "data"
    assert len(calls) == 1

    def fail() -> None:
        raise DataError("rows must be finite, got NaN; repair them")

    with pytest.raises(DataError, match="rows must be finite"):
        on_main_first(accelerator, fail)
