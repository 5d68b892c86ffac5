"""The one skeleton of a run: data, then everything that can refuse, then the folder, then training.

A stage brings two functions: one that opens its data and one that builds its work. Between them
and after them every training takes the same way, so that a mistake costs no older run and every
run leaves the same ``meta.json``.
"""

from __future__ import annotations

import platform
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list

from genrec.atomic import atomic_file, sweep, write_json_atomic
from genrec.checkpoint import RunDirectory
from genrec.data.prepared import PreparedDataset
from genrec.digests import read_signed, signed
from genrec.errors import ConfigError, GenRecError, Interrupted
from genrec.run_lock import RunLock
from genrec.training.loop import FitResult, Rhythm
from genrec.training.processes import start_accelerator, together
from genrec.training.seeding import seed_everything
from genrec.training.settings import TrainingSettings
from genrec.training.tracking import Tracker
from genrec.version import __version__

__all__ = [
    "Session",
    "Work",
    "check_unchanged",
    "current_commit",
    "on_main_first",
    "open_run",
    "read_meta",
    "resume_point",
    "run_path",
    "run_training",
    "start_session",
    "write_meta",
]

#: Settings that say where something lies; fingerprints tell whether it is the same.
_FOLDERS = {"dataset_folder", "processed_dir", "pretrained_rqvae_path"}
_FINGERPRINTS = ("data_fingerprint", "ids_fingerprint")
_AT_THE_END = ("train_seconds", "steps", "best")  # what a training says last


@dataclass(frozen=True)
class Session:
    """A run that is ready to train.

    Attributes:
        accelerator: Processes, device and precision.
        run_dir: The run's folder.
        tracker: Where metrics go.
        settings: Those of the run.
        lock: Of the run's folder; held by the main process once there is something to guard.
        resume_step: Checkpoint to go on from, or None.
    """

    accelerator: Accelerator
    run_dir: RunDirectory
    tracker: Tracker
    settings: TrainingSettings
    lock: RunLock
    resume_step: Path | None = None

    def say(self, text: str) -> None:
        """Print a line on the main process."""
        if self.accelerator.is_main_process:
            print(text, flush=True)

    def rhythm(self, batches: int, *, eval_every: int = 0) -> Rhythm:
        """Turn the run's lengths into optimiser steps.

        Args:
            batches: Batches of an epoch on each process.
            eval_every: Steps between evaluations; 0 for the end only.

        Returns:
            How long to train, and what happens how often.

        Raises:
            ConfigError: If neither ``iterations`` nor ``epochs`` is given.
        """
        given = self.settings
        lengths = [] if given.iterations is None else [given.iterations]
        if given.epochs is not None:
            per_step = given.gradient_accumulate_every
            lengths.append(max(1, round(given.epochs * batches / per_step)))
        if not lengths:
            raise ConfigError(
                "iterations or epochs must be given, got neither; set for example train.epochs=100"
            )
        return Rhythm(
            num_steps=min(lengths),
            eval_every=eval_every,
            save_every=given.save_model_every,
            save_every_s=60 * given.save_every_minutes,
            log_every=given.log_every,
            accumulate=given.gradient_accumulate_every,
            patience=given.patience,
            seed=given.seed,
        )

    def batch_size(self) -> int:
        """Return the rows of a batch on each process.

        Raises:
            ConfigError: If the processes cannot share ``batch_size`` out.
        """
        size, world = self.settings.batch_size, self.accelerator.num_processes
        if not self.settings.split_batches:
            return size
        if size % world:
            raise ConfigError(
                f"batch_size must be a multiple of the processes, {world}, got {size}; set "
                f"train.batch_size={world * max(1, size // world)}, or train.split_batches=False"
            )
        return size // world


class Work(Protocol):
    """A training that is built: from here on nothing refuses.

    Attributes:
        title: What is trained on what; printed at the start.
        meta: What ``meta.json`` shall say of it.
    """

    @property
    def title(self) -> str: ...  # noqa: D102
    @property
    def meta(self) -> Mapping[str, Any]: ...  # noqa: D102

    def save(self, run: Path) -> None:
        """Write what lies in the run's folder beside the steps; on the main process."""

    def train(self) -> FitResult:
        """Train, and leave at least one checkpoint."""
        ...

    def finish(self, result: FitResult) -> Mapping[str, Any]:
        """Say and write what the run came to; return what ``meta.json`` gains."""
        ...


def run_training(
    settings: TrainingSettings,
    open_data: Callable[[Session], PreparedDataset],
    build: Callable[[Session, PreparedDataset], Work],
) -> Path:
    """Take a training from its settings to its finished run.

    Args:
        settings: Of the stage.
        open_data: Opens or prepares the data set; called on the main process first.
        build: Builds whatever can refuse: model, loader, optimiser, schedule, evaluator.

    Returns:
        The run's folder.

    Raises:
        GenRecError: If a setting, a path or the data is not as it should be; an older run in the
            folder is then as it was.
        TrainingError: If another process of the run died; it can be resumed.
        Interrupted: If the run was stopped from outside; it can be resumed.
    """
    session = start_session(settings)
    try:
        with together():
            return _train(session, open_data, build)
    finally:
        session.lock.release()


def _train(
    session: Session,
    open_data: Callable[[Session], PreparedDataset],
    build: Callable[[Session, PreparedDataset], Work],
) -> Path:
    """Take a session to its finished run; see :func:`run_training`."""
    settings = session.settings
    if session.accelerator.is_main_process:
        settings.warn_without_effect()
    data = on_main_first(session.accelerator, lambda: open_data(session))
    work = build(session, data)
    described = {
        "dataset": data.meta["name"],
        "dataset_kind": _kind(settings.dataset),
        "dataset_split": settings.dataset_split,
        "prepared": str(data.path.resolve()),
        "encoder": data.meta["encoder"],
        "data_fingerprint": data.fingerprint,
        "items_fingerprint": data.items_fingerprint,
        "log_fingerprint": data.log_fingerprint,
        "seed": settings.seed,
        "settings": settings.as_dict(),
        **work.meta,
    }
    try:
        open_run(session, described)
        if session.accelerator.is_main_process:
            work.save(session.run_dir.path)
        session.say(f"{work.title}; run {session.run_dir.path}")
        result = work.train()
    except BaseException:
        if session.accelerator.is_main_process:
            session.run_dir.restore()  # no checkpoint yet: what was replaced comes back
        raise
    if result.interrupted:
        session.say(f"stopped at step {result.step:,}; go on with --resume")
        session.tracker.close()
        raise Interrupted(result.interrupted)
    session.say(f"trained {result.step:,} steps in {result.seconds:,.0f} s of this session")
    gained = work.finish(result)
    write_meta(
        session,
        {
            "steps": result.step,
            "train_seconds": round(result.seconds, 1),
            "best": {name: list(found) for name, found in result.best.items()},
            **gained,
        },
    )
    session.say(f"run: {session.run_dir.path}")
    session.tracker.close()
    session.accelerator.wait_for_everyone()
    return session.run_dir.path


def run_path(settings: TrainingSettings) -> Path:
    """Name the folder of a run: the root, and the data set's split below it."""
    root = Path(settings.save_dir_root)
    return root / settings.dataset_split if settings.dataset_split else root


def start_session(settings: TrainingSettings) -> Session:
    """Set up processes, seeds and tracking; nothing is written yet.

    Args:
        settings: What to set up.

    Returns:
        The session, on every process.

    Raises:
        ConfigError: If the precision is unknown, another process trains in the folder, the folder
            holds a run that is neither to be resumed nor overwritten, or the run to be resumed is
            of other settings.
    """
    precision = settings.mixed_precision_type if settings.amp else "no"
    if precision == "fp16" and not torch.cuda.is_available():
        raise ConfigError(
            "mixed_precision_type fp16 must run on a GPU, got none; set "
            "train.mixed_precision_type='bf16' or train.amp=False"
        )
    named = [*settings.trackers, *(["wandb"] if settings.wandb_logging else [])]
    trackers = Tracker.check(list(dict.fromkeys(named)))
    path = run_path(settings)
    accelerator = start_accelerator(
        timeout_s=60 * settings.peer_timeout_minutes,
        mixed_precision=precision,
        log_with=list(trackers) or None,
        project_dir=str(path),
    )
    seed_everything(settings.seed)
    run_dir, lock = RunDirectory(path), RunLock(path)
    on_main_first(accelerator, lambda: _tidy(accelerator, run_dir, lock))
    resume_step = resume_point(settings)
    if resume_step is not None:
        check_unchanged(settings, path, {"num_processes": accelerator.num_processes})
    tracker = Tracker(accelerator, path, settings=settings.as_dict())
    session = Session(accelerator, run_dir, tracker, settings, lock, resume_step)
    if resume_step is not None and run_dir.pointed("latest") is None:
        session.say(f"{path} has lost its latest; going on from {resume_step.name}, the newest")
    return session


def _tidy(accelerator: Accelerator, run_dir: RunDirectory, lock: RunLock) -> None:
    """Lock a folder that is there, and clear up after a run that was killed in it."""
    path = run_dir.path
    if not accelerator.is_main_process or not path.is_dir():
        return
    with _writable(path):
        lock.acquire()
        sweep(path)
        if run_dir.restore():
            print(f"{path}: the run that was to replace this one had no checkpoint; put back")


def resume_point(settings: TrainingSettings) -> Path | None:
    """Look into the run's folder for the checkpoint to go on from.

    Args:
        settings: Of the run.

    Returns:
        The step's folder; None where the run begins anew.

    Raises:
        ConfigError: If there is a run that is neither to be resumed nor overwritten, one of which
            no step is whole, or one of other settings.
    """
    path = run_path(settings)
    run_dir = RunDirectory(path)
    newest, folders = run_dir.newest(), run_dir.step_folders()
    if settings.resume and newest is not None:
        check_unchanged(settings, path)
        return newest
    if folders and settings.resume and not settings.overwrite:
        raise ConfigError(
            f"resume needs a whole step, got {path} with only {folders[0].name}, which lacks "
            "files; begin anew with train.overwrite=True"
        )
    if folders and not settings.overwrite:
        raise ConfigError(
            f"run folder must be new, got {path} with {(newest or folders[0]).name}"
            f"{_trained_on(path)}; add --resume to go on, --name NAME for another run (it is "
            "train.save_dir_root), or replace it with train.overwrite=True"
        )
    return None


def _trained_on(run: Path) -> str:
    """Name the data of a run that is there, where its folder says it."""
    try:
        meta = read_meta(run)
    except GenRecError:
        return ""
    data = meta.get("prepared") or meta.get("dataset")
    return f" of a run on {data}" if isinstance(data, str) else ""


def check_unchanged(
    settings: TrainingSettings, run: Path, found: Mapping[str, Any] | None = None
) -> dict[str, list[Any]]:
    """Refuse to go on with a run that was begun otherwise, unless ``resume_changed`` is set.

    Args:
        settings: Those now; folders, and what :meth:`~genrec.settings.Settings.outside` names,
            may differ, and lengths under a constant schedule.
        run: The run's folder.
        found: Values to compare with those of the same names in ``meta.json``, for example
            fingerprints of the data.

    Returns:
        What differs and may: name to what it was and what it is.

    Raises:
        ConfigError: If something differs; it is named with what it was and what it is.
    """
    meta = read_meta(run)
    begun = dict(meta.get("settings", {}))
    free = settings.outside() | _FOLDERS
    if getattr(settings, "schedule", None) == begun.get("schedule") == "constant":
        free |= {"iterations", "epochs"}  # no step depends on how many there will be
    now = {name: value for name, value in settings.as_dict().items() if name not in free}
    # What an older version did not record is passed over.
    both = {name: [begun[name], value] for name, value in now.items() if name in begun}
    both |= {name: [meta[name], value] for name, value in (found or {}).items() if name in meta}
    changed = {name: pair for name, pair in both.items() if pair[0] != pair[1]}
    if changed and not settings.resume_changed:
        named = ", ".join(f"{name} {old!r} -> {new!r}" for name, (old, new) in changed.items())
        raise ConfigError(
            f"resume needs what the run in {run} was begun with, got {named}; put it back, or add "
            "train.resume_changed=True to go on with the change"
        )
    return changed


def open_run(session: Session, values: Mapping[str, Any]) -> None:
    """Make the run's folder, an older run set aside, and say in it what the run is.

    Call it when data and settings are known to be good, so that a mistake in them leaves
    nothing behind and costs no older run.

    Args:
        session: The run.
        values: What the stage adds to ``meta.json``; see :func:`write_meta`.
    """
    session.accelerator.wait_for_everyone()  # everybody has looked before anything changes
    if session.resume_step is not None:
        found = {name: values[name] for name in _FINGERPRINTS if name in values}
        found["num_processes"] = session.accelerator.num_processes
        if changed := check_unchanged(session.settings, session.run_dir.path, found):
            step = int(session.resume_step.name.removeprefix("step_"))
            before = read_meta(session.run_dir.path).get("changes", [])
            values = {**values, "changes": [*before, {"step": step, **changed}]}
    on_main_first(session.accelerator, lambda: _open_folder(session))
    write_meta(session, values)
    session.accelerator.wait_for_everyone()


def _open_folder(session: Session) -> None:
    """Set an older run aside, make the folder and write ``config.gin``."""
    run_dir = session.run_dir
    if not session.accelerator.is_main_process:
        return
    with _writable(run_dir.path):
        run_dir.path.mkdir(parents=True, exist_ok=True)
        if not session.lock.held:
            session.lock.acquire()
            resume_point(session.settings)  # another run may have come and gone meanwhile
        if session.resume_step is None:
            run_dir.set_aside()
        with atomic_file(run_dir.path / "config.gin") as temporary:
            temporary.write_text(session.settings.as_gin(), encoding="utf-8")


@contextmanager
def _writable(path: Path) -> Iterator[None]:
    """Say in one line that a run's folder cannot be written."""
    try:
        yield
    except GenRecError:
        raise
    except OSError as error:
        raise ConfigError(
            f"run folder must be writable, got {path} with {error.strerror}; set another "
            "train.save_dir_root"
        ) from error


def write_meta(session: Session, values: Mapping[str, Any]) -> None:
    """Write ``meta.json``: versions, machine, commit, and what the stage adds.

    Args:
        session: The run.
        values: For example data fingerprint, seed and results; merged over what is there.
    """
    if not session.accelerator.is_main_process:
        return
    path = session.run_dir.path
    base = {
        "genrec": __version__,
        "commit": current_commit(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "device": str(session.accelerator.device),
        "num_processes": session.accelerator.num_processes,
        "threads": torch.get_num_threads(),
        "mixed_precision": session.accelerator.mixed_precision,
        "command": " ".join(sys.argv),
    }
    known = read_meta(path)
    if "train_seconds" not in values:  # a run that goes on is not what it was at its end
        known = {name: value for name, value in known.items() if name not in _AT_THE_END}
    write_json_atomic(path / "meta.json", signed({**known, **base, **values}))


def read_meta(run: Path) -> dict[str, Any]:
    """Read ``meta.json`` of a run; empty where there is none."""
    file = run / "meta.json"
    known: dict[str, Any] = read_signed(file) if file.is_file() else {}
    return known


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


def _kind(dataset: Any) -> str | None:
    """Name the kind of source as a setting does."""
    return getattr(dataset, "value", dataset)


def current_commit() -> str | None:
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
