"""The rules for values, and that every way of reading a table follows them."""

from __future__ import annotations

import json

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genrec.data.files.columns import Column, accept
from genrec.data.files.rejected import RejectedRows
from genrec.data.files.table_files import TableFile
from genrec.data.files.times import TimeReader


def judge(kind, *values, required=True, dtype=pl.String):
    """Read values of one column; give what is accepted and the lines of each reason."""
    raw, rejected = pl.DataFrame({"c": values}, schema={"c": dtype}), RejectedRows()
    frame = accept(
        raw,
        [Column("name", "c", kind, required=required)],
        TimeReader(),
        lines=np.arange(1, len(raw) + 1),
        file="f",
        rejected=rejected,
    )
    return frame["name"].to_list(), {e["reason"]: e["first_lines"] for e in rejected.as_list()}


@pytest.mark.parametrize(
    ("kind", "value", "result"),
    [
        ("key", " a b ", "a b"),
        ("number_key", " 12 ", 12),
        ("number_key", "-3", -3),
        ("rating", "4.5", 4.5),
        ("rating", " 3 ", 3.0),
        ("time", " 7 ", 7),
        ("text", " x ", " x "),
    ],
)
def test_values(kind, value, result):
    assert judge(kind, value) == ([result], {})


@pytest.mark.parametrize(
    ("kind", "value", "reason"),
    [
        ("key", None, "no c"),
        ("key", "  ", "no c"),
        ("text", "\t ", "no c"),
        ("number_key", "1.5", "c is no integer"),
        ("number_key", "3000000000", "c is no integer"),
        ("rating", "good", "c is no number"),
        ("rating", "nan", "no c"),
        ("time", "x", "c is no time"),
    ],
)
def test_values_that_are_rejected(kind, value, reason):
    assert judge(kind, value) == ([], {reason: [1]})


@pytest.mark.parametrize(
    ("kind", "value"), [("rating", ""), ("rating", "inf"), ("text", None), ("text", " ")]
)
def test_optional_values_may_be_missing(kind, value):
    assert judge(kind, value, required=False) == ([None], {})


def test_an_optional_value_that_cannot_be_read_is_rejected():
    assert judge("rating", "5", "good", required=False) == ([5.0], {"c is no number": [2]})


def test_integers_that_pandas_keeps_as_floats_are_keys():
    assert judge("key", 7.0, 7.5, None, dtype=pl.Float64) == (
        ["7"],
        {"c is no key": [2], "no c": [3]},
    )


COLUMNS = [
    Column("u", "user", "key"),
    Column("t", "time", "time"),
    Column("r", "rating", "rating", required=False),
    Column("n", "note", "text", required=False),
]
VALUE = st.sampled_from(
    ["", " ", "a", " b ", "7", "-1", "1.5", "4,5", "nan", "inf", "x;y", "1e3", "+2", "007"]
)


@settings(max_examples=60, deadline=None)
@given(rows=st.lists(st.tuples(VALUE, VALUE, VALUE, VALUE), min_size=1, max_size=8))
def test_every_format_gives_the_same_values(tmp_path_factory, rows):
    """CSV typed or as text, JSON lines and Parquet: one set of rules."""
    folder = tmp_path_factory.mktemp("tables")
    names = [column.source for column in COLUMNS]
    frame = pl.DataFrame(rows, dict.fromkeys(names, pl.String), orient="row")
    frame.write_csv(folder / "a.csv", quote_style="always")
    frame.write_parquet(folder / "a.parquet")
    (folder / "a.jsonl").write_text(
        "\n".join(json.dumps(dict(zip(names, row, strict=True))) for row in rows)
    )
    results = []
    for ending in ("csv", "jsonl", "parquet"):
        rejected = RejectedRows()
        table = TableFile(folder / f"a.{ending}")
        read = table.read(COLUMNS, rejected=rejected, time=TimeReader())
        reasons = sorted((e["reason"], e["rows"]) for e in rejected.as_list())
        results.append((read.rows(), reasons))
    assert results[0] == results[1] == results[2]
