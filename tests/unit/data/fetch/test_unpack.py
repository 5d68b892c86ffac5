from __future__ import annotations

import stat
import zipfile

import pytest

from genrec.data.fetch.unpack import unpack
from genrec.errors import DataError


def make_zip(path, members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return path


def tree(folder):
    return {
        p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()
    }


GOOD = [("set/a.txt", b"A"), ("set/deep/b.txt", b"B" * 5_000)]


def test_archives(tmp_path):
    archive = make_zip(tmp_path / "archive", GOOD)
    files = unpack(archive, tmp_path / "out")
    assert tree(tmp_path / "out") == dict(GOOD)
    assert files == [tmp_path / "out" / name for name, _ in GOOD]


def test_place_renames_and_leaves_out(tmp_path):
    archive = make_zip(tmp_path / "a.zip", [*GOOD, ("set/evil.pkl", b"x")])
    unpack(
        archive,
        tmp_path / "out",
        place=lambda name: None if name.endswith("pkl") else name.removeprefix("set/"),
    )
    assert tree(tmp_path / "out") == {"a.txt": b"A", "deep/b.txt": b"B" * 5_000}


@pytest.mark.parametrize(
    "name",
    [
        "../out.txt",
        "set/../../out.txt",
        "/etc/out.txt",
        "C:/out.txt",
        "..\\out.txt",
        "set/a\\..\\..\\x",
    ],
)
def test_paths_outside_the_target(tmp_path, name):
    archive = make_zip(tmp_path / "archive", [("ok.txt", b"1"), (name, b"evil")])
    with pytest.raises(DataError, match="archive must hold paths below its folder, got"):
        unpack(archive, tmp_path / "deep" / "out")
    assert tree(tmp_path) == {"archive": archive.read_bytes()}  # not even the good file


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR])
def test_links_and_devices(tmp_path, kind):
    info = zipfile.ZipInfo("link")
    info.external_attr = (kind | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(info, "/etc/passwd")
    with pytest.raises(DataError, match="plain files only, got 'link'"):
        unpack(tmp_path / "a.zip", tmp_path / "out")


def test_archives_that_grow(tmp_path):
    archive = make_zip(tmp_path / "archive", [("zeros", b"\0" * 3_000_000)])
    assert archive.stat().st_size < 20_000
    with pytest.raises(DataError, match="unpack to at most 2000000 bytes, got 3000000"):
        unpack(archive, tmp_path / "out", max_bytes=2_000_000)
    assert not (tmp_path / "out").exists()
    assert unpack(archive, tmp_path / "out", max_bytes=3_000_000)


def test_a_false_size_does_not_help(tmp_path):
    """No more than the announced size comes out, and then the sum is wrong."""
    archive = make_zip(tmp_path / "a.zip", [("zeros", b"\0" * 3_000_000)])
    data = bytearray(archive.read_bytes())
    for magic, field in ((b"PK\x01\x02", 24), (b"PK\x03\x04", 22)):
        place = data.index(magic) + field
        data[place : place + 4] = (10).to_bytes(4, "little")
    archive.write_bytes(data)
    with pytest.raises(DataError):
        unpack(archive, tmp_path / "out", max_bytes=2_000_000)
    assert not (tmp_path / "out").exists()


def test_too_many_files(tmp_path):
    archive = make_zip(tmp_path / "a.zip", [(f"f{k}", b"") for k in range(12)])
    with pytest.raises(DataError, match="at most 11 files, got 12"):
        unpack(archive, tmp_path / "out", max_files=11)


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("names", [["a", "a"], ["a", "a/b"], ["a/b", "a"]])
def test_names_that_collide(tmp_path, names):
    archive = make_zip(tmp_path / "a.zip", [(name, b"x") for name in names])
    with pytest.raises(DataError, match="name each file once, got"):
        unpack(archive, tmp_path / "out")


def test_archives_that_are_cut_or_none(tmp_path):
    archive = make_zip(tmp_path / "archive", [("noise", bytes(range(256)) * 500)])
    whole = archive.read_bytes()
    for content in (whole[: len(whole) // 2], b"", b"hello"):
        archive.write_bytes(content)
        with pytest.raises(DataError, match="delete it and fetch it again"):
            unpack(archive, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_older_folder_is_replaced_only_by_a_whole_one(tmp_path):
    unpack(make_zip(tmp_path / "a.zip", GOOD), tmp_path / "out")
    with pytest.raises(DataError):
        unpack(make_zip(tmp_path / "b.zip", [("../x", b"")]), tmp_path / "out")
    assert tree(tmp_path / "out") == dict(GOOD)
    unpack(make_zip(tmp_path / "c.zip", [("new", b"N")]), tmp_path / "out")
    assert tree(tmp_path / "out") == {"new": b"N"}
