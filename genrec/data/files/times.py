"""How the times of one column are written, and how they become integers."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Literal

import polars as pl

from genrec.errors import ConfigError, DataError

__all__ = ["TimeReader", "looks_like_times", "ticks_of_unit"]

_INTEGER = re.compile(r"[+-]?[0-9]{1,19}")
_CLOCKS = (" %H:%M:%S", "T%H:%M:%S", " %H:%M", "")
_ISO_FORMATS = tuple(f"%Y-%m-%d{clock}" for clock in _CLOCKS)
#: Other usual ways to write a date; 01/02/2024 is two days, of which only other rows tell which.
_OTHER_FORMATS = tuple(
    date + clock
    for date in (
        "%d.%m.%Y",
        "%d.%m.%y",
        "%Y/%m/%d",
        "%d/%m/%Y",
        "%m/%d/%Y",
        "%d-%m-%Y",
        "%m-%d-%Y",
    )
    for clock in _CLOCKS
)
_TRIED_VALUES = 200


@dataclass(frozen=True, kw_only=True)
class TimeReader:
    """Turns the times of one column into integers; the default reads whole seconds.

    Attributes:
        style: What the values are: ``"integer"``, ``"float"`` or ``"text"``.
        ticks_per_s: Unit of the result: 1 for seconds, 1,000 for milliseconds, and so on.
        factor: What number times are multiplied by.
        text_format: Format of text times for ``strptime``; None reads any ISO time.
    """

    style: Literal["integer", "float", "text"] = "integer"
    ticks_per_s: int = 1
    factor: int = 1
    text_format: str | None = None

    @classmethod
    def guess(
        cls, samples: Sequence[str], *, time_format: str | None = None, where: str = "time"
    ) -> TimeReader:
        """Tell from some values how a column is to be read.

        Args:
            samples: Some values of the column, as text.
            time_format: Format of text times for ``strptime``; None guesses.
            where: Name of column and file, for the error.

        Returns:
            The reader.

        Raises:
            DataError: If the samples are neither numbers nor times of a known form, could be of
                two forms, or do not have the given one.
        """
        values = [text.strip() for text in samples if text.strip()]
        numbers = [number for number in map(_number, values) if number is not None]
        # One odd value must not turn a column of numbers into one of text.
        if time_format is None and len(numbers) * 2 >= len(values):
            whole = all(_INTEGER.fullmatch(text) for text in values if _number(text) is not None)
            typical = sorted(map(abs, numbers))[len(numbers) // 2] if numbers else 0.0
            # 1e11 seconds are the year 5138, 1e11 milliseconds are 1973: sizes tell the unit.
            scale = next(s for s in (1, 10**3, 10**6, 10**9) if typical < 1e11 * s or s == 10**9)
            # Seconds written as floats may carry fractions; keep them as milliseconds.
            factor = 1_000 if not whole and scale == 1 else 1
            return cls(
                style="integer" if whole else "float", ticks_per_s=scale * factor, factor=factor
            )
        form = time_format if time_format is not None else _format_of(values, where)
        return cls(style="text", ticks_per_s=1_000, text_format=_checked(form, values, where))

    @property
    def dtype(self) -> pl.DataType:
        """Type as which polars parses the column."""
        types = {"integer": pl.Int64(), "float": pl.Float64(), "text": pl.String()}
        return types[self.style]

    def expression(self, value: pl.Expr, dtype: pl.DataType) -> pl.Expr:
        """Turn values into ticks.

        Args:
            value: The column, blanks around text cut.
            dtype: Its type: a number, text, or a date or time of Parquet.

        Returns:
            Int64; null where a value is no time.
        """
        if dtype.is_temporal():
            return value.cast(pl.Datetime("ms")).dt.timestamp("ms")
        if self.style == "text":
            form = self.text_format
            if form is None or "%z" in form:  # polars reads no offset that differs by row
                return value.map_elements(
                    lambda text: _ticks(text, form), return_dtype=pl.Int64, skip_nulls=True
                )
            moment = value.str.strptime(pl.Datetime("ms"), form, strict=False)
            return moment.dt.timestamp("ms")
        if dtype.is_integer():
            return value * self.factor if self.factor != 1 else value
        rounded = (value.cast(pl.Float64, strict=False) * self.factor).round(0)
        ticks = rounded.cast(pl.Int64, strict=False)
        if self.style == "float":
            return ticks
        # A float holds 53 bits: what is an integer as it stands does not go through one.
        return pl.coalesce(value.cast(pl.Int64, strict=False), ticks)


def ticks_of_unit(unit: str | None) -> int | None:
    """Read a time unit: ticks per second of ``s``, ``ms``, ``us`` or ``ns``; None stays None."""
    units = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
    if unit is not None and unit not in units:
        raise ConfigError(f"time_unit must be s, ms, us or ns, got {unit!r}; leave it out to guess")
    return None if unit is None else units[unit]


def looks_like_times(values: Sequence[str]) -> bool:
    """Tell whether most of some values are written as dates; numbers could be anything."""
    tried = [value.strip() for value in values[:_TRIED_VALUES]]
    if all(_INTEGER.fullmatch(value) for value in tried):
        return False
    return any(2 * count > len(tried) for count in _fits(tried).values())


def _fits(values: Sequence[str]) -> dict[str | None, int]:
    """Count how many values have each format; None is any ISO time."""
    return {
        form: sum(_ticks(value, form) is not None for value in values)
        for form in (None, *_OTHER_FORMATS)
    }


def _format_of(values: Sequence[str], where: str) -> str | None:
    """Find the format of most values; None where only any ISO time fits them."""
    # What all values have comes first: polars parses a format much faster than any ISO time.
    for form in _ISO_FORMATS:
        if all(_ticks(value, form) is not None for value in values):
            return form
    tried = values[:_TRIED_VALUES]
    fits = _fits(tried)
    most = max(fits.values())
    best = [form for form, count in fits.items() if count == most]
    if most == 0 or best[0] is None:
        return None
    if len(best) > 1:
        raise DataError(
            f"times must be of one form, got {tried[0]!r} in {where}, which fits "
            f"{' and '.join(map(repr, best))}; say which with --time-format {best[0]!r}"
        )
    return best[0]


def _checked(form: str | None, values: Sequence[str], where: str) -> str | None:
    """Refuse a format that no value has, and offer the one that they have."""
    if any(_ticks(value, form) is not None for value in values):
        return form
    if form is None:
        raise DataError(
            f"times must be numbers or dates of a usual form, got {values[0]!r} in {where}; "
            "give --time-format, for example '%d/%m/%Y %H:%M'"
        )
    usual = (*_ISO_FORMATS, *_OTHER_FORMATS)
    got = values[0] if values else ""
    fitting = next((other for other in usual if _ticks(got, other) is not None), None)
    raise DataError(
        f"times must have the --time-format {form!r}, got {got!r} in {where}; "
        f"{f'try {fitting!r}' if fitting else 'leave it out to guess'}"
    )


def _ticks(text: str, form: str | None) -> int | None:
    """Read one time in a format, or any ISO time, as milliseconds; None where that fails."""
    try:
        if form is not None:
            moment = datetime.strptime(text, form)
        else:
            moment = datetime.fromisoformat(text.replace("Z", "+00:00"))
    except ValueError:
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=timezone.utc)
    return round(moment.timestamp() * 1_000)


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None
