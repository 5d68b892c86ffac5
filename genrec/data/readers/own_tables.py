"""Tables of your own: items with text or vectors, interactions with user, item and time."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from genrec.data.files.columns import Column
from genrec.data.files.rejected import RejectedRows
from genrec.data.files.table_files import TABLE_SUFFIXES, TableFile, parse_vector
from genrec.data.files.times import TimeReader, ticks_of_unit
from genrec.data.readers.reader import Reader, Request
from genrec.data.tables import ITEM, RATING, TIME, USER, RawTables
from genrec.data.text.item_text import template_of
from genrec.errors import ConfigError, DataError, GenRecError, MissingPathError, did_you_mean

__all__ = ["READER", "TableColumns", "find_tables", "read_tables"]

#: Usual names of each role, in lower case without other signs, the surest first.
_NAMES = {
    "user": "userid user uid customerid customer visitorid reviewerid memberid sessionid session",
    "item": "itemid item iid productid product asin parentasin movieid articleid sku trackid "
    "newsid",
    "time": "timestamp time datetime date ts unixreviewtime eventtime createdat",
    "rating": "rating ratings stars score overall",
    "title": "title name itemname productname producttitle headline itemtitle",
    "text": "title name itemname productname producttitle headline itemtitle brand store "
    "manufacturer author artist publisher category categories genre genres tags keywords type "
    "description summary text body content about features",
}
_ITEM_STEMS = ("items", "products", "movies", "articles", "catalogue", "catalog")
_LOG_STEMS = ("interactions", "ratings", "events", "reviews", "log", "purchases", "clicks")


@dataclass(frozen=True, kw_only=True)
class TableColumns:
    """Names of the columns; what is None is guessed, and the data card says how.

    Attributes:
        user: User of an interaction.
        item: Item of an interaction.
        time: Time of an interaction; ``""`` reads none, and the order of the file counts.
        rating: Rating of an interaction; ``""`` reads none.
        item_key: Id of an item in the items table.
        title: What to show of an item.
        text: Columns of the items to make text of, in this order.
        vector: Column of the items with a vector.
        time_format: Format of text times for ``strptime``.
        time_unit: Unit of number times: ``s``, ``ms``, ``us`` or ``ns``.
    """

    user: str | None = None
    item: str | None = None
    time: str | None = None
    rating: str | None = None
    item_key: str | None = None
    title: str | None = None
    text: tuple[str, ...] = ()
    vector: str | None = None
    time_format: str | None = None
    time_unit: str | None = None


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
        text_template: Template of the item text; None names every text column.
        separator: Between values of separated files; None goes by ending and header.
        encoding: Encoding of separated files.

    Returns:
        The tables; the notes say which columns were taken.

    Raises:
        MissingPathError: If a table is not there.
        DataError: If a column is missing or cannot be guessed.
    """
    columns = columns or TableColumns()
    rejected = RejectedRows()
    taken: dict[str, str] = {}
    frame, time = pl.DataFrame(schema={USER: pl.String, ITEM: pl.String}), None
    if interactions is not None:
        log = TableFile(Path(interactions), separator=separator, encoding=encoding)
        frame, time = _read_log(log, columns, rejected, taken)
    catalogue = TableFile(Path(items), separator=separator, encoding=encoding)
    key = _named("item_key", columns.item_key, catalogue, taken, guess="item")
    assert key is not None
    vector = columns.vector
    if vector is not None:
        _known(vector, catalogue, "vector")
        taken["vector"] = vector
    texts, title = _text_columns(columns, catalogue, key, taken)
    # Every column is kept, since a template may name any.
    fields = [name for name in catalogue.names if name not in (key, vector)]
    table, vectors = _read_items(catalogue, key, fields, vector, rejected)
    return RawTables(
        name=name,
        source=" and ".join(f"table {Path(p).name}" for p in (items, interactions) if p),
        interactions=frame,
        items=table,
        text_template=text_template or template_of(texts),
        title_field=title or "",
        rejected=rejected,
        ticks_per_s=time.ticks_per_s if time else 1,
        vectors=vectors,
        items_only=interactions is None,
        notes={"columns": taken},
    )


def _read_log(
    log: TableFile, columns: TableColumns, rejected: RejectedRows, taken: dict[str, str]
) -> tuple[pl.DataFrame, TimeReader | None]:
    user = _named("user", columns.user, log, taken)
    item = _named("item", columns.item, log, taken)
    assert user is not None
    assert item is not None
    wanted = [Column(USER, user, "key"), Column(ITEM, item, "key")]
    time = None
    source = _named("time", columns.time, log, taken, optional=True)
    if source is not None:
        unit = ticks_of_unit(columns.time_unit)
        time = log.time_reader(source, time_format=columns.time_format, ticks_per_s=unit)
        wanted.append(Column(TIME, source, "time"))
    rating = _named("rating", columns.rating, log, taken, optional=True)
    if rating is not None:
        wanted.append(Column(RATING, rating, "rating", required=False))
    return log.read(wanted, rejected=rejected, time=time), time


def _named(
    role: str,
    setting: str | None,
    table: TableFile,
    taken: dict[str, str],
    *,
    guess: str | None = None,
    optional: bool = False,
) -> str | None:
    """Find the column of a role by setting, else by a usual name."""
    if setting:
        _known(setting, table, role)
        taken[role] = setting
        return setting
    usual = _NAMES[guess or role].split()
    plain = {_plain(name): name for name in reversed(table.names)}
    if guess == "item":
        usual += ["id", "key"]
    found = None if setting == "" else next((plain[n] for n in usual if n in plain), None)
    if found is None and not optional:
        raise DataError(
            f"table must have a column for the {role.replace('_', ' ')}, got "
            f"{', '.join(table.names)} in {table.path}; name it with --{role.replace('_', '-')}"
            f"-column, or call it {usual[0].replace('id', '_id')}"
        )
    if found is not None:
        taken[role] = f"{found} (guessed)"
    return found


def _known(name: str, table: TableFile, role: str) -> None:
    if name not in table.names:
        raise ConfigError(
            f"{role} column must be one of the table's, got {name!r} for {table.path}; "
            f"{did_you_mean(name, table.names)}"
        )


def _text_columns(
    columns: TableColumns, table: TableFile, key: str, taken: dict[str, str]
) -> tuple[list[str], str | None]:
    """Choose the columns to make text of, and the one to show."""
    for name in columns.text:
        _known(name, table, "text")
    title = columns.title
    if title is not None:
        _known(title, table, "title")
    else:
        usual = {_plain(name): name for name in reversed(table.names) if name != key}
        title = next((usual[name] for name in _NAMES["title"].split() if name in usual), None)
    names = list(columns.text)
    if not names:
        # A template could not name a column with these signs.
        rest = [
            name
            for name in table.names
            if name not in (key, columns.vector) and not set(name) & set(";{}")
        ]
        names = [name for name in rest if _plain(name) in _NAMES["text"].split()]
        names = names or [name for name in rest if _is_text(table.sample(name))]
        if title is not None:
            names = [title, *(name for name in names if name != title)]
    if not names and columns.vector is None:
        raise DataError(
            f"items must have text or a vector, got {', '.join(table.names)} in {table.path}; "
            "name columns with --text-column or --vector-column"
        )
    how = "" if columns.text else " (guessed)"
    if names:
        taken["text"] = ", ".join(names) + how
    if title is not None:
        taken["title"] = title + ("" if columns.title else " (guessed)")
    return names, title


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


def _is_text(values: Sequence[str]) -> bool:
    """Tell text from numbers and flags: most values hold a word."""
    words = sum(bool(re.search(r"[^\W\d_]{2,}", value)) for value in values)
    return bool(values) and 2 * words > len(values)


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _matches(folder: Path, split: str | None) -> str | None:
    try:
        find_tables(folder)
    except GenRecError:
        return None
    return "tables"


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
        "text_template",
        "separator",
        "encoding",
    ),
    matches=_matches,
    find=_find,
    read=_read,
)
