"""What is read from a table's columns, and how times are understood.

A file is first parsed by polars in one go. Where that fails, or gives less than the lines hold,
it is parsed again in blocks, and a block that polars cannot parse is read line by line, so that
each bad line is counted with its number and its reason. Every way gives the same values.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any, Literal

import polars as pl

from genrec.errors import ConfigError, DataError, did_you_mean

__all__ = [
    "Column",
    "TimeReader",
    "convert",
    "final_schema",
    "find_columns",
    "finish",
    "parsed_whole",
    "schema_of",
    "ticks_of_unit",
]

Kind = Literal["key", "number_key", "time", "rating", "text"]

_FINAL: dict[Kind, pl.DataType] = {
    "key": pl.String(),
    "number_key": pl.Int32(),
    "time": pl.Int64(),
    "rating": pl.Float32(),
    "text": pl.String(),
}
_INTEGER = re.compile(r"[+-]?[0-9]{1,19}")
_LARGEST_INT32 = 2**31 - 1
_LARGEST_TIME = 2**63


@dataclass(frozen=True)
class Column:
    """One column to read.

    Attributes:
        name: What to call it.
        source: What the file calls it.
        kind: ``"key"`` (text, blanks around it cut), ``"number_key"`` (an integer), ``"time"``,
            ``"rating"`` (a number) or ``"text"``.
        required: Reject rows without it.
    """

    name: str
    source: str
    kind: Kind
    required: bool = True


class TimeReader:
    """Turn the times of one file into integers.

    Args:
        samples: Some values of the column, as text.
        time_format: Format of text times for ``datetime.strptime``; None guesses.
        where: Name of column and file, for the error.

    Attributes:
        style: ``"integer"``, ``"float"`` or ``"text"``.
        ticks_per_s: Unit of the result: 1 for seconds, 1,000 for milliseconds, and so on.

    Raises:
        DataError: If the samples are neither numbers nor ISO times.
    """

    def __init__(
        self, samples: Sequence[str], *, time_format: str | None = None, where: str = "time"
    ) -> None:
        self.time_format = time_format
        values = [text.strip() for text in samples if text.strip()]
        numbers = [number for number in map(_number, values) if number is not None]
        # One odd value must not turn a column of numbers into one of text.
        if time_format is None and len(numbers) * 2 >= len(values):
            whole = all(_INTEGER.fullmatch(text) for text in values if _number(text) is not None)
            self.style: Literal["integer", "float", "text"] = "integer" if whole else "float"
            typical = sorted(map(abs, numbers))[len(numbers) // 2] if numbers else 0.0
            scale = next(s for s in (1, 10**3, 10**6, 10**9) if typical < 1e11 * s or s == 10**9)
            # Seconds written as floats may carry fractions; keep them as milliseconds.
            self._factor = 1_000 if self.style == "float" and scale == 1 else 1
            self.ticks_per_s = scale * self._factor
            return
        self.style, self._factor, self.ticks_per_s = "text", 1, 1_000
        self._polars_format = time_format or _format_of(values)
        if not any(self._text(value) is not None for value in values):
            raise DataError(
                f"times must be numbers or ISO dates, got {values[0]!r} in {where}; "
                "give time_format, for example '%d/%m/%Y %H:%M'"
            )

    @property
    def dtype(self) -> pl.DataType:
        """Type as which polars parses the column."""
        types = {"integer": pl.Int64(), "float": pl.Float64(), "text": pl.String()}
        return types[self.style]

    def expression(self, name: str) -> pl.Expr:
        """Turn a parsed column into ticks; null where that fails."""
        column = pl.col(name)
        if self.style == "integer":
            return column
        if self.style == "float":
            return (column * self._factor).round(0).cast(pl.Int64, strict=False)
        if self._polars_format is None:
            return column.map_elements(self.ticks, return_dtype=pl.Int64, skip_nulls=True)
        moment = column.str.strip_chars().str.strptime(
            pl.Datetime("ms"), self._polars_format, strict=False
        )
        return moment.dt.timestamp("ms")

    def ticks(self, value: object) -> int | None:
        """Turn one value into ticks; None where that fails.

        Args:
            value: A number, or text.

        Returns:
            The time, or None.
        """
        if value is None or isinstance(value, bool):
            return None
        text = str(value).strip()
        if self.style == "text":
            return self._text(text)
        if _INTEGER.fullmatch(text):
            ticks = int(text) * self._factor
        else:
            number = _number(text)
            if number is None:
                return None
            ticks = round(number * self._factor)
        return ticks if abs(ticks) < _LARGEST_TIME else None

    def _text(self, text: str) -> int | None:
        try:
            if self.time_format is not None:
                moment = datetime.strptime(text, self.time_format)
            else:
                moment = datetime.fromisoformat(text.replace("Z", "+00:00"))
        except ValueError:
            return None
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=timezone.utc)
        return round(moment.timestamp() * 1_000)


def _format_of(values: Sequence[str]) -> str | None:
    """Find the one ISO format that all values have; polars parses those fast."""
    for time_format in ("%Y-%m-%d %H:%M:%S", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%d"):
        try:
            for value in values:
                datetime.strptime(value, time_format)
        except ValueError:
            continue
        return time_format
    return None


def schema_of(columns: Sequence[Column], time: TimeReader | None) -> dict[str, pl.DataType]:
    """Give the types as which polars parses the columns, by the file's names.

    Args:
        columns: The columns.
        time: How to read the time column, where there is one.

    Returns:
        Type by name.
    """
    return {
        column.source: time.dtype if column.kind == "time" and time else _FINAL[column.kind]
        for column in columns
    }


def finish(frame: pl.LazyFrame, columns: Sequence[Column], time: TimeReader | None) -> pl.LazyFrame:
    """Give parsed columns their names and final form.

    Args:
        frame: What polars parsed, by the file's names.
        columns: The columns.
        time: How to read the time column.

    Returns:
        The columns by their own names.
    """
    expressions = []
    for column in columns:
        expression = pl.col(column.source)
        if column.kind == "key":
            expression = expression.str.strip_chars()
        elif column.kind == "time" and time is not None:
            expression = time.expression(column.source)
        elif column.kind == "rating":
            expression = pl.when(expression.is_finite()).then(expression)
        expressions.append(expression.alias(column.name))
    return frame.select(expressions)


def parsed_whole(frame: pl.DataFrame, columns: Sequence[Column], num_rows: int | None) -> bool:
    """Tell whether a file or a block was parsed without loss.

    Args:
        frame: What :func:`finish` gave.
        columns: The columns.
        num_rows: Rows that it holds; None where the format cannot hide any.

    Returns:
        True where each line is a row and nothing required is missing.
    """
    if num_rows is not None and len(frame) != num_rows:
        return False
    for column in columns:
        values = frame[column.name]
        if column.required and values.null_count():
            return False
        if column.kind == "key" and (values == "").any():
            return False
    return True


def convert(value: Any, column: Column, time: TimeReader | None) -> Any:
    """Read one value, for chunks that polars could not parse.

    Args:
        value: Text of a table, or a value of a JSON object.
        column: Its column.
        time: How to read times.

    Returns:
        The value; None where it is empty and not required.

    Raises:
        ValueError: If the row must be rejected; the message is the reason.
    """
    if value is None or (isinstance(value, str) and not value.strip()):
        if column.required:
            raise ValueError(f"no {column.source}")
        return None
    if column.kind == "text":
        return value if isinstance(value, str) else str(value)
    if column.kind == "key":
        if not isinstance(value, (str, int)) or isinstance(value, bool):
            raise ValueError(f"{column.source} is no key")
        return str(value).strip()
    if column.kind == "number_key":
        text = str(value).strip()
        if not _INTEGER.fullmatch(text) or abs(int(text)) > _LARGEST_INT32:
            raise ValueError(f"{column.source} is no integer")
        return int(text)
    if column.kind == "time":
        assert time is not None
        ticks = time.ticks(value)
        if ticks is None:
            raise ValueError(f"{column.source} is no time")
        return ticks
    number = _number(str(value))
    if number is None:
        if column.required:
            raise ValueError(f"{column.source} is no number")
        return None
    return number


def final_schema(columns: Sequence[Column]) -> dict[str, pl.DataType]:
    """Give the types of the result, by the columns' own names."""
    return {column.name: _FINAL[column.kind] for column in columns}


def find_columns(columns: Sequence[Column], names: Sequence[str], where: object) -> list[int]:
    """Find columns by name.

    Args:
        columns: The columns.
        names: Names in the file.
        where: The file, for the error.

    Returns:
        Position of each.

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


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def ticks_of_unit(unit: str | None) -> int | None:
    """Read a time unit.

    Args:
        unit: ``s``, ``ms``, ``us``, ``ns``, or None to guess.

    Returns:
        Ticks per second, or None.

    Raises:
        ConfigError: If it is none of these.
    """
    units = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
    if unit is not None and unit not in units:
        raise ConfigError(f"time_unit must be s, ms, us or ns, got {unit!r}; leave it out to guess")
    return None if unit is None else units[unit]
