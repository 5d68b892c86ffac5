"""Rows that could not be used, or only after a repair: counted by file and reason."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["RejectedRows"]

_EXAMPLES_PER_REASON = 5


class RejectedRows:
    """Count the rows that could not be used, and remember where the first ones stand."""

    def __init__(self) -> None:
        self._counts: Counter[tuple[str, str]] = Counter()
        self._lines: dict[tuple[str, str], list[int]] = {}
        self._repaired: RejectedRows | None = None

    @property
    def total(self) -> int:
        """Rows rejected so far."""
        return sum(self._counts.values())

    def add(self, file: str, reason: str, *, line: int | None = None, count: int = 1) -> None:
        """Note ``count`` rows of a file, the first at ``line`` (from 1) where that is known."""
        if count == 0:
            return
        self._counts[file, reason] += count
        lines = self._lines.setdefault((file, reason), [])
        if line is not None and len(lines) < _EXAMPLES_PER_REASON:
            lines.append(line)

    def add_lines(self, file: str, reason: str, lines: npt.NDArray[np.integer[Any]]) -> None:
        """Note one row a line of ``lines``, from 1, shape ``(rows,)``."""
        for line in lines[:_EXAMPLES_PER_REASON].tolist():
            self.add(file, reason, line=line)
        self.add(file, reason, count=max(0, len(lines) - _EXAMPLES_PER_REASON))

    def repaired(self, file: str, reason: str, *, line: int | None = None) -> None:
        """Note a row that was used although something was wrong: what, and what was done."""
        self._used().add(file, reason, line=line)

    def repaired_lines(self, file: str, reason: str, lines: npt.NDArray[np.integer[Any]]) -> None:
        """Note one used row a line of ``lines``, from 1, shape ``(rows,)``."""
        self._used().add_lines(file, reason, lines)

    def _used(self) -> RejectedRows:
        if self._repaired is None:
            self._repaired = RejectedRows()
        return self._repaired

    def repaired_list(self) -> list[dict[str, Any]]:
        """Describe the repaired rows for the card."""
        return self._repaired.as_list() if self._repaired is not None else []

    def as_list(self) -> list[dict[str, Any]]:
        """Describe them for the card, in the order of their first appearance."""
        return [
            {
                "file": file,
                "reason": reason,
                "rows": count,
                "first_lines": self._lines[file, reason],
            }
            for (file, reason), count in self._counts.items()
        ]
