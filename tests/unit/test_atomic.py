"""Files and folders are there whole or not at all, whatever happens while they are written."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import resource
import signal
import stat
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from safetensors.torch import save_file

from genrec import atomic
from genrec.atomic import (
    FolderKind,
    atomic_directory,
    atomic_file,
    read_json,
    write_json_atomic,
)
from genrec.errors import ConfigError, StorageError


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def fill(folder: Path, content: str) -> None:
    (folder / "deep").mkdir()
    (folder / "deep" / "a.txt").write_text(content)
    (folder / "b.txt").write_text(content)


def test_a_file_replaces_the_old_one_and_leaves_nothing_else(tmp_path):
    target = tmp_path / "new" / "file.txt"
    with atomic_file(target) as temporary:
        temporary.write_text("one")
        assert not target.exists()
        assert temporary.parent == target.parent  # a rename must not cross file systems
    with atomic_file(target) as temporary:
        temporary.write_text("two")
        assert target.read_text() == "one"
    assert target.read_text() == "two"
    assert names(target.parent) == ["file.txt"]


def test_a_failed_file_keeps_the_old_one(tmp_path):
    target = tmp_path / "file.txt"
    target.write_text("old")

    def fail() -> None:
        with atomic_file(target) as temporary:
            temporary.write_text("half")
            raise RuntimeError("half way")

    with pytest.raises(RuntimeError, match="half way"):
        fail()
    assert target.read_text() == "old"
    assert names(tmp_path) == ["file.txt"]


def test_files_and_folders_get_the_usual_mode(tmp_path):
    before = os.umask(0o027)
    try:
        with atomic_file(tmp_path / "file") as temporary:
            temporary.write_text("x")
        with atomic_directory(tmp_path / "folder") as folder:
            fill(folder, "x")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o640
    assert stat.S_IMODE((tmp_path / "folder").stat().st_mode) == 0o750


def test_a_folder_replaces_the_old_one_as_a_whole(tmp_path):
    target = tmp_path / "runs" / "step_1"
    with atomic_directory(target) as folder:
        fill(folder, "one")
        (folder / "only-in-the-first.txt").write_text("")
        assert not target.exists()
    with atomic_directory(target) as folder:
        fill(folder, "two")
        assert (target / "b.txt").read_text() == "one"
    assert (target / "deep" / "a.txt").read_text() == "two"
    assert names(target) == ["b.txt", "deep"]
    assert names(target.parent) == ["step_1"]


@pytest.mark.parametrize("old", [True, False])
def test_a_failed_folder_keeps_what_was_there(tmp_path, old):
    target = tmp_path / "step_1"
    if old:
        with atomic_directory(target) as folder:
            fill(folder, "old")

    def fail() -> None:
        with atomic_directory(target) as folder:
            fill(folder, "half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert target.exists() == old
    if old:
        assert (target / "b.txt").read_text() == "old"
    assert names(tmp_path) == (["step_1"] if old else [])


def test_a_rename_that_fails_puts_the_old_folder_back(tmp_path, monkeypatch):
    target = tmp_path / "step_1"
    with atomic_directory(target) as folder:
        fill(folder, "old")
    rename = os.rename

    def refuse(source, goal):
        if Path(source).suffix == ".tmp":
            raise OSError("no space left")
        rename(source, goal)

    monkeypatch.setattr(atomic.os, "rename", refuse)
    with pytest.raises(OSError, match="no space left"), atomic_directory(target) as folder:
        fill(folder, "new")
    assert (target / "deep" / "a.txt").read_text() == "old"
    assert names(tmp_path) == ["step_1"]


def test_writers_of_one_folder_leave_one_complete_result(tmp_path):
    target = tmp_path / "prepared"
    start = threading.Barrier(4)
    failures: list[BaseException] = []

    def write(content: str) -> None:
        try:
            start.wait()
            for _ in range(5):
                with atomic_directory(target) as folder:
                    fill(folder, content)
        except OSError as error:
            failures.append(error)

    threads = [threading.Thread(target=write, args=(str(i),)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (target / "b.txt").read_text() == (target / "deep" / "a.txt").read_text()
    assert names(tmp_path) == ["prepared"]
    for failure in failures:  # losing eight times in a row is allowed, and says what to do
        assert "run one at a time" in str(failure)


def test_json_round_trip_and_no_nan(tmp_path):
    path = tmp_path / "meta.json"
    write_json_atomic(path, {"b": [1, 2.5], "a": "Ünïcode"})
    assert read_json(path) == {"b": [1, 2.5], "a": "Ünïcode"}
    assert path.read_text(encoding="utf-8").startswith('{\n  "b": [')
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json_atomic(path, {"loss": float("nan")})
    assert read_json(path)["a"] == "Ünïcode"


def die_writing(path: Path, *, replacing: bool) -> None:
    """Write a folder in another process, which is killed before, or just before the end of it."""
    code = f"""
import os, signal, sys
from pathlib import Path
from genrec import atomic
if {replacing}:
    rename = os.rename
    atomic.os.rename = lambda *names: os.kill(os.getpid(), signal.SIGKILL)
with atomic.atomic_directory({str(path)!r}) as folder:
    (folder / "a").write_text("new")
    if not {replacing}:
        os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr


@pytest.mark.parametrize("replacing", [False, True])
def test_what_a_killed_writer_left_goes_with_the_next_one(tmp_path, replacing):
    target = tmp_path / "x"
    with atomic_directory(target) as folder:
        (folder / "a").write_text("old")
    (tmp_path / ".x.theirs.tmp").write_text("of nobody known")
    die_writing(target, replacing=replacing)
    assert len(list(tmp_path.glob(".x.*"))) == 2 + replacing
    with contextlib.suppress(RuntimeError), atomic_directory(target):
        assert (target / "a").read_text() == "old"  # also where it had been moved away
        raise RuntimeError
    assert (target / "a").read_text() == "old"
    assert [path.name for path in tmp_path.glob(".x.*")] == [".x.theirs.tmp"]


def test_a_living_writer_is_left_alone(tmp_path):
    with atomic_directory(tmp_path / "x") as one, atomic_directory(tmp_path / "x") as two:
        assert one.is_dir()
        assert two.is_dir()


@pytest.mark.parametrize("kind", [atomic_file, atomic_directory])
def test_a_full_disk_and_a_folder_without_rights_are_named(tmp_path, kind):
    for number, fix in ((errno.ENOSPC, "free space"), (errno.EROFS, "check it")):
        wanted = re.escape(f"got {os.strerror(number)} for {tmp_path / 'x'}; {fix}")
        with pytest.raises(StorageError, match=wanted), kind(tmp_path / "x"):
            raise OSError(number, "said the system")
    with pytest.raises(StorageError, match="No space left on device"), kind(tmp_path / "x"):
        raise ValueError("I/O error: No space left on device (os error 28)")
    with pytest.raises(ValueError, match="a defect"), kind(tmp_path / "x"):
        raise ValueError("a defect")
    assert list(tmp_path.iterdir()) == []


NUMBERS = np.random.default_rng(0).random(100_000)
TABLE = pl.DataFrame({"a": NUMBERS})


def save_torch(path: Path) -> None:
    with path.open("wb") as file:
        torch.save({"a": torch.from_numpy(NUMBERS)}, file)


@pytest.mark.parametrize(
    "save",
    [
        lambda path: path.write_bytes(bytes(100_000)),
        lambda path: np.save(path.with_suffix(".npy"), NUMBERS),
        lambda path: np.savez_compressed(path.with_suffix(".npz"), a=NUMBERS),
        lambda path: TABLE.lazy().sink_csv(path),
        lambda path: TABLE.lazy().sink_ndjson(path),
        lambda path: TABLE.lazy().sink_parquet(path),
        lambda path: save_file({"a": torch.from_numpy(NUMBERS)}, path),
        save_torch,
    ],
    ids=["python", "npy", "npz", "csv", "jsonl", "parquet", "safetensors", "torch"],
)
def test_a_limit_on_the_size_of_files_is_one_error_whoever_writes(tmp_path, save):
    """Each library has its own error for it, some without the system's number."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64 << 10, before[1]))
    try:
        wanted = (
            f"^folder must be writable, got .* for {re.escape(str(tmp_path / 'x'))}; free space"
        )
        with pytest.raises(StorageError, match=wanted), atomic_directory(tmp_path / "x") as folder:
            save(folder / "a")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(tmp_path.iterdir()) == []


def test_an_error_that_is_not_of_writing_stays_what_it_is(tmp_path):
    with pytest.raises(FileNotFoundError), atomic_file(tmp_path / "x"):
        (tmp_path / "missing").read_bytes()
    with pytest.raises(pl.exceptions.ComputeError), atomic_file(tmp_path / "x"):
        raise pl.exceptions.ComputeError("No such file or directory (os error 2)")


KIND = FolderKind("a box", frozenset({"meta.json"}), frozenset({"*.npy"}), format="box")


@pytest.mark.parametrize(
    ("content", "names", "refused"),
    [
        ('{"format": "box"}', [], None),
        ('{"format": "box", "files": {"deep/er": 1, "more": 2}}', ["deep", "more", "a.npy"], None),
        ('{"format": "box"}', ["more"], "more"),
        ('{"format": "chest"}', ["a.npy"], "a.npy"),
        ("{", ["a.npy"], None),  # damaged
        ("{", ["notes.txt"], "notes.txt"),
        (None, ["a.npy"], "a.npy"),
        (None, [], None),
    ],
)
def test_a_folder_gives_way_only_to_its_kind(tmp_path, content, names, refused):
    folder = tmp_path / "there"
    folder.mkdir()
    if content is not None:
        (folder / "meta.json").write_text(content)
    for name in names:
        (folder / name).mkdir()
    if refused is None:
        KIND.check_replaceable(folder, "--out")
        return
    with pytest.raises(ConfigError, match=rf"--out must be .*hold a box and .* with '{refused}'"):
        KIND.check_replaceable(folder, "--out")


def test_files_and_links_give_way_to_no_folder(tmp_path):
    KIND.check_replaceable(tmp_path / "new", "--out")
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ConfigError, match=r"got .* with 'file'"):
        KIND.check_replaceable(tmp_path / "file", "--out")
    (tmp_path / "folder").mkdir()
    for place in ("folder", "nowhere"):
        (tmp_path / "link").unlink(missing_ok=True)
        (tmp_path / "link").symlink_to(tmp_path / place)
        with pytest.raises(ConfigError, match=f"got the link .*link to .*{place}; name that"):
            KIND.check_replaceable(tmp_path / "link", "--out")
