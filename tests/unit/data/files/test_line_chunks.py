from __future__ import annotations

import gzip
import random
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genrec.data.files import line_chunks as module
from genrec.data.files.line_chunks import (
    count_lines,
    first_line,
    line_chunks,
    numbered_lines,
    swells,
)
from genrec.data.files.rejected import RejectedRows
from genrec.errors import DataError, MissingPathError

# Many NULs are of another encoding, or of no text.
LINE = st.binary(max_size=12).map(lambda line: line.replace(b"\n", b"-").replace(b"\0", b"-"))


@settings(max_examples=60, deadline=None)
@given(
    lines=st.lists(LINE, max_size=30),
    size=st.integers(1, 40),
    packed=st.booleans(),
    ends=st.booleans(),
)
def test_any_block_size_gives_the_same_lines(tmp_path_factory, lines, size, packed, ends):
    data = b"\n".join(lines) + (b"\n" if ends and lines else b"")
    if data[:2] in (b"\xff\xfe", b"\xfe\xff", b"\x1f\x8b") or data.startswith(b"\xef\xbb\xbf"):
        return
    path = tmp_path_factory.mktemp("lines") / "file"
    path.write_bytes(gzip.compress(data) if packed else data)
    chunks = list(line_chunks(path, chunk_bytes=size))
    assert b"".join(chunk.data for chunk in chunks) == data
    number = 1
    for chunk in chunks:
        assert chunk.first_line == number
        number += chunk.num_lines
    assert all(chunk.data.endswith(b"\n") for chunk in chunks[:-1])
    counted = count_lines(path)
    if counted is not None:
        assert counted == len(data.splitlines()) if b"\r" not in data else True
        assert counted == data.count(b"\n") + (not data.endswith(b"\n") and data != b"")


def test_mark_of_utf8_is_cut(tmp_path):
    (tmp_path / "a").write_bytes(b"\xef\xbb\xbfname\n1\n")
    assert next(line_chunks(tmp_path / "a")).data == b"name\n1\n"
    assert first_line(tmp_path / "a") == b"name"


def test_first_line_skips_blank_ones(tmp_path):
    (tmp_path / "a").write_bytes(b"\r\n\nname\r\n1\n")
    assert first_line(tmp_path / "a") == b"name"
    (tmp_path / "b").write_bytes(b"")
    assert first_line(tmp_path / "b") == b""


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be"])
@pytest.mark.parametrize("packed", [False, True])
def test_utf16_comes_out_as_utf8(tmp_path, encoding, packed):
    """As Excel's "Unicode text" writes it; half a letter or half a sign loses nothing else."""
    lines = [f"größe {number},€ \U0001f600" for number in range(5_000)]
    mark = b"\xfe\xff" if encoding == "utf-16-be" else b""
    data = mark + "\n".join(lines).encode(encoding)
    path = tmp_path / "wide.csv"
    path.write_bytes(gzip.compress(data) if packed else data)
    for size in (7, 1 << 20):
        found = b"".join(chunk.data for chunk in line_chunks(path, chunk_bytes=size))
        assert found.decode().split("\n") == lines
    assert first_line(path).decode() == lines[0]
    assert module.read_lines(path) == lines
    path.write_bytes(data[:-1])
    assert module.read_lines(path)[:-1] == lines[:-1]


def test_files_that_cannot_be_read(tmp_path, monkeypatch):
    with pytest.raises(MissingPathError, match="file must exist, got"):
        list(line_chunks(tmp_path / "none"))
    packed = gzip.compress(b"line\n" * 1_000)
    for name, content in (("cut", packed[:-9]), ("flip", packed[:-6] + b"xx" + packed[-4:])):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=r"gzip file must be complete, got .*fetch it again"):
            list(line_chunks(tmp_path / name))


@pytest.mark.parametrize("size", [1, 10, 64, 1_000])
@pytest.mark.parametrize("packed", [False, True])
def test_lines_without_an_end_are_counted_and_left_out(tmp_path, monkeypatch, size, packed):
    monkeypatch.setattr(module, "_LONGEST_LINE_BYTES", 100)
    lines = [b"a", b"x" * 500, b"b", b"y" * 100_000, b"c", b"z" * 101]
    path = tmp_path / "long"
    path.write_bytes((gzip.compress if packed else bytes)(b"\n".join(lines)))
    rejected = RejectedRows()
    chunks = list(line_chunks(path, rejected=rejected, chunk_bytes=size))
    kept = [
        (chunk.first_line + place, line)
        for chunk in chunks
        for place, line in enumerate(chunk.data.removesuffix(b"\n").split(b"\n"))
    ]
    # What is longer in a whole block has cost its memory already.
    wanted = [(1, b"a"), (3, b"b"), (5, b"c")]
    assert [entry for entry in kept if len(entry[1]) < 101] == wanted
    if size < 100:
        assert kept == wanted
        assert rejected.as_list()[0]["first_lines"] == [2, 4, 6]
    again = RejectedRows()
    assert [(n, line.strip()) for n, line in numbered_lines(path, again)] == wanted
    assert again.as_list()[0]["first_lines"] == [2, 4, 6]
    assert count_lines(path) is None


def test_a_first_line_without_an_end(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_LONGEST_LINE_BYTES", 100)
    (tmp_path / "long").write_bytes(b"x" * 500)
    with pytest.raises(DataError, match="first line must be no longer than 0 MiB, got a longer"):
        first_line(tmp_path / "long")


def test_a_gzip_that_swells(tmp_path):
    path = tmp_path / "a.gz"
    usual = "".join(f"{random.Random(k).random()},x\n" for k in range(500)).encode()
    for content, expected in ((bytes(10_000_000), True), (usual, False)):
        path.write_bytes(gzip.compress(content))
        assert swells(path) is expected
    path.write_bytes(usual)
    assert not swells(path)


def test_reading_thread_ends_when_the_reader_stops(tmp_path):
    (tmp_path / "a").write_bytes(b"line\n" * 10_000)
    before = threading.active_count()
    chunks = line_chunks(tmp_path / "a", chunk_bytes=10)
    next(chunks)
    chunks.close()
    assert threading.active_count() == before
