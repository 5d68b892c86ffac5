"""A run as the report sees it: what it was told, what it logged, and what it can still do."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import torch

from genrec.atomic import read_json
from genrec.errors import ArtifactError, GenRecError, MissingPathError
from genrec.metric_rows import metric_rows
from genrec.runs import find_run
from genrec.tokenizer.artifact import ARTIFACT_NAME
from genrec.tokenizer.semantic_id import SemanticIdTokenizer
from genrec.trained import Trained, find_other_log, load_trained

__all__ = [
    "Missing",
    "Series",
    "Subject",
    "attempt",
    "check_same_data",
    "find_stage_one",
    "open_subject",
    "read_log",
]

P = ParamSpec("P")
T = TypeVar("T")

#: Steps and values of something that was logged.
Series = tuple[tuple[int, float], ...]

_STAGE_ONE = "tokenizer"  # what meta.json calls it


@dataclass(frozen=True)
class Missing:
    """A part that is left out.

    Attributes:
        why: In words, for the page.
    """

    why: str


def attempt(make: Callable[P, T], *told: P.args, **more: P.kwargs) -> T | Missing:
    """Make a part of the page; where its input is not there, say why it is left out."""
    try:
        return make(*told, **more)
    except GenRecError as error:
        return Missing(" ".join(str(error).split()))


@dataclass(frozen=True)
class Subject:
    """One run.

    Attributes:
        path: Its folder.
        meta: Its ``meta.json``.
        logged: What ``metrics.jsonl`` holds, by name.
        trained: Its model and items; None for a stage-one run.
        table: Its semantic IDs; None where it has none.
        name: What the page calls it.
    """

    path: Path
    meta: Mapping[str, Any]
    logged: Mapping[str, Series]
    trained: Trained | None = None
    table: SemanticIdTokenizer | None = field(default=None, repr=False)
    name: str = ""

    @property
    def is_stage_one(self) -> bool:
        """Whether it is a run that makes semantic IDs."""
        return self.meta.get("stage") == _STAGE_ONE

    @property
    def settings(self) -> Mapping[str, Any]:
        """What it was told, by name."""
        told: Mapping[str, Any] = self.meta.get("settings", {})
        return told


def open_subject(path: str | os.PathLike[str], *, device: torch.device | str = "cpu") -> Subject:
    """Open a run of any training.

    Args:
        path: Its folder, or one with a single run below it.
        device: Where its model shall live.

    Returns:
        The run, its name still to be given.

    Raises:
        MissingPathError: If there is no run.
        ArtifactError: If a file of it is damaged.
    """
    run = find_run(path)
    if not (run / "meta.json").is_file():
        raise MissingPathError(
            f"RUN must be a folder with meta.json, got {run}; give the folder that training "
            "printed at its end"
        )
    meta = read_json(run / "meta.json")
    logged = read_log(run / "metrics.jsonl")
    if meta.get("stage") == _STAGE_ONE:
        known = (run / ARTIFACT_NAME).is_dir()
        return Subject(run, meta, logged, table=SemanticIdTokenizer.load(run) if known else None)
    trained = load_trained(run, device=device)
    return Subject(run, trained.meta, logged, trained, trained.table)


def read_log(file: Path) -> dict[str, Series]:
    """Read ``metrics.jsonl``: each name's values by step, NaN where one was not finite.

    Args:
        file: The file; one that is not there holds nothing.

    Returns:
        By name, for example ``train/loss``, in the order of the file; of a step that was logged
        twice, as after a resumed run, the last value counts. Damaged lines are left out with a
        warning.
    """
    if not file.is_file():
        return {}
    found: dict[str, dict[int, float]] = {}
    for _, row in metric_rows(file):
        step = row.pop("step")
        for name, value in row.items():
            found.setdefault(name, {})[step] = math.nan if value is None else float(value)
    return {name: tuple(sorted(values.items())) for name, values in found.items()}


def check_same_data(subjects: Sequence[Subject]) -> None:
    """Refuse runs on different data sets; their texts and vectors may differ.

    Raises:
        ArtifactError: If users, items or interactions are not the same.
    """
    place = find_other_log([subject.meta for subject in subjects], strict=True)
    if place is not None:
        first, other = subjects[0], subjects[place]
        raise ArtifactError(
            f"RUNS must have been trained on one data set, got {first.path} on "
            f"{first.meta.get('prepared')} and {other.path} on {other.meta.get('prepared')}; write "
            "a report for each"
        )


def find_stage_one(subject: Subject) -> Path:
    """Find the stage-one run that made the IDs of a run.

    Args:
        subject: A run that recommends.

    Returns:
        The folder that the run was told, seen from here or from a folder above the run.

    Raises:
        MissingPathError: If it is not there, or has been trained anew since.
    """
    told = subject.settings.get("pretrained_rqvae_path")
    if subject.table is None or told is None:
        raise MissingPathError("the run takes no semantic IDs from a stage-one run")
    places = [Path(told), *(above / told for above in subject.path.resolve().parents)]
    for place in places:
        meta = place / ARTIFACT_NAME / "meta.json"
        if (place / "metrics.jsonl").is_file() and meta.is_file():
            if read_json(meta).get("quantizer_digest") == subject.table.quantizer_digest:
                return place
            raise MissingPathError(f"the stage-one run at {place} has been trained anew since")
    raise MissingPathError(f"the stage-one run is no longer at {told}")
