"""Unpack archives without letting them write elsewhere or fill the disk."""

from __future__ import annotations

import os
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from genrec.atomic import atomic_directory
from genrec.errors import DataError

__all__ = ["unpack"]

_BLOCK_BYTES = 1 << 20


@dataclass(frozen=True)
class _Member:
    """A file of an archive."""

    name: str
    is_plain: bool
    open: Callable[[], IO[bytes]]


def unpack(
    archive: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    max_bytes: int = 64 << 30,
    max_files: int = 10_000,
    place: Callable[[str], str | None] | None = None,
) -> list[Path]:
    """Unpack a zip or tar archive into a new folder, all of it or nothing.

    Args:
        archive: The archive.
        target: Folder to make; an older one is replaced when all is unpacked.
        max_bytes: Most bytes that may come out, counted as they come and not as announced.
        max_files: Most files that may come out.
        place: Says where below the target a file of that name goes, or None to leave it out;
            None keeps names and takes all.

    Returns:
        The files.

    Raises:
        DataError: If the archive is damaged, grows beyond a bound, or holds a path outside the
            target, a link or a device.
    """
    source = Path(archive)
    written = 0
    names: list[str] = []
    with atomic_directory(target) as folder:
        try:
            for member in _members(source):
                name = place(member.name) if place is not None else member.name
                if name is None:
                    continue
                file = _inside(folder, name, source)
                if not member.is_plain:
                    raise DataError(
                        f"archive must hold plain files only, got {member.name!r}, a link or "
                        f"device, in {source}; do not use this archive"
                    )
                names.append(name)
                if len(names) > max_files:
                    raise DataError(
                        f"archive must hold at most {max_files} files, got more in {source}; "
                        "do not use this archive"
                    )
                file.parent.mkdir(parents=True, exist_ok=True)
                with member.open() as stream, file.open("xb") as output:
                    while block := stream.read(_BLOCK_BYTES):
                        written += len(block)
                        if written > max_bytes:
                            raise DataError(
                                f"archive must unpack to at most {max_bytes} bytes, got more in "
                                f"{source}; do not use this archive"
                            )
                        output.write(block)
        except (FileExistsError, NotADirectoryError, IsADirectoryError):
            raise DataError(
                f"archive must name each file once, got {name!r} twice in {source}; "
                "do not use this archive"
            ) from None
        except (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, RuntimeError) as error:
            raise DataError(
                f"archive must be complete, got {source} ({error}); delete it and fetch it again"
            ) from None
    return [Path(target) / name for name in names]


def _members(source: Path) -> Iterator[_Member]:
    if zipfile.is_zipfile(source):
        with zipfile.ZipFile(source) as packed:
            for info in packed.infolist():
                if info.is_dir():
                    continue
                mode = info.external_attr >> 16
                plain = not mode or stat.S_IFMT(mode) in (0, stat.S_IFREG)
                yield _Member(info.filename, plain, lambda info=info: packed.open(info))  # type: ignore[misc]
        return
    if not tarfile.is_tarfile(source):
        raise DataError(f"archive must be zip or tar, got {source}; delete it and fetch it again")
    with tarfile.open(source) as tape:
        for entry in tape:
            if entry.isdir():
                continue

            def opened(entry: tarfile.TarInfo = entry) -> IO[bytes]:
                stream = tape.extractfile(entry)
                assert stream is not None
                return stream

            yield _Member(entry.name, entry.isreg(), opened)


def _inside(folder: Path, name: str, source: Path) -> Path:
    """Place a name below a folder; refuse one that leads out of it."""
    path = PurePosixPath(name.replace("\\", "/"))
    unsafe = path.is_absolute() or ".." in path.parts or not path.parts or ":" in path.parts[0]
    if unsafe or "\x00" in name:
        raise DataError(
            f"archive must hold paths below its folder, got {name!r} in {source}; "
            "do not use this archive"
        )
    return folder.joinpath(*path.parts)
