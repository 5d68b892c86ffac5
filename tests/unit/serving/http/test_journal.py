"""The journal: what was answered is there again, what was torn is not."""

from __future__ import annotations

import os

import pytest

from genrec.errors import ArtifactError, ConfigError, MissingPathError
from genrec.serving.http.journal import Changes, Header, Journal, NewItem, add_line

HEADER = Header("a" * 16, "runs/a", "a" * 16)
ITEM = NewItem("new/1 ü\n", "Title", text="text", codes=[1, 2])
VECTOR = NewItem("v", None, vector=[0.1, 1e-30, -3.0], codes=[3, 4])


@pytest.fixture
def path(tmp_path):
    return tmp_path / "shop.journal"


def begun(path) -> Journal:
    journal = Journal(path)
    journal.restart(HEADER, Changes())
    return journal


def filled(path) -> Changes:
    journal = begun(path)
    journal.append(add_line([ITEM, VECTOR]))
    journal.append({"op": "remove", "keys": ["v", "old"]})
    journal.append(add_line([], back=["old"]))
    journal.close()
    return journal.changes


def test_what_was_written_is_read(path):
    changes = filled(path)
    again = Journal(path)
    assert again.header == HEADER
    assert again.changes == changes
    assert changes.added == {"new/1 ü\n": ITEM, "v": VECTOR}
    assert list(changes.removed) == ["v"]
    assert again.dropped == 0
    again.close()


def test_a_file_that_ends_anywhere_in_its_last_line_loses_that_line_alone(path):
    filled(path)
    raw = path.read_bytes()
    lines = raw.splitlines(keepends=True)
    before = len(raw) - len(lines[-1])
    for size in {
        before,
        before + 1,
        before + 16,
        before + 17,
        (before + len(raw)) // 2,
        len(raw) - 1,
    }:
        path.write_bytes(raw[:size])
        journal = Journal(path)
        assert list(journal.changes.removed) == ["v", "old"]
        assert journal.dropped == size - before
        journal.append({"op": "remove", "keys": ["x"]})
        journal.close()
        again = Journal(path)
        assert list(again.changes.removed) == ["v", "old", "x"]
        again.close()


def test_a_changed_line_in_the_middle_is_refused(path):
    filled(path)
    lines = path.read_bytes().splitlines(keepends=True)
    lines[1] = lines[1].replace(b"Title", b"Titel")
    path.write_bytes(b"".join(lines))
    with pytest.raises(ArtifactError, match=r"journal must be as it was written.*in line 2"):
        Journal(path)
    path.write_bytes(b"something else\n" * 3)
    with pytest.raises(ArtifactError, match="in line 1"):
        Journal(path)
    path.write_bytes(b"something else")
    with pytest.raises(ArtifactError, match="in line 1"):
        Journal(path)


def test_a_damaged_last_line_that_is_whole_is_refused(path):
    filled(path)
    raw = path.read_bytes()
    for place in (-2, -len(raw.splitlines(keepends=True)[-1])):
        damaged = bytearray(raw)
        damaged[place] ^= 1
        path.write_bytes(damaged)
        with pytest.raises(ArtifactError, match="in line 4") as caught:
            Journal(path)
        assert "\n" not in str(caught.value)
        assert str(caught.value).count("in line") == 1
        assert path.read_bytes() == damaged  # nothing was cut off


def test_lost_doubled_and_moved_lines_are_refused(path):
    filled(path)
    header, first, second, third = path.read_bytes().splitlines(keepends=True)
    for wrong, number in (
        ([first, second, third], 1),
        ([header, second, third], 2),
        ([header, first, third], 3),
        ([header, second, first, third], 2),
        ([header, first, first, second, third], 3),
        ([header, first, b"\n", second, third], 3),
    ):
        path.write_bytes(b"".join(wrong))
        with pytest.raises(ArtifactError, match=rf"lost line, in line {number};"):
            Journal(path)


def test_an_empty_file_is_taken_as_none_and_that_is_told(path):
    path.write_bytes(b"")
    journal = Journal(path)
    assert (journal.header, journal.empty, journal.dropped) == (None, True, 0)
    journal.restart(HEADER, Changes())
    journal.append({"op": "remove", "keys": ["a"]})
    journal.close()
    again = Journal(path)
    assert (list(again.changes.removed), again.empty) == (["a"], False)
    again.close()


def test_another_format_is_refused(path):
    filled(path)
    import xxhash

    text = b'{"format": "genrec-serving-journal", "version": 1}'
    path.write_bytes(xxhash.xxh3_64_hexdigest(text).encode() + b" " + text + b"\n")
    with pytest.raises(ArtifactError, match=r"version 1.*line 1"):
        Journal(path)


def test_it_begins_anew_with_all_changes(path):
    changes = filled(path)
    journal = Journal(path)
    other = Header("b" * 16, "runs/b", "a" * 16)
    journal.restart(other, changes)
    journal.append({"op": "remove", "keys": ["more"]})
    journal.close()
    again = Journal(path)
    assert again.header == other
    assert list(again.changes.removed) == ["v", "more"]
    assert again.changes.added == changes.added
    again.close()


def test_one_service_at_a_time(path):
    first = begun(path)
    with pytest.raises(ConfigError, match=r"journal must be free, got .*process \d+ on"):
        Journal(path)
    first.close()
    Journal(path).close()


def test_no_folder(tmp_path):
    with pytest.raises(MissingPathError, match="--journal must lie in a folder"):
        Journal(tmp_path / "gone" / "journal")


def test_a_failed_write_leaves_nothing_and_ends_all_changes(path, monkeypatch):
    journal = begun(path)
    journal.append({"op": "remove", "keys": ["a"]})
    size = path.stat().st_size

    def full(_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space"):
            journal.append({"op": "remove", "keys": ["b"]})
    assert list(journal.changes.removed) == ["a"]
    with pytest.raises(OSError, match="an earlier write failed"):
        journal.append({"op": "remove", "keys": ["c"]})
    journal.close()
    again = Journal(path)
    assert list(again.changes.removed) == ["a"]
    again.close()
    assert path.stat().st_size == size


def test_nothing_of_a_half_written_line_stays(path):
    resource = pytest.importorskip("resource", reason="limits of a process are POSIX's")
    journal = begun(path)
    journal.append({"op": "remove", "keys": ["a"]})
    raw = path.read_bytes()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(raw) + 10, before[1]))  # 10 bytes fit
    try:
        with pytest.raises(OSError, match="File too large"):
            journal.append({"op": "remove", "keys": ["b" * 1000]})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert path.read_bytes() == raw
    journal.close()
    assert path.read_bytes() == raw


class Failing:
    """A file that takes a few bytes at a time, and fails after some of them."""

    def __init__(self, file, bears):
        self.file, self.bears = file, bears

    def write(self, data):
        if self.bears <= 0:
            raise OSError(5, "Input/output error")
        self.bears -= 7
        return self.file.write(data[:7])

    def __getattr__(self, name):
        return getattr(self.file, name)


def test_a_line_is_written_on_where_the_file_took_a_part(path):
    journal = begun(path)
    journal._file = Failing(journal._file, 10_000)
    journal.append({"op": "remove", "keys": ["a"]})
    size = path.stat().st_size
    journal._file.bears = 20
    with pytest.raises(OSError, match="Input/output"):
        journal.append({"op": "remove", "keys": ["b"]})
    assert path.stat().st_size == size
    journal.close()
    again = Journal(path)
    assert list(again.changes.removed) == ["a"]
    again.close()


def test_a_link_to_a_journal_is_the_journal(path, tmp_path):
    journal = begun(path)
    link = tmp_path / "other" / "link.journal"
    link.parent.mkdir()
    link.symlink_to(path)
    with pytest.raises(
        ConfigError, match=r"journal must be free, got .*link\.journal, which process"
    ):
        Journal(link)
    journal.close()
    Journal(link).close()
