"""``metrics.jsonl``: one object a line, whole after an interruption."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from accelerate import Accelerator

from genrec.errors import ConfigError
from genrec.training import tracking
from genrec.training.tracking import Tracker


@pytest.fixture
def tracker(tmp_path) -> Tracker:
    return Tracker(Accelerator(cpu=True), tmp_path / "run")


def rows(tracker: Tracker) -> list[dict]:
    return [json.loads(line) for line in tracker.path.read_text().splitlines()]


def test_rows_are_appended_and_nothing_is_made_before(tracker):
    assert not tracker.path.parent.exists()
    tracker.log(1, {"train/loss": 0.5})
    tracker.log(2, {"train/loss": 0.25, "train/lr": 1e-3})
    assert rows(tracker) == [
        {"step": 1, "train/loss": 0.5},
        {"step": 2, "train/loss": 0.25, "train/lr": 1e-3},
    ]


def test_values_that_json_lacks_become_null(tracker):
    tracker.log(1, {"a": float("nan"), "b": float("inf"), "c": 0.0})
    assert tracker.path.read_text() == '{"step": 1, "a": null, "b": null, "c": 0.0}\n'


def test_truncation_drops_later_rows_and_a_half_written_one(tracker):
    for step in (10, 20, 30):
        tracker.log(step, {"loss": float(step)})
    with tracker.path.open("a") as file:
        file.write('{"step": 20, "loss": 2')  # the machine stopped in the middle of a line
    tracker.truncate(20)
    assert [row["step"] for row in rows(tracker)] == [10, 20]
    tracker.log(21, {"loss": 1.0})
    assert [row["step"] for row in rows(tracker)] == [10, 20, 21]


def test_the_test_of_a_run_is_logged_once_however_often_it_ends(tracker):
    for _ in range(3):
        tracker.truncate(12)
        if not tracker.path.exists():
            tracker.log(12, {"train/loss": 1.0})
        tracker.log(12, {"test/recall@5": 0.5})
    assert [set(row) - {"step"} for row in rows(tracker)] == [{"train/loss"}, {"test/recall@5"}]


def test_damaged_lines_are_left_out_with_a_warning(tracker):
    tracker.log(1, {"loss": 1.0})
    with tracker.path.open("ab") as file:
        file.write(b'[1]\n{"step": true}\n\xff\n{"step": 2, "loss": "x"}\n' + b"[" * 9999 + b"\n")
    tracker.log(2, {"loss": 2.0})
    with pytest.warns(UserWarning, match="has 5 damaged lines, left out"):
        tracker.truncate(9)
    assert [row["step"] for row in rows(tracker)] == [1, 2]


def test_truncation_without_a_file_is_fine(tracker):
    tracker.truncate(5)
    assert not tracker.path.exists()


def test_tracker_names_are_checked(monkeypatch):
    assert Tracker.check([]) == []
    with pytest.raises(ConfigError, match="must be one of tensorboard, wandb, mlflow, got 'mlfow'"):
        Tracker.check(["mlfow"])
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for name in ("tensorboard", "wandb", "mlflow"):
        with pytest.raises(
            ConfigError,
            match=rf"{name} must be installed.*pip install .*\[track\]",
        ):
            Tracker.check([name])


def test_external_trackers_start_with_the_first_row(tmp_path):
    """They make files and online runs of their own, so a run that fails early starts none."""
    calls = []

    class Service:
        def __init__(self, name):
            self.name = name

        def log(self, values, step):
            calls.append((self.name, step, values))

    class Fake:
        is_main_process = True
        log_with = ("wandb", "mlflow")
        trackers = (Service("wandb"), Service("mlflow"))

        def init_trackers(self, project, config, init_kwargs):
            calls.append(("init", project, config, init_kwargs["mlflow"]["run_name"]))

        def end_training(self):
            calls.append(("end",))

    never = tracking.Tracker(Fake(), tmp_path)
    never.close()
    assert calls == []
    run = tmp_path / "runs" / "decoder" / "mine"
    tracker = tracking.Tracker(Fake(), run, settings={"lr": 0.1, "sizes": [1, 2]})
    tracker.log(1, {"recall@5": 2.0})
    tracker.log(2, {"loss": 1.0})
    tracker.close()
    assert calls == [
        ("init", "genrec", {"lr": 0.1}, "runs/decoder/mine"),
        ("wandb", 1, {"recall@5": 2.0}),
        ("mlflow", 1, {"recall_at_5": 2.0}),
        ("wandb", 2, {"loss": 1.0}),
        ("mlflow", 2, {"loss": 1.0}),
        ("end",),
    ]


def test_a_tracker_that_does_not_start_is_one_line(tmp_path):
    class Broken:
        is_main_process = True
        log_with = ("wandb",)

        def init_trackers(self, *_, **__):
            raise RuntimeError("api_key not\nconfigured")

    with pytest.raises(ConfigError, match=r"wandb must start, got api_key not configured; "):
        tracking.Tracker(Broken(), tmp_path).log(1, {"loss": 1.0})


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize(
    ("name", "package", "left"),
    [
        ("tensorboard", "tensorboard", "run/genrec/events.out.tfevents.*"),
        ("wandb", "wandb", "run/wandb/offline-run-*/*.wandb"),
        ("mlflow", "mlflow", "mlruns/*/*/metrics/recall_at_5"),
    ],
)
def test_each_tracker_leaves_something(tmp_path, name, package, left):
    """In processes of their own, as these packages keep state in theirs."""
    pytest.importorskip(package)
    code = f"""
from accelerate import Accelerator
from genrec.training.tracking import Tracker
accelerator = Accelerator(cpu=True, log_with=Tracker.check([{name!r}]), project_dir="run")
tracker = Tracker(accelerator, "run", settings={{"lr": 0.1, "name": "x"}})
tracker.log(1, {{"recall@5": 0.5, "train/loss": 2.0}})
tracker.close()
"""
    env = {**os.environ, "WANDB_MODE": "offline", "MLFLOW_TRACKING_URI": "file:mlruns"}
    env["MLFLOW_ALLOW_FILE_STORE"] = "true"  # a server, or a database, is what MLflow wants
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, env=env
    )
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.glob(left))
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 1
