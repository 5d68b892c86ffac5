"""Tables of your own: items with text or vectors, interactions with user, item and time."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from genrec.data.files.columns import Column
from genrec.data.files.rejected import RejectedRows
from genrec.data.files.table_files import TABLE_SUFFIXES, TableFile, parse_vector
from genrec.data.files.times import ticks_of_unit
from genrec.data.readers.reader import Reader, Request, finds
from genrec.data.readers.table_columns import ChosenColumns, TableColumns, choose_columns
from genrec.data.tables import ITEM, RATING, TIME, USER, RawTables
from genrec.data.text.item_text import template_of
from genrec.errors import DataError, MissingPathError

__all__ = ["READER", "TableColumns", "find_tables", "read_tables"]

_FIELD = re.compile(r"\{([^{}]*)\}")
_ITEM_STEMS = ("items", "products", "movies", "articles", "catalogue", "catalog")
_LOG_STEMS = ("interactions", "ratings", "events", "reviews", "log", "purchases", "clicks")


def find_tables(
    folder: str | os.PathLike[str], *, items_only: bool = False
) -> tuple[Path, Path | None]:
    """Find the tables of a folder by name: items, and interactions (None with ``items_only``).

    Raises:
        MissingPathError: If one of them is not there.
    """
    base = Path(folder)
    found: list[Path | None] = []
    tables = [("--items", _ITEM_STEMS), ("--interactions", _LOG_STEMS)]
    for option, stems in tables[: 1 if items_only else 2]:
        paths = [base / f"{stem}{suffix}" for stem in stems for suffix in TABLE_SUFFIXES]
        path = next((path for path in paths if path.is_file()), None)
        if path is None:
            raise MissingPathError(
                f"folder of tables must hold {stems[0]}.csv (or {', '.join(TABLE_SUFFIXES[:5])}), "
                f"got {base} without it; add the file or name it with {option}"
            )
        found.append(path)
    items, interactions = [*found, None][:2]
    assert items is not None
    return items, interactions


def read_tables(
    *,
    items: str | os.PathLike[str],
    interactions: str | os.PathLike[str] | None,
    name: str,
    columns: TableColumns | None = None,
    kept_columns: TableColumns | None = None,
    text_template: str | None = None,
    separator: str | None = None,
    encoding: str = "utf-8",
) -> RawTables:
    """Read an items table and an interactions table.

    Args:
        items: One row an item: Parquet, CSV, TSV or JSON lines.
        interactions: One row an interaction, in any of these formats; None for a catalogue alone.
        name: Short name of the data set.
        columns: Names of the columns; None guesses all.
        kept_columns: What ``columns`` was for an earlier version of the tables, which counts for
            what ``columns`` leaves open.
        text_template: Template of the item text; None names every text column.
        separator: Between values of separated files; None goes by ending and header.
        encoding: Encoding of separated files.

    Returns:
        The tables; the notes say which columns are taken.

    Raises:
        MissingPathError: If a table is not there.
        DataError: If a column is missing or cannot be guessed.
    """
    columns, earlier = columns or TableColumns(), kept_columns or TableColumns()
    if columns.time is not None:  # format and unit belong to the column
        earlier = replace(earlier, time_format=None, time_unit=None)
    rejected = RejectedRows()
    log = None
    if interactions is not None:
        log = TableFile(Path(interactions), separator=separator, encoding=encoding)
    catalogue = TableFile(Path(items), separator=separator, encoding=encoding)
    chosen = choose_columns(columns, catalogue, log, earlier)
    columns = replace(
        columns,
        time_format=columns.time_format or earlier.time_format,
        time_unit=columns.time_unit or earlier.time_unit,
    )
    frame, ticks_per_s = pl.DataFrame(schema={USER: pl.String, ITEM: pl.String}), 1
    if log is not None:
        frame, ticks_per_s = _read_log(log, columns, chosen, rejected)
    key, vector = chosen.names["item_key"], chosen.names.get("vector")
    # Every column is kept, since a template may name any.
    fields = [name for name in catalogue.names if name not in (key, vector)]
    table, vectors = _read_items(catalogue, key, fields, vector, rejected)
    template = text_template or template_of(chosen.texts)
    return RawTables(
        name=name,
        source=" and ".join(f"table {Path(p).name}" for p in (items, interactions) if p),
        interactions=frame,
        items=table,
        text_template=template,
        title_field=chosen.names.get("title", ""),
        rejected=rejected,
        ticks_per_s=ticks_per_s,
        vectors=vectors,
        items_only=interactions is None,
        columns=_given(columns, earlier),
        notes=partial(_notes, catalogue, log, chosen),
    )


def _given(columns: TableColumns, earlier: TableColumns) -> dict[str, Any]:
    """Gather what was named, now or for an earlier version of the tables."""
    both = asdict(earlier) | {k: v for k, v in asdict(columns).items() if v is not None and v != ()}
    return {name: value for name, value in both.items() if value is not None and value != ()}


def _read_log(
    log: TableFile, columns: TableColumns, chosen: ChosenColumns, rejected: RejectedRows
) -> tuple[pl.DataFrame, int]:
    """Read the interactions; give the unit of their times too."""
    names = chosen.names
    wanted = [Column(USER, names["user"], "key"), Column(ITEM, names["item"], "key")]
    time, unit = None, ticks_of_unit(columns.time_unit)
    if "time" in names:
        time = log.time_reader(names["time"], time_format=columns.time_format, ticks_per_s=unit)
        wanted.append(Column(TIME, names["time"], "time"))
    if "rating" in names:
        wanted.append(log.number(RATING, names["rating"]))
    return log.read(wanted, rejected=rejected, time=time), time.ticks_per_s if time else 1


def _notes(
    items: TableFile, log: TableFile | None, chosen: ChosenColumns, template: str
) -> dict[str, Any]:
    """Say which column is what, and list those of each table that nothing was made of."""
    of_template = _FIELD.findall(template)
    used = {*chosen.names.values(), *of_template}
    used_of_log = {chosen.names.get(role) for role in ("user", "item", "time", "rating")}
    left = {items.path.name: [name for name in items.names if name not in used]}
    if log is not None:
        left[log.path.name] = [name for name in log.names if name not in used_of_log]
    columns = chosen.for_card()
    if template != template_of(chosen.texts):
        columns["text"] = f"{', '.join(dict.fromkeys(of_template))} (of the text template)"
    not_used = {file: ", ".join(names) for file, names in left.items() if names}
    return {"columns": columns, "columns_not_used": not_used}


def _read_items(
    table: TableFile,
    key: str,
    fields: Sequence[str],
    vector: str | None,
    rejected: RejectedRows,
) -> tuple[pl.DataFrame, npt.NDArray[np.float32] | None]:
    """Read the items' texts and their vectors."""
    keys: list[str] = []
    values: dict[str, list[Any]] = {field: [] for field in fields}
    vectors: list[list[float]] = []
    names = [key, *fields, *([vector] if vector else [])]
    for number, row in table.records(names, rejected):
        if vector is not None:
            try:
                vectors.append(parse_vector(row.get(vector)))
            except (ValueError, TypeError):
                rejected.add(table.path.name, f"{vector} is no vector", line=number)
                continue
        keys.append(row[key])
        for field in fields:
            values[field].append(_text(row.get(field)))
    columns = {ITEM: keys, **{name: column for name, column in values.items() if name != ITEM}}
    frame = pl.DataFrame(columns, schema=dict.fromkeys(columns, pl.String))
    if vector is None:
        return frame, None
    widths = {len(entry) for entry in vectors}
    if len(widths) != 1:
        raise DataError(
            f"vectors must all have one width, got {sorted(widths)[:4]} in {vector!r} of "
            f"{table.path}; repair the column"
        )
    return frame, np.array(vectors, dtype=np.float32)


def _text(value: object) -> str | None:
    if value is None:
        return None
    if isinstance(value, (list, tuple)):
        value = ", ".join(str(part) for part in value if part is not None)
    return str(value)


def _find(request: Request) -> tuple[Path, ...]:
    """Find the items and, unless there are none, the interactions: by setting, else by name."""
    folder, options = request.folder, request.options
    items_only = bool(options.get("items_only"))
    items, interactions = (
        folder / options[role] if options.get(role) else None for role in ("items", "interactions")
    )
    if items is None or (interactions is None and not items_only):
        usual = find_tables(folder, items_only=items_only or interactions is not None)
        items, interactions = items or usual[0], interactions or usual[1]
    return (items,) if interactions is None else (items, interactions)


def _read(request: Request) -> RawTables:
    items, interactions = (*_find(request), None)[:2]
    assert items is not None
    places = ("items", "interactions", "items_only")
    options = {name: value for name, value in request.options.items() if name not in places}
    options["name"] = options.get("name") or request.folder.resolve().name
    return read_tables(items=items, interactions=interactions, **options)


READER = Reader(
    kinds=("tables",),
    options=(
        "items",
        "interactions",
        "items_only",
        "name",
        "columns",
        "kept_columns",
        "text_template",
        "separator",
        "encoding",
    ),
    matches=lambda folder, split: "tables" if finds(find_tables, folder) else None,
    find=_find,
    read=_read,
)
