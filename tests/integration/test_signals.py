"""A training that is told to end, or whose launcher dies, saves, stops, and can be resumed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from genrec.checkpoint import RunDirectory

TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
ACCELERATE = ["-m", "accelerate.commands.launch", "--cpu", "--num_processes", "1"]
ACCELERATE += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]


def wait_for(condition: Callable[[], bool], what: str, seconds: float = 90) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, f"waited {seconds} s for {what}"
        time.sleep(0.05)


def children(process: int) -> list[int]:
    """List the processes that a process has started."""
    found = Path(f"/proc/{process}/task/{process}/children").read_text()
    return [int(word) for word in found.split()]


def alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.fixture
def start(workshop, sample_tokenizer, repository, tmp_path):
    """A function that starts a long training and returns it once it trains."""
    data = json.loads((sample_tokenizer / "meta.json").read_text())["prepared"]
    started: list[subprocess.Popen] = []

    def run(launcher: list[str], **changed: object) -> tuple[subprocess.Popen, RunDirectory]:
        settings = {
            "dataset_folder": data,
            "dataset_split": None,
            "save_dir_root": str(tmp_path / "run"),
            "iterations": 100_000,
            "epochs": None,
            "eval_every": 0,
            "log_every": 1,
            **changed,
        }
        words = [w for k, v in settings.items() for w in ("--gin", f"train.{k}={v!r}")]
        script = str(repository / "scripts" / "train_rqvae.py")
        with (tmp_path / "stderr").open("w") as errors:
            process = subprocess.Popen(
                [sys.executable, *launcher, script, "configs/rqvae/paper_sample.gin", *words],
                cwd=repository,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                env={**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"},
            )
        started.append(process)
        lines = tmp_path / "run" / "metrics.jsonl"
        wait_for(lambda: process.poll() is not None or lines.is_file(), "the first step")
        assert process.poll() is None, (tmp_path / "stderr").read_text()
        return process, RunDirectory(tmp_path / "run")

    yield run
    for process in started:
        if process.poll() is None:
            process.kill()
            process.wait()


def assert_saved(run: RunDirectory) -> None:
    """Make sure that the run stopped with a checkpoint of its last logged step."""
    steps = run.steps()
    assert len(steps) == 1
    assert run.newest() == run.step_path(steps[0])
    lines = (run.path / "metrics.jsonl").read_text().splitlines()
    logged = [json.loads(line)["step"] for line in lines]
    assert logged == list(range(1, steps[0] + 1))
    assert not list(run.path.glob(".step_*"))


def test_sigterm_ends_with_its_status(start):
    process, run = start([])
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 143
    assert_saved(run)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_processes_of_torchrun_save_the_step_they_agree_on(start, number, tmp_path):
    process, run = start(TORCHRUN)
    workers = children(process.pid)
    if number == signal.SIGINT:  # as the terminal does it: to all of them
        for worker in workers:
            os.kill(worker, number)
    process.send_signal(number)
    assert process.wait(90) != 0
    assert not any(map(alive, workers))
    assert_saved(run)
    assert (tmp_path / "stderr").read_text().count("stopping after this step") == 1


@pytest.mark.parametrize("launcher", [TORCHRUN, ACCELERATE], ids=["torchrun", "accelerate"])
def test_an_orphan_saves_and_stops(start, launcher, tmp_path):
    process, run = start(launcher)
    workers = children(process.pid)
    process.kill()
    process.wait()
    wait_for(lambda: not any(map(alive, workers)), "the end of the orphans")
    assert "the launcher of this process died" in (tmp_path / "stderr").read_text()
    assert_saved(run)


@pytest.mark.parametrize("victim", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_a_dead_peer_ends_the_others_with_one_line(start, victim, tmp_path):
    process, run = start(TORCHRUN, save_model_every=1)
    wait_for(lambda: len(run.steps()) > 0, "a checkpoint")
    workers = children(process.pid)
    os.kill(workers[victim], signal.SIGKILL)
    # Ours ends in a tenth of a second, torchrun only after a second of work of its own.
    wait_for(lambda: not any(map(alive, workers)), "the end of the other", seconds=5)
    assert process.wait(30) != 0
    said = (tmp_path / "stderr").read_text()
    assert said.count("error: processes must go on until all are done, got one that is gone") == 1
    assert "[rank" not in said  # where PyTorch begins the lines of a process's traceback
    reached = max(run.steps())
    more = {"resume": True, "resume_changed": True, "iterations": reached + 1}
    process, run = start(TORCHRUN, save_model_every=1, **more)
    assert process.wait(60) == 0, (tmp_path / "stderr").read_text()
    assert max(run.steps()) == reached + 1
