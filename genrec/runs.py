"""Finding the run that a folder means: itself, or the only one below it."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from genrec.errors import ConfigError

__all__ = ["find_run"]

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
    below = _runs_below(folder, part, _MAX_DEPTH)
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


def _runs_below(folder: Path, part: str, depth: int) -> list[Path]:
    """List the runs with a part, in order; what lies inside a run is not looked at."""
    if depth == 0 or not folder.is_dir():
        return []
    found: list[Path] = []
    for child in sorted(folder.iterdir()):
        if not child.is_dir() or child.name.startswith("."):
            continue
        # Data sets and ID tables have a meta.json too, but no steps.
        if (child / "meta.json").is_file() and any(child.glob("step_*")):
            found += [child] if (child / part).exists() else []
        else:
            found += _runs_below(child, part, depth - 1)
    return found
