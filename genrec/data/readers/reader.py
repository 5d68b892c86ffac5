"""The contract of a reader: how a release or format is recognised, found and read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from genrec.data.tables import RawTables
from genrec.errors import GenRecError

__all__ = ["Reader", "Request", "finds"]


def finds(find: Callable[..., object], *arguments: object) -> bool:
    """Tell whether a function that looks for files finds them, rather than raising."""
    try:
        find(*arguments)
    except GenRecError:
        return False
    return True


@dataclass(frozen=True)
class Request:
    """What is to be read.

    Attributes:
        kind: Value of a :class:`genrec.data.processed.RecDataset`.
        folder: Where it lies.
        split: Part of it, for example ``beauty``; None where there is only one.
        options: More arguments of the reader, by the names in :attr:`Reader.options`.
    """

    kind: str
    folder: Path
    split: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Reader:
    """One release or format.

    Attributes:
        kinds: Values of :class:`genrec.data.processed.RecDataset` that it reads.
        options: Names of the options that it takes.
        matches: Tells, for a folder and a split, which kind of this reader's lies there by the
            names of the files; None where none does.
        find: Lists the files that the result depends on. Raises MissingPathError or DataError
            where one is missing, saying which.
        read: Reads them.
    """

    kinds: tuple[str, ...]
    options: tuple[str, ...] = ()
    matches: Callable[[Path, str | None], str | None]
    find: Callable[[Request], tuple[Path, ...]]
    read: Callable[[Request], RawTables]
