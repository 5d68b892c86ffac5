from __future__ import annotations

import gzip
import json

import pytest

from genrec.data.files import json_lines
from genrec.data.files.columns import Column
from genrec.data.files.json_lines import (
    parse_object,
    read_json_columns,
    read_objects,
    sample_objects,
)
from genrec.data.files.rejected import RejectedRows
from genrec.data.files.times import TimeReader
from genrec.errors import DataError

COLUMNS = [
    Column("user_key", "user", "key"),
    Column("time", "at", "time"),
    Column("rating", "stars", "rating", required=False),
]
GOOD = [
    {"user": "u1", "at": 5, "stars": 4.5, "text": 'a "b" {c}', "nested": {"x": [1]}},
    {"stars": None, "at": 6, "user": "u2"},
    {"user": "é", "at": 7},
]
ROWS = [("u1", 5, 4.5), ("u2", 6, None), ("é", 7, None)]


def read(path):
    rejected = RejectedRows()
    return read_json_columns(path, COLUMNS, rejected=rejected, time=TimeReader()), rejected


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("way", ["whole", "blocks", "lines"])
def test_rows(tmp_path, monkeypatch, packed, way):
    if way != "whole":
        monkeypatch.setattr(json_lines, "_scan", lambda *_: None)
    if way == "lines":
        monkeypatch.setattr(json_lines, "_parse_fast", lambda *_: None)
    data = "\n".join(json.dumps(record, ensure_ascii=False) for record in GOOD).encode() + b"\n\n"
    (tmp_path / "log").write_bytes(gzip.compress(data) if packed else data)
    frame, rejected = read(tmp_path / "log")
    assert frame.rows() == ROWS
    assert rejected.total == 0


def test_flaws_are_counted_by_line(tmp_path):
    lines = [
        json.dumps(GOOD[0]),
        "not json",
        "",
        '{"user": "u4"}',
        '{"at": 4}',
        "[1, 2]",
        '{"user": "u7", "at": "soon"}',
        '{"user": "u8", "at": 8, "stars": "many"}',
        '{"user": ["u9"], "at": 9}',
        '{"user": 10, "at": "10"}',
        '{"user": "u11", "at": 11',
    ]
    (tmp_path / "log").write_text("\n".join(lines))
    frame, rejected = read(tmp_path / "log")
    assert frame.rows() == [ROWS[0], ("10", 10, None)]
    assert {entry["reason"]: entry["first_lines"] for entry in rejected.as_list()} == {
        "neither JSON nor a Python literal": [2, 11],
        "no at": [4],
        "no user": [5],
        "not an object": [6],
        "at is no time": [7],
        "stars is no number": [8],
        "user is no key": [9],
    }


def test_damaged_gzip(tmp_path):
    packed = gzip.compress(b'{"user": "u", "at": 1}\n' * 1_000)
    (tmp_path / "log.gz").write_bytes(packed[:-10])
    with pytest.raises(DataError, match=r"gzip file must be complete, got .*log\.gz"):
        read(tmp_path / "log.gz")


def test_python_literals_are_read_and_never_run(tmp_path):
    assert parse_object(b"{'asin': 'B1', 'title': \"it's\", 'n': None, 'b': True}") == {
        "asin": "B1", "title": "it's", "n": None, "b": True,
    }  # fmt: skip
    marker = tmp_path / "ran"
    hostile = f"{{'asin': open({str(marker)!r}, 'w')}}".encode()
    for line in (
        hostile,
        b"(" * 5_000,
        b"{" * 100_000,
        b"{'a': 1 + }",
        b"\x00",
        b"__import__('os')",
    ):
        with pytest.raises(ValueError, match=r"neither JSON nor|not an object"):
            parse_object(line)
    assert not marker.exists()


def test_other_encodings_are_read():
    assert parse_object(b'{"title": "caf\xe9"}') == {"title": "café"}


def test_unwanted_objects_are_skipped_without_parsing(tmp_path, monkeypatch):
    lines = [
        "{'asin': 'B1', 'also': ['B2']}",
        "{'asin': 'XX', 'title': 'other'}",
        '{"title": "the key comes last", "asin": "B2"}',
        "{'also': {'asin': 'B2'}, 'asin': 'XX'}",  # the first match is not the key
        "broken",
        "{'asin': 'B\\x31'}",  # escaped: only parsing tells
    ]
    (tmp_path / "meta").write_text("\n".join(lines))
    parsed = []
    original = json_lines.parse_object

    def counted(line):
        parsed.append(line)
        return original(line)

    monkeypatch.setattr(json_lines, "parse_object", counted)
    rejected = RejectedRows()
    found = list(read_objects(tmp_path / "meta", rejected, key="asin", wanted={"B1", "B2"}))
    assert [(number, record["asin"]) for number, record in found] == [
        (1, "B1"),
        (3, "B2"),
        (6, "B1"),
    ]
    assert lines[1].encode() + b"\n" not in parsed
    assert [entry["first_lines"] for entry in rejected.as_list()] == [[5]]


def test_samples(tmp_path):
    (tmp_path / "log").write_text('bad\n{"a": 1}\n{"a": 2}\n{"a": 3}\n')
    assert sample_objects(tmp_path / "log", 2) == [{"a": 1}, {"a": 2}]


@pytest.mark.parametrize("way", ["whole", "blocks", "lines"])
@pytest.mark.parametrize(
    ("written", "key"),
    [
        ("1.0", "1"),
        ("-0.0", "0"),
        ("1e3", "1000"),
        ("1e22", "10000000000000000000000"),
        ("7", "7"),
        ('"1.0"', "1.0"),  # a text stays as it is, as in CSV
        ('" -0 "', "-0"),
        ("7.5", None),
        ("1e-7", None),
        ("NaN", None),
    ],
)
def test_a_key_is_the_same_by_every_way(tmp_path, monkeypatch, way, written, key):
    """What stands in another line decides the way; it must not decide the name of an item."""
    if way != "whole":
        monkeypatch.setattr(json_lines, "_scan", lambda *_: None)
    if way == "lines":
        monkeypatch.setattr(json_lines, "_parse_fast", lambda *_: None)
    (tmp_path / "log").write_text(f'{{"user": {written}, "at": 5}}\n{{"user": "b", "at": 6}}\n')
    frame, rejected = read(tmp_path / "log")
    assert frame["user_key"].to_list() == ([] if key is None else [key]) + ["b"]
    assert [entry["reason"] for entry in rejected.as_list()] == (
        ["user is no key"] if key is None else []
    )
    names = [record["user"] for _, record in read_objects(
        tmp_path / "log", RejectedRows(), key="user", wanted={key or "-", "b"}
    )]  # fmt: skip
    assert names == frame["user_key"].to_list()
