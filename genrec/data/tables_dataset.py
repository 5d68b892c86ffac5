"""Tables of your own: items with text, interactions with user, item and time."""

from __future__ import annotations

import os
from pathlib import Path

import polars as pl

from genrec.data.card import RejectedRows
from genrec.data.tables import ITEM, RATING, TIME, USER, RawTables
from genrec.errors import DataError, MissingPathError

__all__ = ["find_tables", "read_tables"]

_SUFFIXES = (".csv", ".csv.gz")

_GUESSES = {
    USER: ("user_id", "user", "customer_id"),
    ITEM: ("item_id", "item", "product_id"),
    TIME: ("timestamp", "time"),
    RATING: ("rating", "stars"),
}


def find_tables(folder: str | os.PathLike[str]) -> tuple[Path, Path]:
    """Find the two tables of a folder, ``items.*`` and ``interactions.*``.

    Args:
        folder: The folder.

    Returns:
        Path of the items and of the interactions.

    Raises:
        MissingPathError: If one of them is not there.
    """
    base = Path(folder)
    found = []
    for stem in ("items", "interactions"):
        paths = [base / f"{stem}{suffix}" for suffix in _SUFFIXES]
        path = next((path for path in paths if path.is_file()), None)
        if path is None:
            raise MissingPathError(
                f"folder of tables must hold {stem}{_SUFFIXES[0]}, got {base} without it; "
                "add the file or name it by setting"
            )
        found.append(path)
    return found[0], found[1]


def read_tables(
    *, items: Path, interactions: Path, name: str, text_template: str | None = None
) -> RawTables:
    """Read two tables.

    Args:
        items: One row an item.
        interactions: One row an interaction.
        name: Short name of the data set.
        text_template: Template of the item text; None names every column.

    Returns:
        The tables.

    Raises:
        DataError: If a column is missing.
    """
    rejected = RejectedRows()
    rows = pl.read_csv(interactions, infer_schema=False)
    named = {column: _find(rows.columns, column, interactions) for column in _GUESSES}
    rows = rows.select(pl.col(source).alias(column) for column, source in named.items())
    rows = rows.with_columns(pl.col(TIME).cast(pl.Int64), pl.col(RATING).cast(pl.Float32))
    table = pl.read_csv(items, infer_schema=False)
    key = _find(table.columns, ITEM, items)
    table = table.rename({key: ITEM})
    fields = [field for field in table.columns if field != ITEM]
    template = "; ".join(f"{field.replace('_', ' ').capitalize()}: {{{field}}}" for field in fields)
    return RawTables(
        name=name,
        source=f"tables {items.name} and {interactions.name}",
        interactions=rows,
        items=table,
        text_template=text_template or template,
        rejected=rejected,
    )


def _find(columns: list[str], column: str, path: Path) -> str:
    for guess in _GUESSES[column]:
        if guess in columns:
            return guess
    raise DataError(
        f"table must have a column for {column}, got {', '.join(columns)} in {path}; "
        f"name it by setting, or call it {_GUESSES[column][0]}"
    )
