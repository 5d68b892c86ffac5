"""What is read from a table's columns, and the one set of rules for its values.

A file is first parsed by polars in one go, with the types of its columns. Where that fails, or
gives less than the lines hold, it is parsed again in blocks, and a block that polars cannot
parse is split line by line into text, so that each bad line is counted with its number and its
reason. Whatever type a column was parsed as, :func:`finish` and :func:`accept` bring it into its
final form by the same expressions:

* a null or a blank text is no value, whatever the kind
* a key is text with the blanks around it cut; text is kept as it is
* a rating that is not finite is no value
* a row is rejected where a required value is missing, or where a value is there and cannot be read
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import polars as pl

from genrec.data.files.rejected import RejectedRows
from genrec.data.files.times import TimeReader
from genrec.errors import DataError, did_you_mean

__all__ = [
    "Column",
    "accept",
    "final_schema",
    "find_columns",
    "finish",
    "has_decimal_comma",
    "key_text",
    "parsed_whole",
    "schema_of",
]

Kind = Literal["key", "number_key", "time", "rating", "text"]

_DECIMAL_COMMA = re.compile(r"[-+]?(?:[0-9]*|[0-9]{1,3}(?:\.[0-9]{3})+),[0-9]+")
#: Thousands in a column of decimal commas.
_THOUSANDS = r"^[-+]?[0-9]{1,3}(?:\.[0-9]{3})+(?:,[0-9]+)?$"

#: Type of the result, and what the reason of a rejection calls a value of the kind.
_KINDS: dict[Kind, tuple[pl.DataType, str]] = {
    "key": (pl.String(), "key"),
    "number_key": (pl.Int32(), "integer"),
    "time": (pl.Int64(), "time"),
    "rating": (pl.Float32(), "number"),
    "text": (pl.String(), "text"),
}


@dataclass(frozen=True)
class Column:
    """One column to read.

    Attributes:
        name: What to call it.
        source: What the file calls it.
        kind: ``"key"`` (text, blanks around it cut), ``"number_key"`` (an integer), ``"time"``,
            ``"rating"`` (a number) or ``"text"``.
        required: Reject rows without it.
        decimal_comma: Whether numbers are written ``4,5``.
    """

    name: str
    source: str
    kind: Kind
    required: bool = True
    decimal_comma: bool = False


def schema_of(columns: Sequence[Column], time: TimeReader | None) -> dict[str, pl.DataType]:
    """Give the types as which polars parses the columns, by the file's names."""
    types = {column.source: _KINDS[column.kind][0] for column in columns}
    if time is not None:
        types |= {column.source: time.dtype for column in columns if column.kind == "time"}
    return types | {column.source: pl.String() for column in columns if column.decimal_comma}


def final_schema(columns: Sequence[Column]) -> dict[str, pl.DataType]:
    """Give the types of the result, by the columns' own names."""
    return {column.name: _KINDS[column.kind][0] for column in columns}


def finish(frame: pl.LazyFrame, columns: Sequence[Column], time: TimeReader | None) -> pl.LazyFrame:
    """Bring columns that polars parsed as :func:`schema_of` says into their final form.

    A rating that cannot be read is a PolarsError, since a null would pass for one that is missing.
    """
    types = schema_of(columns, time)
    return frame.select(
        _value(column, types[column.source], time, strict=column.kind == "rating")
        for column in columns
    )


def parsed_whole(
    frame: pl.DataFrame,
    columns: Sequence[Column],
    time: TimeReader | None,
    num_rows: int | None,
) -> bool:
    """Tell whether what :func:`finish` gave is whole: ``num_rows`` rows, nothing required missing.

    ``num_rows`` is None where the format cannot hide any. A time of another unit is no whole row
    either: only line by line it can be said where it stands.
    """
    if num_rows is not None and len(frame) != num_rows:
        return False
    if time is not None and time.is_dated:
        ticks = [pl.col(column.name) for column in columns if column.kind == "time"]
        odd = [time.of_other_unit(value).any() for value in ticks]
        if odd and frame.select(pl.any_horizontal(odd)).item():
            return False
    return not any(column.required and frame[column.name].null_count() for column in columns)


def accept(
    raw: pl.DataFrame,
    columns: Sequence[Column],
    time: TimeReader | None,
    *,
    lines: npt.NDArray[np.integer[Any]],
    file: str,
    rejected: RejectedRows,
) -> pl.DataFrame:
    """Bring columns of any type into their final form, row by row judged.

    Args:
        raw: The columns by the file's names, for example all as text.
        columns: The columns.
        time: How to read the time column.
        lines: Line of each row, from 1.
        file: Name of the file.
        rejected: Takes note of the rows that are left out; the first flaw of a row counts.

    Returns:
        The rows that are whole, by the columns' own names.
    """
    types = raw.schema
    frame = raw.select(_value(column, types[column.source], time) for column in columns)
    absent = raw.select(_absent(column, types[column.source]) for column in columns)
    good = pl.repeat(True, len(frame), eager=True)
    for column in columns:
        null, blank = frame[column.name].is_null(), absent[column.name]
        what = time.what if time is not None and column.kind == "time" else _KINDS[column.kind][1]
        flaws = {f"{column.source} is no {what}": null & ~blank}
        if column.required:
            flaws[f"no {column.source}"] = null & blank
        for reason, rows in flaws.items():
            rejected.add_lines(file, reason, lines[(rows & good).arg_true().to_numpy()])
            good &= ~rows
    for column in columns:
        if column.kind == "time" and time is not None:
            doubts = time.doubts(_plain(column, types[column.source]), types[column.source])
            for doubt, where in doubts.items():
                rows = raw.select(where.fill_null(False).alias("doubt"))["doubt"] & good
                rejected.repaired_lines(
                    file, f"{column.source} {doubt}", lines[rows.arg_true().to_numpy()]
                )
    return frame.filter(good)


def has_decimal_comma(values: Sequence[str]) -> bool:
    """Tell whether numbers are written ``4,5``: most fit that, and more so than ``4.5``."""
    commas = sum(bool(_DECIMAL_COMMA.fullmatch(value.strip())) for value in values)
    whole = sum(value.strip().isdigit() for value in values)
    points = sum("." in value and "," not in value for value in values)
    return commas > points and 2 * (commas + whole) > len(values)


def find_columns(columns: Sequence[Column], names: Sequence[str], where: object) -> list[int]:
    """Find the position of each column by name; ``where`` names the file in the error.

    Raises:
        DataError: If one is missing or there twice.
    """
    for column in columns:
        if (count := list(names).count(column.source)) != 1:
            hint = did_you_mean(column.source, names) if not count else "rename one of them"
            raise DataError(
                f"table must have one column {column.source!r}, got {count} in {where}; {hint}"
            )
    return [list(names).index(column.source) for column in columns]


def key_text(value: pl.Expr, dtype: pl.DataType) -> pl.Expr:
    """Write what names something as text, whatever type it was stored as; null for 7.5."""
    if dtype.is_float():
        # What pandas makes of integers beside an empty cell; 7.5 names nothing.
        value = pl.when(value == value.floor()).then(value.cast(pl.Int64, strict=False))
    return value.cast(pl.String)


def _value(
    column: Column, dtype: pl.DataType, time: TimeReader | None, *, strict: bool = False
) -> pl.Expr:
    """Bring a column of any type into its final form; null where there is no value of its kind."""
    value = _plain(column, dtype)
    if column.kind == "time":
        assert time is not None
        value = time.expression(value, dtype)
    elif column.kind == "key":
        value = key_text(value, dtype)
    value = value.cast(_KINDS[column.kind][0], strict=strict)
    if column.kind == "rating":
        value = pl.when(value.is_finite()).then(value)
    return value.alias(column.name)


def _plain(column: Column, dtype: pl.DataType) -> pl.Expr:
    """Cut blanks around text, and make what is blank null."""
    value = pl.col(column.source)
    if dtype == pl.String:
        plain = value.str.strip_chars()
        value = pl.when(plain != "").then(value if column.kind == "text" else plain)
        if column.decimal_comma:
            whole = value.str.replace_all(".", "", literal=True)
            value = (
                pl.when(value.str.contains(_THOUSANDS))
                .then(whole.str.replace(",", ".", literal=True))
                .when(value.str.contains(".", literal=True))
                .then(value + "?")  # a column has one sign: what has the other is no number
                .otherwise(value.str.replace(",", ".", literal=True))
            )
    return value


def _absent(column: Column, dtype: pl.DataType) -> pl.Expr:
    """Tell where a column says nothing, as opposed to something that cannot be read."""
    value = pl.col(column.source)
    absent = value.is_null()
    if dtype == pl.String:
        absent |= value.str.strip_chars() == ""
    if column.kind == "rating":
        number = value.cast(pl.Float32, strict=False)
        absent |= (~number.is_finite()).fill_null(False)
    return absent.fill_null(True).alias(column.name)
