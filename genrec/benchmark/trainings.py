"""Finished trainings for the jobs of a benchmark: found where they are at hand, else trained."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from genrec.atomic import read_json, write_json_atomic
from genrec.benchmark.jobs import Job, own_settings
from genrec.config import configure
from genrec.digests import read_signed
from genrec.errors import ArtifactError, MissingPathError
from genrec.stages import STAGES, Step, run_plan
from genrec.training.session import run_path
from genrec.training.tokenizer_run import find_tokenizer

__all__ = ["Training", "obtain"]


@dataclass(frozen=True)
class Training:
    """A finished run that recommends.

    Attributes:
        path: Its folder.
        seconds: Wall time of each stage, evaluations and interrupted sessions included; of a run
            that was found, of its training steps as its ``meta.json`` has them.
        meta: Its ``meta.json``.
    """

    path: Path
    seconds: Mapping[str, float]
    meta: Mapping[str, Any]


def obtain(job: Job, fingerprint: str, use: Sequence[Path] = ()) -> Training:
    """Find the run of a job, or train it.

    Args:
        job: A trained one.
        fingerprint: That of the data set.
        use: Runs that may be taken if they are of the job's settings and data, besides that in
            the folder of the recipe.

    Returns:
        The run.

    Raises:
        ArtifactError: If the recipes lead to another data set.
        GenRecError: If the training refuses.
        KeyboardInterrupt: If it was stopped; it is resumed next time.
    """
    steps = job.steps()
    if not all(step.done for step in steps):
        for run in [*use, _home(steps[-1])]:
            found = _at_hand(run, steps, fingerprint)
            if found is not None:
                print(f"{job.model}, seed {job.seed}: found {run}", flush=True)
                return found
    clock = job.folder / "seconds.json"
    seconds: dict[str, float] = {}
    meta: Mapping[str, Any] = {}
    for step in steps:
        place = step.run.relative_to(job.folder).as_posix()  # each split of a release has its own
        if not step.done:
            with _timed(clock, place):
                run_plan([step])
        meta = read_signed(step.run / "meta.json")
        if meta["data_fingerprint"] != fingerprint:
            raise ArtifactError(
                f"recipes of {job.model} must be trained on the data set of the benchmark, "
                f"{fingerprint}, got {meta['data_fingerprint']} in {step.run}; set another "
                "benchmark.out for other data, and name data set and encoder in the benchmark alone"
            )
        measured = read_json(clock) if clock.is_file() else {}
        seconds[step.stage] = measured.get(place, meta["train_seconds"])
    return Training(steps[-1].run, seconds, meta)


@contextmanager
def _timed(file: Path, name: str) -> Iterator[None]:
    """Add the wall time of what is inside to that of a name in a file, also when it is cut off."""
    began = time.perf_counter()
    try:
        yield
    finally:
        known = read_json(file) if file.is_file() else {}
        known[name] = round(known.get(name, 0.0) + time.perf_counter() - began, 2)
        file.parent.mkdir(parents=True, exist_ok=True)
        write_json_atomic(file, known)


def _home(step: Step) -> Path:
    """Name the folder into which `genrec train` puts the run of a recipe."""
    root = configure(STAGES[step.stage].settings, step.recipe).save_dir_root
    return run_path(dataclasses.replace(step.settings, save_dir_root=root))


def _at_hand(run: Path, steps: Sequence[Step], fingerprint: str) -> Training | None:
    """Return a finished run if it and the run that it follows are of these settings and data."""
    seconds: dict[str, float] = {}
    place: Path | None = run
    last: Mapping[str, Any] = {}
    for step in reversed(steps):
        file = None if place is None else place / "meta.json"
        meta = read_signed(file) if file is not None and file.is_file() else {}
        same = (
            "train_seconds" in meta
            and meta.get("data_fingerprint") == fingerprint
            and own_settings(meta["settings"]) == own_settings(step.settings)
        )
        if not same:
            return None
        seconds = {step.stage: meta["train_seconds"], **seconds}
        last = last or meta
        place = _followed(meta["settings"])
    return Training(run, seconds, last)


def _followed(settings: Mapping[str, Any]) -> Path | None:
    """Find the run whose IDs a run took."""
    if (path := settings.get("pretrained_rqvae_path")) is None:
        return None
    try:
        return find_tokenizer(path, settings.get("dataset_split"))
    except MissingPathError:
        return None
