"""Tables of lists, keys of any type, and times that cannot be as they stand."""

from __future__ import annotations

import json

import polars as pl
import pytest

from genrec.data.files.columns import Column
from genrec.data.files.rejected import RejectedRows
from genrec.data.files.table_files import TableFile


@pytest.mark.parametrize("kind", [pl.List(pl.Float64), pl.Array(pl.Float64, 2), pl.List(pl.Int32)])
def test_lists_hold_keys_as_columns_do(tmp_path, kind):
    """Integers that pandas keeps as floats name the same items in a list as in a column."""
    user = pl.Series("user", [7.0, 8.0])
    history = pl.Series("history", [[1, 2], [3, 4]], dtype=kind)
    pl.DataFrame([user, history]).write_parquet(tmp_path / "a.parquet")
    found = TableFile(tmp_path / "a.parquet").scan_lists("history", ["user"])
    assert found is not None
    assert found.collect().rows() == [(["1", "2"], "7"), (["3", "4"], "8")]


def times_of(path, **told):
    """Read a table of a key and a time; give the times, what was rejected and what repaired."""
    table, rejected = TableFile(path), RejectedRows()
    reader = table.time_reader("t", time_format=None, ticks_per_s=None, **told)
    columns = [Column("key", "k", "key"), Column("time", "t", "time")]
    found = table.read(columns, rejected=rejected, time=reader)
    both = (rejected.as_list(), rejected.repaired_list())
    return found["time"].to_list(), *({e["reason"]: e["first_lines"] for e in b} for b in both)


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
@pytest.mark.parametrize(
    ("values", "where"),
    [
        ([1709287200, 1709287300, 1709287250000, 1709287400], {"s": 2}),
        ([1709287200000, 1709287300, 1709287250000, 0], {"ms": 1}),
        ([1709287200, 1709287300, 5, 0], {}),
        ([1, 2, 1709287250000, 3], {}),  # no dates at all: what counts is the order
    ],
)
def test_seconds_among_milliseconds_are_told_with_their_lines(tmp_path, ending, values, where):
    path = tmp_path / f"log.{ending}"
    frame = pl.DataFrame({"k": list("abcd"), "t": values})
    write = {"csv": frame.write_csv, "jsonl": frame.write_ndjson, "parquet": frame.write_parquet}
    write[ending](path)
    found, rejected, repaired = times_of(path)
    assert (found, rejected) == (values, {})
    assert repaired == {
        f"t not in {unit} as the others by its size, taken as {unit}; write one unit": [
            place + (2 if ending == "csv" else 1)
        ]
        for unit, place in where.items()
    }


@pytest.mark.parametrize("ending", ["csv", "jsonl"])
def test_a_fraction_far_behind_whole_numbers_is_told(tmp_path, ending):
    times = [1709287200 + second for second in range(1_500)]
    lines = [json.dumps({"k": str(t), "t": t}) if ending == "jsonl" else f"{t},{t}" for t in times]
    lines[1_200] = lines[1_200].replace(f"{times[1_200]}", f"{times[1_200]}.75", 2)
    path = tmp_path / f"log.{ending}"
    path.write_text("\n".join(["k,t", *lines] if ending == "csv" else lines))
    found, _, repaired = times_of(path)
    assert found[1_200] == times[1_200] + 1
    place = 1_201 + (ending == "csv")
    assert repaired == {"t a fraction where the first are whole, rounded to s": [place]}


def test_a_time_of_another_form_names_the_form(tmp_path):
    (tmp_path / "log.csv").write_text("k,t\na,01.03.2024\nb,02.03.24\nc,03.03.2024\n")
    found, rejected, _ = times_of(tmp_path / "log.csv")
    assert len(found) == 2
    assert rejected == {"t is no time of the form %d.%m.%Y": [3]}
