from __future__ import annotations

import polars as pl
import pytest

from genrec.data.files.columns import Column, TimeReader, convert, ticks_of_unit
from genrec.errors import ConfigError, DataError


@pytest.mark.parametrize(
    ("samples", "style", "ticks_per_s", "value", "ticks"),
    [
        (["978300760", "978302109"], "integer", 1, "978300760", 978300760),
        (["1588687728923"], "integer", 1_000, "1588687728923", 1588687728923),
        (["1588687728923000"], "integer", 10**6, "1588687728923000", 1588687728923000),
        (["1588687728923000000"], "integer", 10**9, "1588687728923000000", 1588687728923000000),
        (["874965758.0", "8.0E8"], "float", 1_000, "874965758.5", 874965758500),
        (["1588687728923.0"], "float", 1_000, "1588687728923.0", 1588687728923),
        (["2020-01-02"], "text", 1_000, "2020-01-02", 1577923200000),
        (["2020-01-02 03:04:05"], "text", 1_000, "2020-01-02 03:04:05", 1577934245000),
        (["2020-01-02T03:04:05Z"], "text", 1_000, "2020-01-02T03:04:05Z", 1577934245000),
        (
            ["2020-01-02T03:04:05.250+01:00"],
            "text",
            1_000,
            "2020-01-02T03:04:05+01:00",
            1577930645000,
        ),
        ([], "integer", 1, "5", 5),
        (["12", "oops", "13"], "integer", 1, "14", 14),  # one odd value changes nothing
    ],
)
def test_time_styles(samples, style, ticks_per_s, value, ticks):
    reader = TimeReader(samples)
    assert (reader.style, reader.ticks_per_s) == (style, ticks_per_s)
    assert reader.ticks(value) == ticks
    # The way of polars gives the same.
    parsed = pl.DataFrame({"t": [value]}).select(pl.col("t").cast(reader.dtype))
    assert parsed.select(reader.expression("t")).item() == ticks


def test_time_format_by_setting():
    reader = TimeReader(["31/12/2019 23:59"], time_format="%d/%m/%Y %H:%M")
    assert reader.ticks("01/02/2020 00:00") == 1580515200000
    frame = pl.DataFrame({"t": ["01/02/2020 00:00", "2020-02-01"]})
    assert frame.select(reader.expression("t")).to_series().to_list() == [1580515200000, None]


@pytest.mark.parametrize("value", [None, "", "soon", True, "nan", "inf"])
def test_what_is_no_time(value):
    assert TimeReader(["1"]).ticks(value) is None


def test_times_that_cannot_be_understood():
    with pytest.raises(
        DataError, match=r"numbers or ISO dates, got '01/02/03' in .*; give time_format"
    ):
        TimeReader(["01/02/03"], where="'when' of log.csv")


def test_units():
    assert ticks_of_unit(None) is None
    assert [ticks_of_unit(u) for u in ("s", "ms", "us", "ns")] == [1, 10**3, 10**6, 10**9]
    with pytest.raises(ConfigError, match="time_unit must be s, ms, us or ns, got 'min'"):
        ticks_of_unit("min")


@pytest.mark.parametrize(
    ("kind", "value", "result"),
    [
        ("key", " a b ", "a b"),
        ("key", 7, "7"),
        ("number_key", " 12 ", 12),
        ("number_key", "-3", -3),
        ("rating", "4.5", 4.5),
        ("rating", 3, 3.0),
        ("text", ["x"], "['x']"),
    ],
)
def test_values(kind, value, result):
    assert convert(value, Column("c", "c", kind), None) == result


@pytest.mark.parametrize(
    ("kind", "value", "reason"),
    [
        ("key", None, "no c"),
        ("key", "  ", "no c"),
        ("key", {"a": 1}, "c is no key"),
        ("key", True, "c is no key"),
        ("number_key", "1.5", "c is no integer"),
        ("number_key", "3000000000", "c is no integer"),
        ("rating", "good", "c is no number"),
        ("rating", "nan", "c is no number"),
        ("time", "x", "c is no time"),
    ],
)
def test_values_that_are_rejected(kind, value, reason):
    with pytest.raises(ValueError, match=reason):
        convert(value, Column("c", "c", kind), TimeReader(["1"]))


@pytest.mark.parametrize(("kind", "value"), [("rating", "good"), ("rating", ""), ("text", None)])
def test_optional_values_may_be_missing(kind, value):
    assert convert(value, Column("c", "c", kind, required=False), None) is None
