from __future__ import annotations

import csv
import gzip
import io
from functools import partial

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genrec.data.files import delimited
from genrec.data.files.columns import Column
from genrec.data.files.delimited import Dialect, read_delimited, read_header, sample_values
from genrec.data.files.line_chunks import line_chunks
from genrec.data.files.rejected import RejectedRows
from genrec.data.files.times import TimeReader
from genrec.errors import ConfigError, DataError

COLUMNS = [
    Column("user_key", "user", "key"),
    Column("item_key", "item", "key"),
    Column("time", "time", "time"),
    Column("rating", "rating", "rating", required=False),
    Column("note", "note", "text", required=False),
]
HEADER = "user,item,time,rating,note\n"


def read(path, dialect=None, columns=COLUMNS):
    rejected = RejectedRows()
    frame = read_delimited(path, columns, rejected=rejected, dialect=dialect, time=TimeReader())
    return frame, rejected


def write(tmp_path, content, name="log.csv"):
    path = tmp_path / name
    data = content.encode() if isinstance(content, str) else content
    path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return path


@pytest.fixture(params=["whole", "blocks", "lines"])
def way(request, monkeypatch):
    """The three ways of reading; each must give the same."""
    if request.param != "whole":
        monkeypatch.setattr(delimited._Table, "_whole", lambda *_: None)
    if request.param == "lines":
        monkeypatch.setattr(delimited._Table, "_block", lambda *_: None)
    return request.param


@pytest.mark.parametrize("name", ["log.csv", "log.csv.gz"])
@pytest.mark.parametrize("ends", ["\n", "\r\n"])
def test_rows(tmp_path, way, name, ends):
    text = HEADER + 'u1,i1,10,4.5,"a ""b"", c"\nu2, i2 ,11,,\nu1,i3,12,1,é\n'
    frame, rejected = read(write(tmp_path, text.replace("\n", ends), name))
    assert frame.rows() == [
        ("u1", "i1", 10, 4.5, 'a "b", c'),
        ("u2", "i2", 11, None, None),
        ("u1", "i3", 12, 1.0, "é"),
    ]
    assert frame.schema == {
        "user_key": pl.String,
        "item_key": pl.String,
        "time": pl.Int64,
        "rating": pl.Float32,
        "note": pl.String,
    }
    assert rejected.total == 0


@pytest.mark.parametrize("last", ["\n", ""])
def test_last_line_without_an_end(tmp_path, way, last):
    frame, _ = read(write(tmp_path, f"{HEADER}u1,i1,10,1,\nu2,i2,11,2,x{last}"))
    assert frame["user_key"].to_list() == ["u1", "u2"]


FLAWS = (
    "u1,i1,10,5,fine\n"  # line 2
    "u2,i2,1x,5,time\n"
    "\n"
    ",i4,12,5,user\n"
    "u5,,12,5,item\n"
    "u6,i6,12,,rating is optional\n"
    "u7,i7\n"
    'u8,i8,13,1,"over\nthree\nlines"\n'  # lines 9 to 11
    "u9,i9,14,1,more,than,five\n"
    'u10,i10,15,2,5" pipe\n'
    'u11,"i11,16,3,stray quote\n'  # line 14
    "u12,i12,17,3,fine\n"
    "u13,i13,18,bad,but one that is there is read\n"
)


def test_flaws_are_counted_by_line(tmp_path):
    frame, rejected = read(write(tmp_path, HEADER + FLAWS))
    assert frame["user_key"].to_list() == ["u1", "u6", "u8", "u10", "u12"]
    assert frame["note"].to_list() == [
        "fine", "rating is optional", "over\nthree\nlines", '5" pipe', "fine",
    ]  # fmt: skip
    assert frame["rating"].to_list() == [5, None, 1, 2, 3]
    found = {entry["reason"]: entry["first_lines"] for entry in rejected.as_list()}
    assert found == {
        "time is no time": [3],
        "no user": [5],
        "no item": [6],
        "no time": [8],
        "more than 5 fields": [12],
        "rating is no number": [16],
        "a quote or carriage return out of place": [14],
    }


@pytest.mark.parametrize("size", [7, 23, 64, 1_000])
def test_block_borders_change_nothing(tmp_path, monkeypatch, size):
    """A quoted value may run over the border of two blocks, or of many."""
    path = write(tmp_path, HEADER + FLAWS)
    expected, expected_rejected = read(path)
    small = partial(line_chunks, chunk_bytes=size)
    monkeypatch.setattr(delimited, "line_chunks", small)
    frame, rejected = read(path)
    assert frame.equals(expected)
    assert sorted(map(str, rejected.as_list())) == sorted(map(str, expected_rejected.as_list()))


def test_separators_of_several_signs_or_bytes(tmp_path, way):
    for separator in ("::", "é", "ab"):
        text = HEADER.replace(",", separator)
        rows = ["u1,i1,1,4,plain", 'u2,i2,2,3,"quoted, too"']
        body = "\n".join(row.replace(",", separator, 4) for row in rows)
        path = write(tmp_path, f"{text}{body}\n")
        frame, rejected = read(path, dialect=Dialect(separator))
        assert frame["user_key"].to_list() == ["u1", "u2"]
        assert frame["note"].to_list() == ["plain", "quoted, too"]
        assert rejected.total == 0


@pytest.mark.parametrize("separator", ["", "\n", "\r", '"', ";\n", "\0", "\ud800"])
def test_what_is_no_separator(separator):
    with pytest.raises(ConfigError, match=r"separator must be one sign or some, .* got "):
        Dialect(separator)


@pytest.mark.parametrize(
    "encoding",
    ["foo", "", "a\0b", "utf-16", "rot13", "zlib", "idna", "undefined", "cp500"],
)
def test_what_is_no_encoding_of_lines(encoding):
    with pytest.raises(ConfigError, match="encoding must be one that holds ASCII as it is, got "):
        Dialect(encoding=encoding)


@pytest.mark.parametrize(
    "encoding", ["utf-8", "cp1252", "latin-1", "shift_jis", "gb18030", "koi8-r"]
)
def test_encodings_of_lines(encoding):
    assert Dialect(encoding=encoding).encoding == encoding


def test_a_quote_open_to_the_end_loses_one_line(tmp_path):
    rows = "".join(f"u{k},i{k},{k},1,ok\n" for k in range(600))
    frame, rejected = read(write(tmp_path, HEADER + 'u,"i,1,1,stray\n' + rows))
    assert len(frame) == 600
    assert rejected.as_list()[0]["first_lines"] == [2]


def test_two_stray_quotes_do_not_swallow_what_is_between(tmp_path):
    text = HEADER + 'u1,"i1,1,1,x\nu2,i2,2,1,y\nu3,i3,3,1,z\nu4,i4,4,1,w",\n'
    frame, rejected = read(write(tmp_path, text))
    assert frame["user_key"].to_list() == ["u2", "u3"]
    assert [entry["first_lines"] for entry in rejected.as_list()] == [[2], [5]]


def test_lines_of_excel_are_repaired_and_noted(tmp_path, way):
    path = write(
        tmp_path, HEADER.encode() + b"u1,i1,1,1,caf\xe9 5 \x80\nu2,i2,2,1,caf\xc3\xa9\x81\n"
    )
    frame, rejected = read(path)
    assert frame["note"].to_list() == ["café 5 €", "café\x81"]
    assert rejected.total == 0
    assert rejected.repaired_list() == [
        {
            "file": "log.csv",
            "reason": "not utf-8, read as Windows-1252",
            "rows": 2,
            "first_lines": [2, 3],
        }
    ]


def test_encoding_by_setting(tmp_path):
    path = write(tmp_path, (HEADER + "u1,i1,1,1,naïve €\n").encode("cp1252"))
    frame, rejected = read(path, Dialect(encoding="cp1252"))
    assert frame["note"].to_list() == ["naïve €"]
    assert rejected.repaired_list() == []


@pytest.mark.parametrize(
    ("dialect", "text"),
    [
        (Dialect(";"), "user;item;time;rating;note\nu1;i1;5;1;a,b\n"),
        (Dialect("\t", quoted=False), "user\titem\ttime\trating\tnote\nu1\ti1\t5\t1\ta,b\n"),
        (Dialect("::", ("user", "item", "time", "rating", "note"), False), "u1::i1::5::1::a,b\n"),
        (Dialect("|", ("user", "item", "time", "rating", "note"), False), "u1|i1|5|1|a,b\n"),
    ],
)
def test_dialects(tmp_path, way, dialect, text):
    frame, rejected = read(write(tmp_path, text), dialect)
    assert frame.rows() == [("u1", "i1", 5, 1.0, "a,b")]
    assert rejected.total == 0


def test_columns_may_stand_anywhere_and_others_are_left(tmp_path, way):
    text = "extra,time,extra,item,user\n1,5,2,i1,u1\n"
    frame, _ = read(write(tmp_path, text), columns=COLUMNS[:3])
    assert frame.rows() == [("u1", "i1", 5)]


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("usr,item,time", "must have one column 'user', got 0 in .*did you mean usr"),
        ("user,item,user", "must have one column 'user', got 2 in"),
        ("", "must have a header line, got an empty file"),
    ],
)
def test_headers_that_do_not_fit(tmp_path, header, message):
    with pytest.raises(DataError, match=message):
        read(write(tmp_path, header + "\n"), columns=COLUMNS[:3])


def test_a_header_alone_is_an_empty_table(tmp_path, way):
    frame, rejected = read(write(tmp_path, HEADER))
    assert frame.shape == (0, 5)
    assert rejected.total == 0


def test_header_and_samples(tmp_path):
    path = write(tmp_path, "\ufeffuser, item ,time\n" + "".join(f"u,i,{k}\n" for k in range(9)))
    assert read_header(path, Dialect()) == ["user", "item", "time"]
    assert sample_values(path, "time", Dialect()) == [str(k) for k in range(9)]


# Control characters that Python, unlike Unicode, counts as white space are left out.
CELL = st.text(st.characters(codec="utf-8", exclude_characters="\r\0\x1c\x1d\x1e\x1f"), max_size=6)


@settings(max_examples=80, deadline=None)
@given(rows=st.lists(st.tuples(CELL, CELL, st.integers(-99, 10**12), CELL), max_size=12))
def test_whatever_the_csv_module_writes_is_read_back(tmp_path_factory, rows):
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["user", "item", "time", "rating", "note"])
    writer.writerows((user, item, time, "", note) for user, item, time, note in rows)
    path = tmp_path_factory.mktemp("csv") / "log.csv"
    path.write_text(text.getvalue(), encoding="utf-8", newline="")
    frame, rejected = read(path)
    whole = [
        (user.strip(), item.strip(), time, None, note if note.strip() else None)
        for user, item, time, note in rows
        if user.strip() and item.strip()
    ]
    got = [(*row[:4], row[4] if row[4] and row[4].strip() else None) for row in frame.rows()]
    assert got == whole
    assert rejected.total == len(rows) - len(whole)
