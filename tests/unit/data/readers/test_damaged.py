"""One bad line of a source is counted and left out; a bad file or setting is one line."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from genrec.data.prepare import prepare
from genrec.data.readers.amazon import read_amazon
from genrec.data.readers.own_tables import TableColumns, read_tables
from genrec.data.tables import RawTables
from genrec.data.text.tfidf import TfidfSvdEncoder
from genrec.errors import ConfigError, DataError

ITEMS = [{"item_id": f"i{k}", "title": f"thing number {k}"} for k in range(12)]
LOG = [
    {"user_id": f"u{u}", "item_id": f"i{(u + k) % 12}", "timestamp": 1000 * u + k}
    for u in range(8)
    for k in range(5)
]


def json_lines(rows: list[dict[str, Any]], *more: str) -> bytes:
    """Rows as JSON, some lines of any text after the fifth."""
    lines = [json.dumps(row) for row in rows]
    return "\n".join([*lines[:5], *more, *lines[5:], ""]).encode()


def tables(
    folder: Path, items: bytes | pl.DataFrame | None = None, log: bytes | pl.DataFrame | None = None
) -> dict[str, Path]:
    """Write the two tables, JSON lines or Parquet."""
    paths = {}
    defaults = {"items": json_lines(ITEMS), "interactions": json_lines(LOG)}
    for role, given in (("items", items), ("interactions", log)):
        content = defaults[role] if given is None else given
        suffix = "jsonl" if isinstance(content, bytes) else "parquet"
        paths[role] = folder / f"{role}.{suffix}"
        if isinstance(content, bytes):
            paths[role].write_bytes(content)
        else:
            content.write_parquet(paths[role], compression="zstd")
    return paths


def assert_prepared(raw: RawTables, folder: Path, reasons: dict[str, int]) -> None:
    """Make sure that the source goes the whole way, and what its card says was left out."""
    data = prepare(raw, folder / "out", encoder=TfidfSvdEncoder(dim=8))
    assert data.num_items == 12
    found = {entry["reason"]: entry["rows"] for entry in data.meta["card"]["rejected"]}
    assert found == reasons


DEEP = "[" * 100_000 + "]" * 100_000
NESTED = "[" * 500 + "]" * 500


@pytest.mark.parametrize(
    ("lines", "reasons"),
    [
        (['{"user_id": "u1", "item_id": "i1", "timestamp": 1e307}'], {"timestamp is no time": 1}),
        (['{"user_id": "u1", "item_id": "i1", "timestamp": 1e999}'], {"timestamp is no time": 1}),
        (
            ['{"user_id": ["u1"], "item_id": "i1", "timestamp": 1}'] * 2
            + ['{"user_id": {"a": 1}, "item_id": "i1", "timestamp": 1}']
            + ['{"user_id": true, "item_id": "i1", "timestamp": 1}'],
            {"user_id is no key": 4},
        ),
        (['{"user_id": ' + "[" * 100_000], {"neither JSON nor a Python literal": 1}),
        ([f'{{"user_id": "u1", "x": {DEEP}}}'], {"neither JSON nor a Python literal": 1}),
        ([f'{{"user_id": [], "x": {NESTED}}}'], {"nested too deeply": 1}),
        (["{'user_id': [], 'x': 0x" + "f" * 5000 + "}"], {"neither JSON nor a Python literal": 1}),
    ],
    ids=["time", "infinite time", "keys", "open", "deep", "nested", "digits"],
)
def test_a_bad_line_of_a_log(tmp_path, lines, reasons):
    raw = read_tables(**tables(tmp_path, log=json_lines(LOG, *lines)), name="x")
    assert_prepared(raw, tmp_path, reasons)


@pytest.mark.parametrize(
    ("lines", "reasons"),
    [
        (['{"item_id": ["i3"], "title": "b"}', '{"item_id": {"i3": 1}}'], {"no item_id": 2}),
        ([f'{{"item_id": {DEEP}}}'], {"neither JSON nor a Python literal": 1}),
        ([f'{{"item_id": "i3", "title": {NESTED}}}'], {"nested too deeply": 1}),
        (['{"item_id": "i3", "title": "half a letter \\ud83d"}'], {}),
        (['{"item_id": "\\ud800", "title": "x"}'], {}),
    ],
    ids=["keys", "deep", "nested", "half a letter", "half a letter for a key"],
)
def test_a_bad_line_of_items(tmp_path, lines, reasons):
    raw = read_tables(**tables(tmp_path, json_lines(ITEMS, *lines)), name="x")
    assert_prepared(raw, tmp_path, reasons)


def test_half_a_letter_becomes_the_sign_for_an_unknown_one(tmp_path):
    items = json_lines(
        ITEMS[:11], r'{"item_id": "i11", "title": "a \ud83d b \ud83d\ude00 \\ud800"}'
    )
    raw = read_tables(**tables(tmp_path, items), name="x")
    titles = dict(zip(raw.items["item_key"], raw.items["title"], strict=True))
    assert titles["i11"] == "a \ufffd b \U0001f600 \\ud800"


def test_a_key_that_looks_like_a_list_but_is_a_text(tmp_path):
    log = json_lines(LOG, '{"user_id": "[u]", "item_id": "i1", "timestamp": 1}')
    raw = read_tables(**tables(tmp_path, log=log), name="x")
    assert raw.interactions["user_key"].to_list().count("[u]") == 1
    assert raw.rejected.total == 0


def log_with(name: str, values: list[Any]) -> pl.DataFrame:
    return pl.DataFrame(LOG).with_columns(pl.Series(name, values))


COUNT = len(LOG)


@pytest.mark.parametrize(
    ("name", "values", "kind"),
    [
        ("user_id", [["u1"]] * COUNT, "key a row, got List"),
        ("item_id", [{"a": "i1"}] * COUNT, "key a row, got Struct"),
        ("item_id", [b"\xff\xfe"] * COUNT, "key a row, got Binary"),
        ("item_id", [True] * COUNT, "key a row, got Boolean"),
        ("stars", [[4.0]] * COUNT, "number a row, got List"),
    ],
)
def test_columns_of_which_no_value_is_one(tmp_path, name, values, kind):
    paths = tables(tmp_path, log=log_with(name, values))
    columns = TableColumns(rating="stars" if name == "stars" else None)
    with pytest.raises(DataError, match=rf"column '{name}' must hold one {kind}.*; name another"):
        read_tables(**paths, name="x", columns=columns)


def test_item_keys_of_which_no_value_is_one(tmp_path):
    items = pl.DataFrame({"item_id": [["i1"]] * 12, "title": ["abc def"] * 12})
    with pytest.raises(DataError, match="column 'item_id' must hold one key a row, got List"):
        read_tables(**tables(tmp_path, items), name="x")


@pytest.mark.parametrize("role", ["items", "interactions"])
def test_damaged_pages(tmp_path, role):
    paths = tables(tmp_path, pl.DataFrame(ITEMS), pl.DataFrame(LOG))
    content = bytearray(paths[role].read_bytes())
    content[20:60] = bytes(byte ^ 0xFF for byte in content[20:60])
    paths[role].write_bytes(content)
    with pytest.raises(DataError, match=r"Parquet file must be readable, got .*; write it again"):
        read_tables(**paths, name="x")


@pytest.mark.parametrize(
    ("setting", "value"), [("encoding", "foo"), ("separator", ""), ("separator", "\n")]
)
def test_settings_that_no_file_can_have(tmp_path, setting, value):
    paths = tables(tmp_path)
    log = paths["interactions"].with_suffix(".csv")
    pl.DataFrame(LOG).write_csv(log)
    with pytest.raises(ConfigError, match=f"{setting} must be one "):
        read_tables(**{**paths, "interactions": log}, name="x", **{setting: value})


def amazon(folder: Path, *items: str, reviews: tuple[str, ...] = ()) -> RawTables:
    rows = [
        {"reviewerID": r["user_id"], "asin": r["item_id"], "unixReviewTime": r["timestamp"]}
        for r in LOG
    ]
    meta = [{"asin": row["item_id"], "title": row["title"]} for row in ITEMS]
    (folder / "reviews_Toys_5.json").write_bytes(json_lines(rows, *reviews))
    (folder / "meta_Toys.json").write_bytes(json_lines(meta, *items))
    return read_amazon(folder)


def test_lines_of_amazon(tmp_path):
    items = [
        '{"asin": ["i3"], "title": "x"}',
        '{"asin": {"a": 1}}',
        '{"title": "no key"}',
        '{"asin": "i4", "title": {"a": 1}, "brand": ["x"], "categories": {"a": 1}}',
        '{"asin": "i4", "categories": [5, [6]]}',
        '{"asin": "i4", "categories": 7}',
        '{"asin": "i4", "title": "\\ud800", "categories": [["\\udfff"]]}',
        "{'asin': 'i4', 'title': b'abc', 'categories': {1, 2}}",
        f'{{"asin": "i3", "title": {NESTED}}}',
    ]
    reviews = (
        '{"reviewerID": "u1", "asin": ["i3"], "unixReviewTime": 5}',
        '{"reviewerID": "u1", "asin": "i3", "unixReviewTime": 1e307}',
        '{"reviewerID": "u1", "asin": "i3", "unixReviewTime": {}}',
    )
    reasons = {
        "asin is no key": 1,
        "unixReviewTime is no time": 2,
        "no asin": 3,
        "nested too deeply": 1,
    }
    assert_prepared(amazon(tmp_path, *items, reviews=reviews), tmp_path, reasons)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="memory is read from /proc")
def test_memory_is_bounded_whatever_a_gzip_holds(tmp_path):
    """2.3 MB of gzip that hold one line of 2.3 GiB."""
    import subprocess
    import sys

    paths = tables(tmp_path)
    log = tmp_path / "bomb.jsonl.gz"
    good = json.dumps(LOG[0]).encode() + b"\n"
    with gzip.open(log, "wb") as file:
        file.write(good + b'{"user_id": "')
        for _ in range(2300):
            file.write(b"a" * (1 << 20))
        file.write(b'"}\n' + good)
    code = (
        "from genrec.data.readers.own_tables import read_tables\n"
        f"raw = read_tables(items={str(paths['items'])!r}, interactions={str(log)!r}, name='x')\n"
        "assert len(raw.interactions) == 2 and raw.rejected.total == 1\n"
        # Not ru_maxrss, which begins with what the parent had when it forked.
        "peak = [row for row in open('/proc/self/status') if row.startswith('VmHWM')]\n"
        "print(peak[0].split()[1])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 600 << 10  # KiB
