"""What both stages do before and after their loop: processes, run folder, meta data, tracking."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list

from genrec.atomic import atomic_file, read_json, write_json_atomic
from genrec.checkpoint import RunDirectory
from genrec.errors import ConfigError
from genrec.tokenizer.semantic_id import ARTIFACT_NAME
from genrec.training.loop import FitResult
from genrec.training.processes import start_accelerator
from genrec.training.seeding import seed_everything
from genrec.training.tracking import Tracker
from genrec.version import __version__

__all__ = [
    "Session",
    "SessionSettings",
    "conclude",
    "on_main_first",
    "open_run",
    "run_path",
    "start_session",
    "write_meta",
]

PRECISIONS = ("no", "fp16", "bf16")


@dataclass(frozen=True)
class SessionSettings:
    """How a run is set up.

    Attributes:
        path: The run's folder.
        seed: Of everything random.
        amp: Whether to use mixed precision.
        mixed_precision_type: ``fp16`` or ``bf16``, with ``amp``.
        trackers: External trackers, of ``tensorboard`` and ``wandb``.
        wandb_logging: The same as naming ``wandb`` among them.
        resume: Whether to go on from the run's latest checkpoint.
        overwrite: Whether an older run in the folder may be deleted.
        keep_last: Newest checkpoints to keep.
    """

    path: Path
    seed: int = 0
    amp: bool = False
    mixed_precision_type: str = "bf16"
    trackers: tuple[str, ...] = ()
    wandb_logging: bool = False
    resume: bool = False
    overwrite: bool = False
    keep_last: int = 2


@dataclass(frozen=True)
class Session:
    """A run that is ready to train.

    Attributes:
        accelerator: Processes, device and precision.
        run_dir: The run's folder.
        tracker: Where metrics go.
        resume_step: Checkpoint to go on from, or None.
    """

    accelerator: Accelerator
    run_dir: RunDirectory
    tracker: Tracker
    resume_step: Path | None

    def say(self, text: str) -> None:
        """Print a line on the main process."""
        if self.accelerator.is_main_process:
            print(text, flush=True)


def run_path(save_dir_root: str | os.PathLike[str], split: str | None) -> Path:
    """Name the folder of a run: the root, and the data set's split below it.

    Args:
        save_dir_root: The setting of that name.
        split: For example ``beauty``, or None where the data set has none.

    Returns:
        The folder.
    """
    root = Path(save_dir_root)
    return root / split if split else root


def start_session(settings: SessionSettings) -> Session:
    """Set up processes, seeds and tracking; nothing is written yet.

    Args:
        settings: What to set up.

    Returns:
        The session, on every process.

    Raises:
        ConfigError: If the precision is unknown, the folder holds a run that is neither to be
            resumed nor overwritten, or there is nothing to resume.
    """
    if settings.mixed_precision_type not in PRECISIONS:
        raise ConfigError(
            f"mixed_precision_type must be one of {', '.join(PRECISIONS)}, got "
            f"{settings.mixed_precision_type!r}; bf16 is the safe choice on recent GPUs"
        )
    precision = settings.mixed_precision_type if settings.amp else "no"
    if precision == "fp16" and not torch.cuda.is_available():
        raise ConfigError(
            "mixed_precision_type fp16 must run on a GPU, got none; set "
            "train.mixed_precision_type='bf16' or train.amp=False"
        )
    named = [*settings.trackers, *(["wandb"] if settings.wandb_logging else [])]
    trackers = Tracker.check(list(dict.fromkeys(named)))
    accelerator = start_accelerator(
        mixed_precision=precision,
        log_with=list(trackers) or None,
        project_dir=str(settings.path),
    )
    seed_everything(settings.seed)
    run_dir = RunDirectory(settings.path, keep_last=settings.keep_last)
    resume_step = run_dir.pointed("latest")
    if settings.resume and resume_step is None:
        raise ConfigError(
            f"resume needs a run with a checkpoint, got none in {settings.path}; start it without "
            "--resume"
        )
    if resume_step is not None and not settings.resume and not settings.overwrite:
        raise ConfigError(
            f"run folder must be new, got {settings.path} with {resume_step.name}; add --resume to "
            "go on, set another train.save_dir_root, or replace it with train.overwrite=True"
        )
    tracker = Tracker(accelerator, settings.path)
    return Session(accelerator, run_dir, tracker, resume_step if settings.resume else None)


def open_run(session: Session, values: Mapping[str, Any], *, config_text: str = "") -> None:
    """Make the run's folder, in place of an older run, and say in it what the run is.

    Call it when data and settings are known to be good, so that a mistake in them leaves
    nothing behind and costs no older run.

    Args:
        session: The run.
        values: What the stage adds to ``meta.json``; see :func:`write_meta`.
        config_text: Operative configuration, kept as ``config.gin``.
    """
    session.accelerator.wait_for_everyone()  # everybody has looked before anything changes
    run_dir = session.run_dir
    if session.accelerator.is_main_process:
        if session.resume_step is None:
            _clear(run_dir)
        run_dir.path.mkdir(parents=True, exist_ok=True)
        if config_text:
            with atomic_file(run_dir.path / "config.gin") as temporary:
                temporary.write_text(config_text, encoding="utf-8")
    write_meta(session, values)
    session.accelerator.wait_for_everyone()


def write_meta(session: Session, values: Mapping[str, Any]) -> None:
    """Write ``meta.json``: versions, machine, commit, and what the stage adds.

    Args:
        session: The run.
        values: For example data fingerprint, seed and results; merged over what is there.
    """
    if not session.accelerator.is_main_process:
        return
    path = session.run_dir.path / "meta.json"
    known = read_json(path) if path.is_file() else {}
    base = {
        "genrec": __version__,
        "commit": _commit(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "device": str(session.accelerator.device),
        "num_processes": session.accelerator.num_processes,
        "mixed_precision": session.accelerator.mixed_precision,
        "command": " ".join(sys.argv),
    }
    write_json_atomic(path, {**known, **base, **values})


def conclude(session: Session, result: FitResult) -> None:
    """Say what the training of a retrieval model came to, and note it in ``meta.json``.

    Args:
        session: The run.
        result: Of the loop.

    Raises:
        KeyboardInterrupt: If the run was stopped from outside; it can be resumed.
    """
    if result.interrupted:
        session.say(f"stopped at step {result.step:,}; go on with --resume")
        session.tracker.close()
        raise KeyboardInterrupt
    session.say(f"trained {result.step:,} steps in {result.seconds:,.0f} s of this session")
    for name, (step, value) in result.best.items():
        session.say(f"{name}: step {step:,} with validation {value:.4f}")
    write_meta(
        session,
        {
            "steps": result.step,
            "train_seconds": round(result.seconds, 1),
            "best": {name: list(found) for name, found in result.best.items()},
        },
    )


def on_main_first(accelerator: Accelerator, work: Any) -> Any:
    """Call a function on the main process, then on the others; errors reach all of them.

    Args:
        accelerator: The processes.
        work: Without arguments, for example preparing data, which finds its result the second
            time.

    Returns:
        What the function returned, on every process.
    """
    result, failure = None, [None]
    if accelerator.is_main_process:
        try:
            result = work()
        except Exception as error:  # told to the others, or they would wait for ever
            failure = [error]  # type: ignore[list-item]
    if accelerator.num_processes > 1:
        broadcast_object_list(failure)
    if failure[0] is not None:
        raise failure[0]
    return result if accelerator.is_main_process else work()


def _clear(run_dir: RunDirectory) -> None:
    """Delete what an older run wrote, and nothing else."""
    for step in run_dir.steps():
        shutil.rmtree(run_dir.step_path(step))
    shutil.rmtree(run_dir.path / ARTIFACT_NAME, ignore_errors=True)  # IDs of the old weights
    for name in ("metrics.jsonl", "meta.json", "metrics.json"):
        (run_dir.path / name).unlink(missing_ok=True)
    for name in run_dir.pointers():
        (run_dir.path / name).unlink()


def _commit() -> str | None:
    """Return the commit of the checkout that the package runs from, if it is one."""
    folder = Path(__file__).resolve().parent
    try:
        done = subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None
