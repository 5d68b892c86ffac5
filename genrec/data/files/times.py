"""How the times of one column are written, and how they become integers."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta, timezone
from typing import Literal

import polars as pl

from genrec.errors import ConfigError, DataError

__all__ = ["TimeReader", "looks_like_times", "ticks_of_unit"]

_INTEGER = re.compile(r"[+-]?[0-9]{1,19}")
_CLOCKS = (" %H:%M:%S", "T%H:%M:%S", " %H:%M", "")
_ISO_FORMATS = tuple(f"%Y-%m-%d{clock}" for clock in _CLOCKS)
_DATES = (
    *("%d.%m.%Y", "%d.%m.%y", "%Y/%m/%d", "%d/%m/%Y", "%m/%d/%Y", "%d-%m-%Y", "%m-%d-%Y"),
    *("%d %B %Y", "%d-%B-%Y", "%B %d, %Y"),
)
#: Other usual ways to write a date; 01/02/2024 is two days, of which only other rows tell which.
_OTHER_FORMATS = (
    *(date + clock for date in _DATES for clock in _CLOCKS),
    *("%a, %d %b %Y %H:%M:%S %z", "%a, %d %b %Y %H:%M:%S GMT", "%Y-%m", "%Y/%m"),
)
#: Dates in digits alone, which are no count of seconds.
_DIGIT_FORMATS = {
    6: ("%Y%m",),
    8: ("%Y%m%d", "%d%m%Y", "%m%d%Y"),
    10: ("%Y%m%d%H",),
    12: ("%Y%m%d%H%M",),
    14: ("%Y%m%d%H%M%S",),
}
_IN_DIGITS = frozenset(form for forms in _DIGIT_FORMATS.values() for form in forms)
_DIGIT_YEARS = (1900, 2100)
_TRIED_VALUES = 200
_UNITS = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}  # ticks per second
_STORED: dict[int, Literal["ms", "us", "ns"]] = {10**3: "ms", 10**6: "us", 10**9: "ns"}
_MICRO = 10**6  # floats and texts are kept as finely, where they may have fractions
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_FIRST_YEAR = 1000  # polars reads 24 as the year 24 where four digits are asked for
_USUAL_S = (1e8, 1e10)  # 1973 to 2286: what a log of people holds


@dataclass(frozen=True, kw_only=True)
class TimeReader:
    """Turns the times of one column into integers; the default reads whole seconds.

    Attributes:
        style: What the values are: ``"integer"``, ``"float"`` or ``"text"``.
        ticks_per_s: Unit of the result: 1 for seconds, 1,000 for milliseconds, and so on.
        factor: What number times are multiplied by.
        text_format: Format of text times for ``strptime``; None reads any ISO time.
        is_dated: Whether number times are dates by their sizes, so that one of another size is of
            another unit.
    """

    style: Literal["integer", "float", "text"] = "integer"
    ticks_per_s: int = 1
    factor: int = 1
    text_format: str | None = None
    is_dated: bool = False

    @classmethod
    def guess(
        cls,
        samples: Sequence[str],
        *,
        time_format: str | None = None,
        where: str = "time",
        counted: bool = False,
    ) -> TimeReader:
        """Tell from some values how a column is to be read.

        Args:
            samples: Some values of the column, as text.
            time_format: Format of text times for ``strptime``; None guesses.
            where: Name of column and file, for the error.
            counted: Whether whole numbers are known to count a unit, so that none is a date.

        Returns:
            The reader.

        Raises:
            DataError: If the samples are neither numbers nor times of a known form, could be of
                two forms, or do not have the given one.
        """
        values = [text.strip() for text in samples if text.strip()]
        numbers = [number for number in map(_number, values) if number is not None]
        # One odd value must not turn a column of numbers into one of text.
        whole_values = [text.removesuffix(".0") for text in values]  # of a column with gaps
        if time_format is None and not counted:
            time_format = _digit_format(whole_values, where)
        if time_format in _IN_DIGITS:
            values = whole_values
        if time_format is None and len(numbers) * 2 >= len(values):
            whole = all(_INTEGER.fullmatch(text) for text in values if _number(text) is not None)
            typical = sorted(map(abs, numbers))[len(numbers) // 2] if numbers else 0.0
            # 1e11 seconds are the year 5138, 1e11 milliseconds are 1973: sizes tell the unit.
            scale = next(s for s in (1, 10**3, 10**6, 10**9) if typical < 1e11 * s or s == 10**9)
            least, most = _USUAL_S
            return replace(cls._of_numbers(scale, whole), is_dated=least <= typical / scale <= most)
        form = time_format if time_format is not None else _format_of(values, where)
        form = _checked(form, values, where)
        fine = form is None or re.search(r"%(?:\.?[369]?f)", form) is not None
        return cls(style="text", ticks_per_s=_MICRO if fine else 1_000, text_format=form)

    @classmethod
    def of_column(cls, dtype: pl.DataType) -> TimeReader:
        """Read dates or times of Parquet as finely as they are stored."""
        return cls(ticks_per_s=_UNITS[getattr(dtype, "time_unit", None) or "ms"])

    def of_unit(self, ticks_per_s: int) -> TimeReader:
        """Read numbers in a unit that somebody named; other times are as they are."""
        return (
            self if self.style == "text" else self._of_numbers(ticks_per_s, self.style == "integer")
        )

    @classmethod
    def _of_numbers(cls, scale: int, whole: bool) -> TimeReader:
        # Floats may carry fractions, which decide the order of two events.
        factor = 1 if whole else max(1, _MICRO // scale)
        style: Literal["integer", "float"] = "integer" if whole else "float"
        return cls(style=style, ticks_per_s=scale * factor, factor=factor)

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
        unit = _STORED.get(self.ticks_per_s, "ms")
        if dtype.is_temporal():
            return value.cast(pl.Datetime(unit)).dt.timestamp(unit)
        if self.style == "text":
            # chrono's %f counts nanoseconds, its %.f are the digits behind a point.
            form = None if self.text_format is None else self.text_format.replace(".%f", "%.f")
            value = value.cast(pl.String)
            if self.text_format in _IN_DIGITS:
                value = value.str.strip_suffix(".0")
            # Nor does polars read an offset that differs by row, no day, or an hour alone.
            alone = form is not None and ("%d" not in form or ("%H" in form and "%M" not in form))
            if form is None or "%z" in form or "%f" in form or alone:
                per_tick = _MICRO // self.ticks_per_s
                return value.map_elements(
                    lambda text: _ticks(text, self.text_format, per_tick),
                    return_dtype=pl.Int64,
                    skip_nulls=True,
                )
            # chrono's %B takes short names too, as a month's in a column that has both.
            whole_names = form.replace("%b", "%B")
            moment = value.str.strptime(pl.Datetime(unit), whole_names, strict=False)
            if "%Y" in form:
                moment = pl.when(moment.dt.year() >= _FIRST_YEAR).then(moment)
            return moment.dt.timestamp(unit)
        if dtype.is_integer():
            return value * self.factor if self.factor != 1 else value
        rounded = (value.cast(pl.Float64, strict=False) * self.factor).round(0)
        ticks = rounded.cast(pl.Int64, strict=False)
        if self.style == "float":
            return ticks
        # A float holds 53 bits: what is an integer as it stands does not go through one.
        return pl.coalesce(value.cast(pl.Int64, strict=False), ticks)

    @property
    def what(self) -> str:
        """What a value must be, in words: a time, and of which form."""
        return "time" if self.text_format is None else f"time of the form {self.text_format}"

    def doubts(self, value: pl.Expr, dtype: pl.DataType) -> dict[str, pl.Expr]:
        """Tell of which values the order may suffer though they are read.

        Args:
            value: The column, blanks around text cut.
            dtype: Its type.

        Returns:
            What is wrong and what was done, and where; where nothing can be wrong, nothing.
        """
        if dtype.is_temporal() or self.style == "text":
            return {}
        found = {}
        ticks = self.expression(value, dtype)
        scale = self.ticks_per_s // self.factor
        unit = next((name for name, per_s in _UNITS.items() if per_s == scale), "ticks")
        if self.is_dated:
            what = f"not in {unit} as the others by its size, taken as {unit}; write one unit"
            found[what] = self.of_other_unit(ticks)
        if self.style == "integer" and not dtype.is_integer():
            exact = value.cast(pl.Float64, strict=False)
            found[f"a fraction where the first are whole, rounded to {unit}"] = (
                exact != exact.round(0)
            )
        return found

    def of_other_unit(self, ticks: pl.Expr) -> pl.Expr:
        """Tell which ticks are no usual date, but would be one in another unit."""
        if not self.is_dated:
            return pl.lit(False)
        number = ticks / self.factor
        usual = {s: (number / s).is_between(*_USUAL_S) for s in _UNITS.values()}
        return ~usual[self.ticks_per_s // self.factor] & pl.any_horizontal(*usual.values())


def ticks_of_unit(unit: str | None) -> int | None:
    """Read a time unit: ticks per second of ``s``, ``ms``, ``us`` or ``ns``; None stays None."""
    if unit is not None and unit not in _UNITS:
        raise ConfigError(f"time_unit must be s, ms, us or ns, got {unit!r}; leave it out to guess")
    return None if unit is None else _UNITS[unit]


def looks_like_times(values: Sequence[str], *, counted: bool = True) -> bool:
    """Tell whether most of some values are dates, or, ``counted``, all seconds of recent years."""
    tried = [value.strip() for value in values[:_TRIED_VALUES]]
    numbers = [value.removesuffix(".0") for value in tried]
    if all(_INTEGER.fullmatch(value) for value in numbers):
        if _digit_format(numbers, None) is not None:
            return True
        return counted and _are_recent(list(map(int, numbers)))
    return any(2 * count > len(tried) for count in _fits(tried).values())


def _digit_format(values: Sequence[str], where: str | None) -> str | None:
    """Find the format of dates in digits alone, which nine of ten numbers but zeros must have.

    Where several orders of day and month fit, ``where`` names the column in the error; None takes
    the first.
    """
    numbers = [value for value in values if value.isdecimal() and value.strip("0")]
    if not numbers or 2 * len(numbers) < len(values):
        return None
    for length, forms in _DIGIT_FORMATS.items():
        whole = [value for value in numbers if len(value) == length]
        fits = {form: [_digit_ticks(value, form) for value in whole] for form in forms}
        most = max(sum(tick is not None for tick in ticks) for ticks in fits.values())
        if 10 * most < 9 * len(numbers):
            continue
        best = [f for f, ticks in fits.items() if sum(t is not None for t in ticks) == most]
        if len({tuple(fits[form]) for form in best}) > 1 and where is not None:
            raise DataError(
                f"times must be of one form, got {whole[0]!r} in {where}, which fits "
                f"{' and '.join(map(repr, best))}; say which with --time-format {best[0]!r}"
            )
        return best[0]
    return None


def _digit_ticks(value: str, form: str) -> int | None:
    """Read a date in digits of a year that a log may have; None where it is none."""
    ticks = _ticks(value, form)
    if ticks is None:
        return None
    year = (_EPOCH + timedelta(microseconds=ticks)).year
    return ticks if _DIGIT_YEARS[0] <= year < _DIGIT_YEARS[1] else None


def _are_recent(numbers: Sequence[int]) -> bool:
    """Tell whether whole numbers are seconds or milliseconds from 2001 to 2033, days apart.

    Order numbers of as many digits lie nearer to each other.
    """
    return any(
        all(10**9 * scale <= number < 2 * 10**9 * scale for number in numbers)
        and max(numbers) - min(numbers) > 86_400 * scale * 7
        for scale in (1, 10**3)
        if numbers
    )


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
    if len({tuple(_ticks(value, form) for value in tried) for form in best}) > 1:
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


def _ticks(text: str, form: str | None, per_tick: int = 1) -> int | None:
    """Read one time in a format, or any ISO time; None where that fails.

    ``per_tick`` is microseconds in a tick of the result.
    """
    try:
        if form is not None:
            moment = _parsed(text, form)
        else:
            moment = datetime.fromisoformat(text.replace("Z", "+00:00"))
    except ValueError:
        return None
    if moment.year < _FIRST_YEAR:
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=timezone.utc)
    return (moment - _EPOCH) // timedelta(microseconds=per_tick)


def _parsed(text: str, form: str) -> datetime:
    """Read a time in a format, whose months may be short as well as whole, as polars reads them."""
    if "%B" in form:
        with suppress(ValueError):
            return datetime.strptime(text, form.replace("%B", "%b"))
    return datetime.strptime(text, form)


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None
