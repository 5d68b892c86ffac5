"""RecBole atomic files: ``<name>.inter`` with the log and ``<name>.item`` with the items.

A file is separated by tabs, and its header types the columns: ``item_id:token``,
``title:token_seq``, ``timestamp:float``.

Source:
    https://recbole.io/docs/user_guide/data/atomic_files.html.
"""

from __future__ import annotations

import os
from pathlib import Path

import polars as pl

from genrec.data.files.columns import Column
from genrec.data.files.delimited import Dialect, read_delimited, read_header, sample_values
from genrec.data.files.rejected import RejectedRows
from genrec.data.files.times import TimeReader
from genrec.data.readers.reader import Reader, finds
from genrec.data.tables import ITEM, RATING, TIME, USER, RawTables
from genrec.data.text.item_text import template_of
from genrec.errors import DataError, MissingPathError

__all__ = ["READER", "find_recbole", "read_recbole"]

_DIALECT = Dialect("\t", quoted=False)


def find_recbole(root: str | os.PathLike[str], name: str | None = None) -> tuple[Path, Path]:
    """Find the two atomic files of a data set.

    Args:
        root: Their folder, or the folder that holds a folder of that name.
        name: Name of the data set; None takes the only one.

    Returns:
        The log and the items.

    Raises:
        MissingPathError: If a file is not there.
        DataError: If no name is given and there are several.
    """
    base = Path(root)
    folder = base / name if name and (base / name).is_dir() else base
    logs = sorted(folder.glob(f"{name or '*'}.inter"))
    if len(logs) > 1:
        raise DataError(
            f"one data set must be named where there are several, got "
            f"{', '.join(log.stem for log in logs)} in {folder}; name one with --split"
        )
    if not logs:
        raise MissingPathError(
            f"RecBole folder must hold {name or '<name>'}.inter, got {folder} without it; "
            "check the folder"
        )
    items = logs[0].with_suffix(".item")
    if not items.is_file():
        raise MissingPathError(
            f"a log must come with its items, got {logs[0].name} without {items.name}; semantic "
            "IDs are made from what the items say of themselves"
        )
    return logs[0], items


def read_recbole(root: str | os.PathLike[str], name: str | None = None) -> RawTables:
    """Read a data set in RecBole's format, see :func:`find_recbole`.

    The item text is made of every ``token`` and ``token_seq`` column.

    Raises:
        DataError: If a column is missing.
    """
    log, items = find_recbole(root, name)
    rejected = RejectedRows()
    types = _types(log)
    columns = [
        Column(USER, _full(types, "user_id", log), "key"),
        Column(ITEM, _full(types, "item_id", log), "key"),
    ]
    time = None
    if "timestamp" in types:
        source = types["timestamp"]
        time = TimeReader.guess(sample_values(log, source, _DIALECT), where=f"timestamp of {log}")
        columns.append(Column(TIME, source, "time"))
    if "rating" in types:
        columns.append(Column(RATING, types["rating"], "rating", required=False))
    frame = read_delimited(log, columns, rejected=rejected, dialect=_DIALECT, time=time)
    table = _read_items(items, rejected)
    fields = [field for field in table.columns if field != ITEM]
    title = _title(fields)
    return RawTables(
        name=log.stem,
        source=f"RecBole files {log.name} and {items.name}",
        interactions=frame,
        items=table,
        text_template=template_of(sorted(fields, key=lambda f: f != title), title=title),
        title_field=title,
        rejected=rejected,
        ticks_per_s=time.ticks_per_s if time else 1,
    )


def _types(path: Path) -> dict[str, str]:
    """Map the name of each column to its name with the type."""
    return {full.partition(":")[0]: full for full in read_header(path, _DIALECT)}


def _full(types: dict[str, str], name: str, path: Path) -> str:
    if name not in types:
        raise DataError(
            f"atomic file must have a column {name}:token, got {', '.join(types.values())} in "
            f"{path}; rename the column"
        )
    return types[name]


def _read_items(path: Path, rejected: RejectedRows) -> pl.DataFrame:
    types = _types(path)
    texts = {
        name: full
        for name, full in types.items()
        if full.endswith((":token", ":token_seq")) and name != "item_id"
    }
    if not texts:
        raise DataError(
            f"items must have a token or token_seq column to make text of, got "
            f"{', '.join(types.values())} in {path}; add one"
        )
    columns = [Column(ITEM, _full(types, "item_id", path), "key")]
    columns += [Column(name, full, "text", required=False) for name, full in texts.items()]
    return read_delimited(path, columns, rejected=rejected, dialect=_DIALECT)


def _title(fields: list[str]) -> str:
    """Find the field that names an item."""
    usual = [name for name in fields if name in ("title", "name") or name.endswith("_title")]
    return usual[0] if usual else fields[0]


READER = Reader(
    kinds=("recbole",),
    matches=lambda folder, split: "recbole" if finds(find_recbole, folder, split) else None,
    find=lambda request: find_recbole(request.folder, request.split),
    read=lambda request: read_recbole(request.folder, request.split),
)
