"""Find the files of a source and the reader for them."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from genrec.data.fetch.releases import P5_FILES
from genrec.data.readers.amazon import find_amazon, read_amazon
from genrec.data.readers.amazon_fields import AMAZON_TEMPLATE
from genrec.data.readers.amazon_p5 import P5_SPLITS, find_p5_folder, read_p5
from genrec.data.readers.movielens import find_movielens, read_movielens
from genrec.data.readers.own_tables import find_tables, read_tables
from genrec.data.readers.recbole import find_recbole, read_recbole
from genrec.data.tables import RawTables
from genrec.errors import ConfigError, GenRecError, MissingPathError

__all__ = ["Source", "detect_kind", "open_source"]


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
        ConfigError: If the reader has no such option.
    """
    more = dict(reader_options or {})
    path = Path(folder)
    if not path.is_dir():
        raise MissingPathError(
            f"dataset folder must exist, got {path}; set train.dataset_folder (or the SOURCE of "
            "`genrec prepare`) to the folder of the release"
        )
    if dataset == "amazon":
        if _holds_p5(path, split):
            found = find_p5_folder(path, split)
            files = tuple(found / name for name in P5_FILES)
            return _source(files, read_p5, path, split, **more)
        reviews = find_amazon(path, split)
        return _source((reviews.reviews, reviews.meta), read_amazon, path, split, **more)
    items_only = bool(more.get("items_only"))
    if dataset in ("tables", "sample"):
        if dataset == "sample":
            more = {"text_template": AMAZON_TEMPLATE, **more}
        named = (more.pop("items", None), more.pop("interactions", None))
        items, interactions = (path / name if name else None for name in named)
        more.pop("items_only", None)
        if items is None or (interactions is None and not items_only):
            usual = find_tables(path, items_only=items_only or interactions is not None)
            items, interactions = items or usual[0], interactions or usual[1]
        name = more.pop("name", None) or ("sample" if dataset == "sample" else path.resolve().name)
        tables = {"items": items, "interactions": interactions, "name": name}
        files = tuple(file for file in (items, interactions) if file is not None)
        return _source(files, read_tables, **tables, **more)
    if dataset == "recbole":
        return _source(find_recbole(path, split), read_recbole, path, split, **more)
    files = find_movielens(path, dataset, items_only=items_only)
    return _source(files, read_movielens, path, dataset, **more)


def detect_kind(folder: Path, split: str | None = None) -> str:
    """Tell what kind of source a folder holds, by the names of its files.

    Args:
        folder: Any folder.
        split: Part of the release.

    Returns:
        Value of a :class:`genrec.data.processed.RecDataset`.

    Raises:
        MissingPathError: If nothing known lies there.
    """
    if _holds_p5(folder, split):
        return "amazon"
    for file, release in (("u.data", "ml-100k"), ("ratings.dat", "ml-1m")):
        if (folder / file).is_file():
            return release
    if (folder / "ratings.csv").is_file() and (folder / "movies.csv").is_file():
        name = folder.resolve().name
        return name if name in ("ml-20m", "ml-25m", "ml-32m") else "ml-latest-small"
    probes: dict[str, Callable[[], object]] = {
        "recbole": lambda: find_recbole(folder, split),
        "tables": lambda: find_tables(folder),
        "amazon": lambda: find_amazon(folder, split),
    }
    for kind, probe in probes.items():
        try:
            probe()
        except GenRecError:
            continue
        return kind
    names = sorted(path.name for path in folder.iterdir())[:8]
    raise MissingPathError(
        f"SOURCE must hold a release (Amazon, MovieLens, RecBole) or tables (items.csv and "
        f"interactions.csv), got {folder} with {', '.join(names) or 'nothing'}; name the kind with "
        "--dataset to learn what is missing, or the tables with --items and --interactions"
    )


def _holds_p5(folder: Path, split: str | None) -> bool:
    """Tell the P5 layout from the others; a wrong split of it is still the P5 layout."""
    names = {split, *P5_SPLITS} if split else set(P5_SPLITS)
    places = [folder, *(folder / part / name for part in ("", "raw") for name in names if name)]
    return any((place / P5_FILES[0]).is_file() for place in places)


def _source(
    files: tuple[Path, ...], reader: Callable[..., RawTables], *args: Any, **more: Any
) -> Source:
    """Bind a reader to its arguments; an unknown one is the user's error."""

    def read() -> RawTables:
        return reader(*args, **more)

    known = reader.__kwdefaults__ or {}
    unknown = [name for name in more if name not in known and name not in reader.__annotations__]
    if unknown:
        raise ConfigError(
            f"reader options must be among {', '.join(known) or 'none'}, got {unknown[0]!r}; "
            "leave it out"
        )
    return Source(files, read)
