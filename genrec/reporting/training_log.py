"""What ``metrics.jsonl`` of a run that recommends says about the way of its training."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from genrec.metric_rows import metric_rows

__all__ = ["TrainingLog"]

Series = tuple[tuple[int, float], ...]


@dataclass(frozen=True)
class TrainingLog:
    """The curves of a training, as ``(step, value)`` with rising steps.

    Attributes:
        losses: Mean training loss between log lines, those that are finite.
        recalls: Validation recall of all users at the length that chose the best step.
        chooser: Its name, for example ``recall@10``.
    """

    losses: Series = ()
    recalls: Series = field(default=())
    chooser: str = "recall@10"

    @classmethod
    def read(cls, run: Path) -> TrainingLog:
        """Read the log of a run folder; what is not there stays empty."""
        file = run / "metrics.jsonl"
        if not file.is_file():
            return cls()
        rows = [row for _, row in metric_rows(file)]
        lengths = {
            int(name.removeprefix("valid/recall@"))
            for row in rows
            for name in row
            if name.startswith("valid/recall@")
        }
        chooser = f"recall@{min(sorted(lengths), key=lambda k: abs(k - 10))}" if lengths else ""
        return cls(
            _series(rows, "train/loss"),
            _series(rows, f"valid/{chooser}"),
            chooser or cls.chooser,
        )

    @property
    def late_fall(self) -> float | None:
        """Share by which the training loss fell over the last fifth of its lines; None for few."""
        values = [value for _, value in self.losses]
        window = len(values) // 5
        if window < 1 or values[-1] <= 0:
            return None
        before = sum(values[-2 * window : -window]) / window
        return 1.0 - sum(values[-window:]) / window / before

    def loss_at(self, step: int) -> float:
        """Training loss on the log line next to a step."""
        return min(self.losses, key=lambda point: abs(point[0] - step))[1]


def _series(rows: Sequence[dict[str, float | None]], name: str) -> Series:
    found = {}
    for row in rows:  # a run that went on may have logged a step twice: the later line counts
        value, step = row.get(name), row.get("step")
        if step is not None and value is not None and math.isfinite(value):
            found[int(step)] = float(value)
    return tuple(sorted(found.items()))
