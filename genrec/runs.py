"""Runs below a folder: the one that it means, and what each of them is."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from genrec.digests import read_signed
from genrec.errors import ConfigError, GenRecError, MissingPathError
from genrec.recipes import recipe_names

__all__ = ["RunSummary", "find_run", "list_runs", "warn_if_stopped", "warn_of_journal"]

_MAX_DEPTH = 3  # runs/STAGE/NAME/SPLIT


def find_run(path: str | os.PathLike[str], *, part: str = "meta.json") -> Path:
    """Find the run in a folder, and say so where it is not the folder itself.

    Args:
        path: A run, or a folder with runs below it.
        part: What the run must hold: one of its files or folders.

    Returns:
        The folder that holds ``part``: ``path`` where it does, or where nothing below it does,
        so that the caller's own message says what is missing.

    Raises:
        ConfigError: If several runs lie below the folder.
    """
    folder = Path(path)
    if (folder / part).exists():
        return folder
    below = [run for run in _below(folder, _is_run, _MAX_DEPTH) if (run / part).exists()]
    if len(below) > 1:
        shown = ", ".join(map(str, below[:5])) + (", ..." if len(below) > 5 else "")
        raise ConfigError(
            f"run must be one folder, got {folder} with {len(below)} runs below it; name one of "
            f"{shown}"
        )
    if below:
        print(f"{folder}: taking the run below it, {below[0]}", file=sys.stderr)
        return below[0]
    return folder


def warn_if_stopped(run: Path) -> None:
    """Say on stderr that a training was stopped, whose run can be used all the same."""
    if _left_by_training(run) and _summary(run).state == "stopped":
        print(
            f"warning: {run} was stopped before its end, its best step so far is used; go on "
            "with --resume",
            file=sys.stderr,
        )


def warn_of_journal(run: Path) -> None:
    """Say on stderr that a service has changed the items of a run, which nobody else knows."""
    journal = run.with_name(run.name + ".journal")
    if journal.is_file() and journal.stat().st_size:
        print(
            f"warning: items added and removed by `genrec serve` stand in {journal}, which only "
            "the service reads; name removed ones with --exclude",
            file=sys.stderr,
        )


@dataclass(frozen=True)
class RunSummary:
    """What a run's folder says of it.

    Attributes:
        path: The folder.
        stage: ``rqvae``, ``decoder`` or ``sasrec``, by the folder in which it lies, else by its
            model; or None.
        name: Its folder below that of the stage.
        recipe: Name of the recipe, without the stage; None where the run does not say it, and its
            folder is not called after one.
        data: Name of the data set, or None.
        metric: Name of the best known metric, with the split: ``test recall@10``; or None.
        value: Its value, or None.
        step: Newest whole step; None where there is none, and for a saved recommender.
        state: ``finished``, ``training``, ``stopped`` (to be resumed), ``saved`` (a recommender
            from ``save``) or ``damaged``.
        changed: When it was last written to, seconds since 1970.
    """

    path: Path
    stage: str | None
    name: str
    recipe: str | None
    data: str | None
    metric: str | None
    value: float | None
    step: int | None
    state: str
    changed: float


#: Metrics for people, the first that a run has; of a tokenizer its last evaluation.
_METRICS = ("recall@10", "recall@5", "mrr")
_TOKENIZER_METRIC = "eval/r2"


def list_runs(root: str | os.PathLike[str]) -> list[RunSummary]:
    """Look at all runs below a folder, the one changed last first.

    Args:
        root: For example ``runs``; or a run itself.

    Returns:
        The runs; a damaged one says so in its state.

    Raises:
        MissingPathError: If there is no such folder.
    """
    folder = Path(root)
    if not folder.is_dir():
        raise MissingPathError(
            f"folder of runs must exist, got {folder}; `genrec train sample` makes runs/"
        )
    paths = [folder] if _left_by_training(folder) else _below(folder, _left_by_training, _MAX_DEPTH)
    found = [_summary(path) for path in paths]
    return sorted(found, key=lambda run: (-run.changed, str(run.path)))


def _summary(path: Path) -> RunSummary:
    """Gather what the files of a run say, as far as they can be read."""
    meta, metrics = _read(path / "meta.json"), _read(path / "metrics.json")
    steps = sorted(step for folder in path.glob("step_*") if (step := _step(folder)) is not None)
    metric, value = _best(meta or {}, metrics or {})
    stage, name = _place(path)
    if stage is None and (meta or {}).get("stage") == "tokenizer":
        stage = "rqvae"
    stage = stage or _STAGE_OF_MODEL.get(str((meta or {}).get("model")))
    state = _state(path, meta, whole=bool(steps))
    files = [file for name in _WATCHED if (file := path / name).exists()]
    return RunSummary(
        path=path,
        stage=stage,
        name=name,
        recipe=_recipe(meta or {}, stage, name),
        data=_text((meta or {}).get("dataset")),
        metric=metric,
        value=value,
        step=steps[-1] if steps and state != "saved" else None,
        state=state,
        changed=max((file.stat().st_mtime for file in files), default=path.stat().st_mtime),
    )


_STAGES = ("rqvae", "decoder", "sasrec")
_STAGE_OF_MODEL = {
    "EncoderDecoderRetrievalModel": "decoder",
    "ItemTokenRetrievalModel": "decoder",
    "SasRec": "sasrec",
}


def _place(path: Path) -> tuple[str | None, str]:
    """Tell by the folders in which a run lies its stage, if they do, and its name below it."""
    parts = path.absolute().parts
    places = [place for place, part in enumerate(parts) if part in _STAGES]
    if not places:
        return None, path.name
    return parts[places[-1]], "/".join(parts[places[-1] + 1 :]) or path.name


def _recipe(meta: Mapping[str, Any], stage: str | None, name: str) -> str | None:
    """Tell the recipe of a run; older ones say it by their folder alone, if nobody named that."""
    settings = meta.get("settings")
    known = _text(settings.get("recipe")) if isinstance(settings, Mapping) else None
    if known is None:
        usual = f"{stage}/{name.partition('/')[0]}"
        known = usual if stage is not None and usual in recipe_names([stage]) else None
    return None if known is None else known.removeprefix(f"{stage}/")


_WATCHED = ("meta.json", "metrics.jsonl", "metrics.json", "latest", "best")


def _state(path: Path, meta: Mapping[str, Any] | None, *, whole: bool) -> str:
    if _is_locked(path):
        return "training"
    begun = (path / "config.gin").is_file()
    finished = meta is not None and "train_seconds" in meta  # the last thing that is written
    if meta is None or (not whole and (finished or not begun)):
        return "damaged"
    return "finished" if finished else "stopped" if begun else "saved"


def _is_locked(path: Path) -> bool:
    """Tell whether a training writes into a run just now."""
    file = path / ".lock"
    if not file.is_file():
        return False
    lock = FileLock(file)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return True
    except OSError:  # a folder of somebody else
        return False
    lock.release()
    return False


def _best(meta: Mapping[str, Any], metrics: Mapping[str, Any]) -> tuple[str | None, float | None]:
    """Choose the number to compare runs by: on validation, else on test, else stage one's R2."""
    validation, evaluation = meta.get("validation"), meta.get("evaluation")
    if isinstance(validation, Mapping):
        for metric in _METRICS:
            if (value := _number(validation.get(metric))) is not None:
                return f"valid {metric}", value
    for split in ("valid", "test"):
        rows = metrics.get(split)
        rows = rows if isinstance(rows, Mapping) else {}
        models = {n: r for n, r in rows.items() if n not in _NO_MODELS and isinstance(r, Mapping)}
        for metric in _METRICS:
            values = [_number(row.get(metric)) for row in models.values()]
            if known := [value for value in values if value is not None]:
                return f"{split} {metric}", max(known)
    if isinstance(evaluation, Mapping):
        value = _number(evaluation.get(_TOKENIZER_METRIC))
        return (None, None) if value is None else ("R2", value)
    return None, None


_NO_MODELS = ("settings", "popularity", "co-occurrence")


def _number(value: Any) -> float | None:
    fits = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if fits else None


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _read(file: Path) -> dict[str, Any] | None:
    """Read what describes a run; None where there is none, or not as it was written."""
    try:
        return read_signed(file)
    except (GenRecError, OSError):
        return None


def _step(folder: Path) -> int | None:
    """Give the number of a step that is whole."""
    number = folder.name.removeprefix("step_")
    whole = all((folder / name).is_file() for name in ("model.safetensors", "config.json"))
    return int(number) if whole and number.isdecimal() else None


def _is_run(folder: Path) -> bool:
    """Tell a run from data sets and ID tables, which have a ``meta.json`` too but no steps."""
    return (folder / "meta.json").is_file() and any(folder.glob("step_*"))


def _left_by_training(folder: Path) -> bool:
    """Tell also a run that has no step yet, and one that has lost its ``meta.json``."""
    return (folder / "config.gin").is_file() or any(path.is_dir() for path in folder.glob("step_*"))


def _below(folder: Path, is_run: Callable[[Path], bool], depth: int) -> list[Path]:
    """List the runs below a folder, in order; what lies inside a run is not looked at.

    Links are followed, but never to where the folder itself lies, nor to the same place twice.
    """
    if not folder.is_dir():
        return []
    place = folder.resolve()
    return _walk(folder, is_run, depth, {place, *place.parents})


def _walk(folder: Path, is_run: Callable[[Path], bool], depth: int, seen: set[Path]) -> list[Path]:
    found: list[Path] = []
    try:
        children = sorted(folder.iterdir(), key=lambda path: (path.is_symlink(), path))
    except PermissionError:  # of somebody else
        return []
    for child in children:
        if child.name.startswith(".") or not child.is_dir() or (place := child.resolve()) in seen:
            continue
        seen.add(place)
        if is_run(child):
            found.append(child)
        elif depth > 1:
            found += _walk(child, is_run, depth - 1, seen)
    return sorted(found)
