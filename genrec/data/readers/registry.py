"""All readers. A new release or format is one file beside this one and one line in READERS."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from genrec.data.readers import amazon, amazon_p5, movielens, own_tables, recbole, sample
from genrec.data.readers.reader import Reader, Request
from genrec.data.tables import RawTables
from genrec.errors import ConfigError, MissingPathError, did_you_mean

__all__ = ["READERS", "Source", "detect_kind", "open_source"]

#: Asked in this order what a folder holds: names that are shared by several (``ratings.csv``)
#: come after those that only one release has.
READERS: tuple[Reader, ...] = (
    amazon_p5.READER,
    movielens.READER,
    recbole.READER,
    own_tables.READER,
    amazon.READER,
    sample.READER,
)


@dataclass(frozen=True)
class Source:
    """Files, and what reads them.

    Attributes:
        files: What the result depends on.
        read: Reads them.
    """

    files: tuple[Path, ...]
    read: Callable[[], RawTables]


def open_source(
    dataset: str,
    folder: str | os.PathLike[str],
    *,
    split: str | None = None,
    reader_options: Mapping[str, Any] | None = None,
) -> Source:
    """Find the files of a data set; nothing is read yet.

    Args:
        dataset: Value of a :class:`genrec.data.processed.RecDataset`.
        folder: Where the release lies.
        split: Part of the release, for example ``beauty``.
        reader_options: More arguments of the reader.

    Returns:
        The source.

    Raises:
        MissingPathError: If the folder or a file is not there.
        ConfigError: If no reader is of that kind, or it has no such option.
    """
    path = Path(folder)
    readers = [reader for reader in READERS if dataset in reader.kinds]
    if not readers:
        kinds = sorted({kind for reader in READERS for kind in reader.kinds})
        raise ConfigError(
            f"dataset must be one of {', '.join(kinds)}, got {dataset!r}; "
            f"{did_you_mean(dataset, kinds)}"
        )
    if not path.is_dir():
        raise MissingPathError(
            f"dataset folder must exist, got {path}; set train.dataset_folder (or the SOURCE of "
            "`genrec prepare`) to the folder of the release"
        )
    # Where none of them knows the files, the last one says what is missing.
    reader = next((one for one in readers if one.matches(path, split)), readers[-1])
    options = dict(reader_options or {})
    for name in options:
        if name not in reader.options:
            raise ConfigError(
                f"reader options must be among {', '.join(reader.options) or 'none'}, got "
                f"{name!r}; leave it out"
            )
    request = Request(dataset, path, split, options)
    try:
        files = reader.find(request)
    except MissingPathError as error:
        other = next(filter(None, (one.matches(path, None) for one in READERS)), None)
        if other in (None, dataset):
            raise
        raise MissingPathError(
            f"{error}; its files are of the kind {other}, which `genrec prepare {path} --out "
            f"data/processed/{path.resolve().name}` reads"
        ) from None
    return Source(files, lambda: reader.read(request))


def detect_kind(folder: Path, split: str | None = None) -> str:
    """Tell by the names of a folder's files what kind of source it holds.

    Raises:
        MissingPathError: If nothing known lies there.
    """
    kinds = (reader.matches(folder, split) for reader in READERS)
    if (found := next(filter(None, kinds), None)) is not None:
        return found
    names = sorted(path.name for path in folder.iterdir())[:8]
    raise MissingPathError(
        f"SOURCE must hold a release (Amazon, MovieLens, RecBole) or tables (items.csv and "
        f"interactions.csv), got {folder} with {', '.join(names) or 'nothing'}; name the kind with "
        "--dataset to learn what is missing, or the tables with --items and --interactions"
    )
