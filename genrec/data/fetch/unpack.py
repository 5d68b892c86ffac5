"""Unpack zip archives without letting them write elsewhere or fill the disk."""

from __future__ import annotations

import errno
import lzma
import os
import shutil
import stat
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from genrec.atomic import atomic_directory
from genrec.errors import DataError, GenRecError

__all__ = ["unpack"]

#: What the parts of zipfile raise of a damaged archive.
_DAMAGED = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    struct.error,
    EOFError,
    IndexError,
    MemoryError,
    NotImplementedError,
    OSError,
    OverflowError,
    RuntimeError,
    ValueError,
)


def unpack(
    archive: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    max_bytes: int = 64 << 30,
    max_files: int = 10_000,
    place: Callable[[str], str | None] = str,
) -> list[Path]:
    """Unpack a zip archive into a new folder, all of it or nothing.

    Args:
        archive: The archive.
        target: Folder to make; an older one is replaced when all is unpacked.
        max_bytes: Most bytes that may come out.
        max_files: Most files that may come out.
        place: Says where below the target a file of that name goes, or None to leave it out.

    Returns:
        The files.

    Raises:
        DataError: If the archive is damaged, grows beyond a bound, or holds a path outside the
            target, a link or a device.
    """
    source = Path(archive)
    # Damage is named inside: to what writes the folder, an error without a number is the disk's.
    with atomic_directory(target) as folder:
        names = _fill(folder, source, max_bytes=max_bytes, max_files=max_files, place=place)
    return [Path(target) / name for name in names]


def _fill(
    folder: Path,
    source: Path,
    *,
    max_bytes: int,
    max_files: int,
    place: Callable[[str], str | None],
) -> list[str]:
    """Unpack an archive into an empty folder; give the names of the files."""
    name = None
    try:
        with zipfile.ZipFile(source) as packed:
            members = [
                (name.replace("\\", "/"), info)
                for info in packed.infolist()
                if not info.is_dir() and (name := place(info.filename)) is not None
            ]
            _check(members, source, max_bytes, max_files)
            for name, info in members:
                file = folder / name
                file.parent.mkdir(parents=True, exist_ok=True)
                # zipfile gives no more bytes than announced, and checks their sum at the end.
                with packed.open(info) as stream, file.open("xb") as output:
                    shutil.copyfileobj(stream, output, 1 << 20)
    except GenRecError:
        raise
    except (FileExistsError, NotADirectoryError, IsADirectoryError):
        raise _refused(source, "name each file once", f"{name!r} twice") from None
    except _DAMAGED as error:
        # bz2 says no number, a place before the beginning is EINVAL; all else is the system's.
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
            raise
        raise DataError(
            f"archive must be a complete zip, got {source} ({error}); delete it and fetch it again"
        ) from None
    return [name for name, _ in members]


def _check(
    members: list[tuple[str, zipfile.ZipInfo]], source: Path, max_bytes: int, max_files: int
) -> None:
    """Judge an archive by its list of contents, before a byte is written."""
    for name, info in members:
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or not path.parts or ":" in path.parts[0]:
            raise _refused(source, "hold paths below its folder", repr(name))
        if stat.S_IFMT(info.external_attr >> 16) not in (0, stat.S_IFREG):
            raise _refused(source, "hold plain files only", f"{name!r}, a link or device,")
    if len(members) > max_files:
        raise _refused(source, f"hold at most {max_files} files", f"{len(members)}")
    if (size := sum(info.file_size for _, info in members)) > max_bytes:
        raise _refused(source, f"unpack to at most {max_bytes} bytes", f"{size}")


def _refused(source: Path, rule: str, got: str) -> DataError:
    return DataError(f"archive must {rule}, got {got} in {source}; do not use this archive")
