"""Find the files of a source and the reader for them."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from genrec.data.amazon_fields import AMAZON_TEMPLATE
from genrec.data.p5_amazon import P5_FILES, find_p5_folder, read_p5
from genrec.data.tables import RawTables
from genrec.data.tables_dataset import find_tables, read_tables
from genrec.errors import ConfigError, MissingPathError

__all__ = ["Source", "open_source"]


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
        ConfigError: If the kind cannot be read.
    """
    more = dict(reader_options or {})
    path = Path(folder)
    if not path.is_dir():
        raise MissingPathError(
            f"dataset folder must exist, got {path}; set train.dataset_folder (or the SOURCE of "
            "`genrec prepare`) to the folder of the release"
        )
    if dataset == "amazon":
        found = find_p5_folder(path, split)
        files = tuple(found / name for name in P5_FILES)
        return Source(files, lambda: read_p5(path, split, **more))
    if dataset in ("tables", "sample"):
        items, interactions = find_tables(path)
        name = path.resolve().name
        if dataset == "sample":
            name, more = "sample", {"text_template": AMAZON_TEMPLATE, **more}
        return Source(
            (items, interactions),
            lambda: read_tables(items=items, interactions=interactions, name=name, **more),
        )
    raise ConfigError(f"dataset must be one that can be read, got {dataset!r}; use amazon")
