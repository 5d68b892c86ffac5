from __future__ import annotations

import polars as pl
import pytest

from genrec.data.files.times import TimeReader, looks_like_times, ticks_of_unit
from genrec.errors import ConfigError, DataError


def ticks(reader, *values):
    """Read values as text, and as the type that polars parses where they have it."""
    frame = pl.DataFrame({"t": values}, schema={"t": pl.String})
    return frame.select(reader.expression(pl.col("t"), pl.String())).to_series().to_list()


@pytest.mark.parametrize(
    ("samples", "style", "ticks_per_s", "value", "expected"),
    [
        (["978300760", "978302109"], "integer", 1, "978300760", 978300760),
        (["1588687728923"], "integer", 1_000, "1588687728923", 1588687728923),
        (["1588687728923000"], "integer", 10**6, "1588687728923000", 1588687728923000),
        (["1588687728923000000"], "integer", 10**9, "1588687728923000001", 1588687728923000001),
        (["874965758.0", "8.0E8"], "float", 10**6, "874965758.5", 874965758500000),
        (["1588687728923.0"], "float", 10**6, "1588687728923.25", 1588687728923250),
        (["2020-01-02"], "text", 1_000, "2020-01-02", 1577923200000),
        (["2020-01-02 03:04:05"], "text", 1_000, "2020-01-02 03:04:05", 1577934245000),
        (["2020-01-02T03:04:05Z"], "text", 10**6, "2020-01-02T03:04:05Z", 1577934245000000),
        (
            ["2020-01-02T03:04:05.250+01:00"],
            "text",
            10**6,
            "2020-01-02T03:04:05+01:00",
            1577930645000000,
        ),
        (["2024-12-31 14:05"], "text", 1_000, "2024-12-31 14:05", 1735653900000),
        (["31.12.2024 14:05"], "text", 1_000, "1.2.2024 00:30", 1706747400000),
        (["31.12.2024", "01.02.2024"], "text", 1_000, "31.12.2024", 1735603200000),
        (["31.12.24 14:05:00"], "text", 1_000, "31.12.24 14:05:00", 1735653900000),
        (["01/02/2024", "31/12/2024"], "text", 1_000, "01/02/2024", 1706745600000),
        (["01/02/2024", "12/31/2024"], "text", 1_000, "01/02/2024", 1704153600000),
        (["2024/12/31", "?"], "text", 1_000, "2024/12/31", 1735603200000),
        (["17 Apr 2024"], "text", 1_000, "3 Dec 2024", 1733184000000),
        (["17 April 2024 10:30"], "text", 1_000, "3 May 2024 00:00", 1714694400000),
        (["May 3, 2024"], "text", 1_000, "Jun 4, 2024", 1717459200000),  # May is short and long
        (["17-Apr-2024"], "text", 1_000, "03-Dec-2024", 1733184000000),
        (["01 May 2024", "30 May 2024"], "text", 1_000, "01 June 2024", 1717200000000),
        (["Jan 1, 2024", "January 2, 2024"], "text", 1_000, "February 3, 2024", 1706918400000),
        (
            ["Sat, 28 Nov 2026 10:00:00 GMT"],
            "text",
            1_000,
            "Sat, 28 Nov 2026 10:00:00 GMT",
            1795860000000,
        ),
        (["01022024", "31122024"], "text", 1_000, "03122024", 1733184000000),
        (["12312024", "01022024"], "text", 1_000, "12032024", 1733184000000),
        (["20240417", "0", "20241203", "n/a"], "text", 1_000, "20241203", 1733184000000),
        (["2024041712"], "text", 1_000, "2024120300", 1733184000000),
        (["202404"], "text", 1_000, "202412", 1733011200000),
        (["2024-03"], "text", 1_000, "2024-04", 1711929600000),
        (
            ["Fri, 27 Nov 2026 10:00:00 +0100"],
            "text",
            1_000,
            "Sat, 28 Nov 2026 10:00:00 +0000",
            1795860000000,
        ),
        (["20240417", "20241203"], "text", 1_000, "20241203", 1733184000000),
        (["20240417.0"], "text", 1_000, "20241203.0", 1733184000000),
        (["20240417"] * 9 + ["unknown"], "text", 1_000, "20241203", 1733184000000),
        (["20240417120501"], "text", 1_000, "20241203000001", 1733184001000),
        (["202404171205"], "text", 1_000, "202412030000", 1733184000000),
        (["20240417", "20241303"], "integer", 1, "20241303", 20241303),  # no month
        (["18230417", "18231203"], "integer", 1, "18231203", 18231203),  # no year of a log
        ([], "integer", 1, "5", 5),
        (["12", "oops", "13"], "integer", 1, "14", 14),  # one odd value changes nothing
    ],
)
def test_styles(samples, style, ticks_per_s, value, expected):
    reader = TimeReader.guess(samples)
    assert (reader.style, reader.ticks_per_s) == (style, ticks_per_s)
    assert ticks(reader, value, None, "soon") == [expected, None, None]
    # Parsed by polars as a number, it gives the same.
    typed = pl.DataFrame({"t": [value]}).select(pl.col("t").cast(reader.dtype))
    assert typed.select(reader.expression(pl.col("t"), reader.dtype)).item() == expected


@pytest.mark.parametrize("dtype", [pl.Int32(), pl.Int64(), pl.Float64()])
def test_dates_that_are_stored_as_numbers(dtype):
    """As in Parquet, with gaps and without; 20240417 is no second of August 1970."""
    frame = pl.DataFrame({"t": pl.Series([20240417, 20241203], dtype=dtype)})
    reader = TimeReader.guess(list(map(str, frame["t"].to_list())))
    found = frame.select(reader.expression(pl.col("t"), dtype)).to_series().to_list()
    assert found == [1713312000000, 1733184000000]
    counted = TimeReader.guess(["20240417"], counted=True)
    assert (counted.style, counted.ticks_per_s) == ("integer", 1)


def test_two_orders_of_digits_are_asked_about():
    with pytest.raises(DataError, match="fits '%d%m%Y' and '%m%d%Y'; say which with --time-format"):
        TimeReader.guess(["01022024", "03042024"])
    reader = TimeReader.guess(["01022024.0"], time_format="%d%m%Y")
    assert ticks(reader, "03122024", "03122024.0") == [1733184000000] * 2


def test_format_by_setting():
    reader = TimeReader.guess(["31/12/2019 23:59"], time_format="%d/%m/%Y %H:%M")
    assert ticks(reader, "01/02/2020 00:00", "2020-02-01") == [1580515200000, None]


def test_a_format_with_offsets():
    reader = TimeReader.guess(["01.02.2020 +0100"], time_format="%d.%m.%Y %z")
    assert ticks(reader, "01.02.2020 +0100", "01.02.2020 +0000") == [1580511600000, 1580515200000]


@pytest.mark.parametrize("value", [None, "soon", "True", "nan", "inf", "99999999999999999999"])
def test_what_is_no_time(value):
    assert ticks(TimeReader(), value) == [None]


def test_whole_numbers_written_as_floats():
    assert ticks(TimeReader(), "12.0", "1e3") == [12, 1000]


def test_times_that_cannot_be_understood():
    with pytest.raises(
        DataError, match=r"dates of a usual form, got 'soon' in 'when' of log.csv; give --time-"
    ):
        TimeReader.guess(["soon"], where="'when' of log.csv")
    with pytest.raises(
        DataError,
        match=r"one form, got '01/02/2024' in .* fits '%d/%m/%Y' and '%m/%d/%Y'; say which",
    ):
        TimeReader.guess(["01/02/2024", "03/04/2024"])


def test_a_format_that_does_not_fit_is_named():
    with pytest.raises(
        DataError, match=r"--time-format '%d/%m/%Y', got '31.12.2024' in time; try '%d.%m.%Y'"
    ):
        TimeReader.guess(["31.12.2024"], time_format="%d/%m/%Y")
    with pytest.raises(DataError, match=r"--time-format '%Q', got 'x' in time; leave it out"):
        TimeReader.guess(["x"], time_format="%Q")


@pytest.mark.parametrize(
    ("values", "answer"),
    [
        (["31.12.2024 14:05", "1.1.2025 00:00"], True),
        (["2024-12-31T14:05:00Z", "?"], False),  # half of them
        (["2024-12-31", "2025-01-01", "?"], True),
        (["20241231", "20250101"], True),
        (["20241231", "20251301"], False),  # no month: a number
        (["20240417120501"], True),
        (["17 Apr 2024", "3 Dec 2024"], True),
        (["Aug 11, 2024", "December 1, 2024"], True),
        (["01022024", "31122024"], True),
        (["2024010112"], True),
        (["202401", "202412"], True),
        (["0", "0", "0", "20240101"], False),
        (["2024-03", "2024-04"], True),
        (["Fri, 27 Nov 2026 10:00:00 +0100"], True),
        (["1700000000", "1710000000"], True),
        (["1700000000000.0", "1710000000000.0"], True),
        (["1000000001", "1000006000"], False),  # numbers of orders
        (["4006381333931", "4012345678901"], False),  # numbers of goods
        (["red", "blue"], False),
        ([], False),
    ],
)
def test_columns_of_dates(values, answer):
    assert looks_like_times(values) is answer


def test_units():
    assert ticks_of_unit(None) is None
    assert [ticks_of_unit(u) for u in ("s", "ms", "us", "ns")] == [1, 10**3, 10**6, 10**9]
    with pytest.raises(ConfigError, match="time_unit must be s, ms, us or ns, got 'min'"):
        ticks_of_unit("min")


@pytest.mark.parametrize(
    ("usual", "short"),
    [
        ("01.03.2024", "01.03.24"),
        ("2024-03-01", "24-03-01"),
        ("2024/03/01", "24/03/01"),
        ("2024-03-01 10:00", "0024-03-01 10:00"),
        ("2024-03-01T10:00:00.5", "0024-03-01T10:00:00.5"),
    ],
)
def test_a_year_of_two_digits_among_four_is_no_time(usual, short):
    reader = TimeReader.guess([usual, usual, short])
    assert ticks(reader, short) == [None]
    assert ticks(reader, usual) != [None]
    with pytest.raises(
        DataError, match=r"must have the --time-format '%d\.%m\.%Y', got '01.03.24'"
    ):
        TimeReader.guess(["01.03.24"], time_format="%d.%m.%Y")


@pytest.mark.parametrize(
    ("earlier", "later", "form"),
    [
        ("2024-03-01 10:00:00.000100", "2024-03-01 10:00:00.000200", None),
        ("2024-03-01T10:00:00.000100Z", "2024-03-01T10:00:00.000200Z", None),
        ("01.03.2024 10:00:00.0001", "01.03.2024 10:00:00.0002", "%d.%m.%Y %H:%M:%S.%f"),
        ("01.03.2024 10:00:00,0001", "01.03.2024 10:00:00,0002", "%d.%m.%Y %H:%M:%S,%f"),
        ("1709287200.000100", "1709287200.000200", None),
        ("1709287200000.1", "1709287200000.2", None),
    ],
)
def test_fractions_of_a_millisecond_keep_their_order(earlier, later, form):
    reader = TimeReader.guess([earlier, later], time_format=form)
    first, second = ticks(reader, earlier, later)
    assert second - first == 100
    assert first == 1709287200000100
    assert reader.ticks_per_s == 10**6


@pytest.mark.parametrize("unit", ["ms", "us", "ns"])
def test_times_of_parquet_are_as_fine_as_they_are_stored(unit):
    per_s = {"ms": 10**3, "us": 10**6, "ns": 10**9}[unit]
    moments = pl.Series([1709287200 * per_s, 1709287200 * per_s + 1]).cast(pl.Datetime(unit))
    reader = TimeReader.of_column(moments.dtype)
    found = moments.to_frame("t").select(reader.expression(pl.col("t"), moments.dtype))
    assert found.to_series().to_list() == [1709287200 * per_s, 1709287200 * per_s + 1]
    assert reader.ticks_per_s == per_s
