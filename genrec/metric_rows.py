"""The lines of ``metrics.jsonl``, read so that a damaged one costs no run."""

from __future__ import annotations

import json
import math
import warnings
from pathlib import Path
from typing import Any

__all__ = ["metric_rows"]


def metric_rows(path: Path) -> list[tuple[str, dict[str, Any]]]:
    """Read what a training logged.

    Args:
        path: The file.

    Returns:
        Each line with its end, and its row: ``step``, a whole number, and names to numbers or
        None. A last line that a kill cut off is left out, and a damaged one with a warning.
    """
    found, damaged = [], 0
    for line in path.read_bytes().splitlines(keepends=True):
        if not line.endswith(b"\n"):
            continue
        try:
            row = json.loads(line)
            if not _is_row(row):
                raise ValueError("no row")
            found.append((line.decode("utf-8"), row))
        except (RecursionError, ValueError):
            damaged += 1
    if damaged:
        warnings.warn(f"{path} has {damaged} damaged lines, left out", stacklevel=2)
    return found


def _is_row(row: Any) -> bool:
    """Tell whether a line says its step, and numbers by name."""
    if not isinstance(row, dict) or type(row.get("step")) is not int:
        return False
    return all(
        value is None or (type(value) in (int, float) and math.isfinite(value))
        for value in row.values()
    )
