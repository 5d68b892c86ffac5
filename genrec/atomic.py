"""Files and folders that are either there whole or not there at all."""

from __future__ import annotations

import errno
import glob
import hashlib
import json
import os
import re
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from genrec.errors import ArtifactError, ConfigError, GenRecError, StorageError

__all__ = [
    "FolderKind",
    "atomic_directory",
    "atomic_file",
    "read_json",
    "sweep",
    "write_json_atomic",
]


_HOST = hashlib.blake2s(socket.gethostname().encode(), digest_size=4).hexdigest()
#: Names of what is being written: whose it shall be, and by which process of which machine.
_UNFINISHED = re.compile(
    r"\.(?P<name>.+)\.(?:(?P<host>[0-9a-f]{8})-(?P<process>[0-9]+)-)?[a-z0-9_]{8}\.(?P<kind>tmp|old)",
    re.DOTALL,
)
_RUST_ERROR = re.compile(r"\(os error (\d+)\)")  # how safetensors and polars end their messages
_SHORT_WRITE = re.compile(r"\d+ requested and \d+ written")  # all that numpy says
_UNWRITABLE = frozenset(
    getattr(errno, name)
    for name in ["EACCES", "EDQUOT", "EFBIG", "EIO", "ENAMETOOLONG", "ENOSPC", "EPERM", "EROFS"]
)


def _sync(path: Path) -> None:
    """Flush a file or folder to the disk, so that a rename never outruns its content."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _umask() -> int:
    """Read the process's file mode mask (it can only be read by setting it)."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


@contextmanager
def _writing(target: Path) -> Iterator[None]:
    """Raise what keeps a file or folder from being written as one error that names it."""
    try:
        yield
    except GenRecError:
        raise
    except Exception as error:
        refusal = _refusal(error)
        if refusal is None:
            raise
        raise StorageError.of(target, refusal) from error


def _refusal(error: BaseException) -> int | str | None:
    """Find what the system refused: its number, else the words of an error without one."""
    cause: BaseException | None = error
    while cause is not None:  # torch raises its own error while the system's is on its way
        said = _RUST_ERROR.search(str(cause))
        number = getattr(cause, "errno", None) or (int(said[1]) if said else None)
        if number in _UNWRITABLE:
            return number
        cause = cause.__cause__ or cause.__context__
    if not isinstance(error, OSError) or error.errno is not None or _RUST_ERROR.search(str(error)):
        return None
    text = " ".join(str(error).split())
    if _SHORT_WRITE.search(text):
        return f"too little space or too low a limit ({text})"
    return text


@contextmanager
def atomic_file(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Write a file under a temporary name and move it into place when the block ends.

    Args:
        path: Where the file shall be; its folder is made when missing.

    Yields:
        The temporary path to write to, on the same file system.

    Raises:
        StorageError: If it cannot be written.
    """
    target = Path(path)
    with _writing(target), _file(target) as temporary:
        yield temporary


@contextmanager
def _file(target: Path) -> Iterator[Path]:
    _make_room(target)
    handle, name = tempfile.mkstemp(prefix=_prefix(target), suffix=".tmp", dir=target.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o666 & ~_umask())  # mkstemp makes files private
        _sync(temporary)
        os.replace(temporary, target)
        _sync(target.parent)
    finally:
        temporary.unlink(missing_ok=True)


@dataclass(frozen=True)
class FolderKind:
    """Folders of one kind of artefact, where a newer one may take the place of an older one.

    Attributes:
        name: In words, with its article.
        needed: Names without which a folder is none of them.
        others: More names that one may hold, as patterns of :mod:`fnmatch`, besides those that
            ``files`` in its ``meta.json`` lists.
        format: ``format`` in ``meta.json``; None where that names none.
    """

    name: str
    needed: frozenset[str]
    others: frozenset[str] = frozenset()
    format: str | None = None

    def is_at(self, path: str | os.PathLike[str]) -> bool:
        """Tell whether there is one at a path, damaged perhaps, and perhaps with more beside it."""
        folder = Path(path)
        if not all((folder / name).exists() for name in self.needed):
            return False
        meta = _meta(folder)
        return self.format is None or meta is None or meta.get("format") == self.format

    def check_replaceable(self, path: str | os.PathLike[str], what: str) -> None:
        """Refuse a place at which anything but an older one would be lost.

        Args:
            path: The folder to make.
            what: The path's name, for errors.

        Raises:
            ConfigError: If a file lies there, or a folder that holds something else.
        """
        folder = Path(path)
        if folder.is_symlink():
            raise ConfigError(
                f"{what} must be a folder itself, got the link {folder} to "
                f"{os.readlink(folder)}; name that"
            )
        if not folder.exists():
            return
        strange = {file.name for file in folder.iterdir()} if folder.is_dir() else {folder.name}
        if self.is_at(folder):
            files = (_meta(folder) or {}).get("files")
            listed = files if isinstance(files, dict) else {}
            known = [*self.needed, *self.others, *(name.partition("/")[0] for name in listed)]
            strange = {name for name in strange if not any(fnmatch(name, one) for one in known)}
        if strange:
            raise ConfigError(
                f"{what} must be new or empty, or hold {self.name} and nothing else, got {folder} "
                f"with {min(strange)!r}; name another one"
            )


def _meta(folder: Path) -> dict[str, Any] | None:
    """Read what describes an artefact; None where it is damaged, or not there."""
    with suppress(ArtifactError):
        return read_json(folder / "meta.json")
    return None


@contextmanager
def atomic_directory(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Fill a folder under a temporary name and move it into place when the block ends.

    An older folder of that name is replaced only once the new one is complete. When two
    processes write the same folder, one of the two complete results remains.

    Args:
        path: Where the folder shall be; its parent is made when missing.

    Yields:
        The temporary folder to write to.

    Raises:
        StorageError: If it cannot be written.
    """
    target = Path(path)
    with _writing(target), _directory(target) as temporary:
        yield temporary


@contextmanager
def _directory(target: Path) -> Iterator[Path]:
    _make_room(target)
    temporary = Path(tempfile.mkdtemp(prefix=_prefix(target), suffix=".tmp", dir=target.parent))
    temporary.chmod(0o777 & ~_umask())
    try:
        yield temporary
        mask = _umask()
        for file in temporary.rglob("*"):
            if file.is_file():
                file.chmod(0o666 & ~mask)  # some libraries write private files
            _sync(file)
        _sync(temporary)
        _swap_in(temporary, target)
        _sync(target.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _swap_in(temporary: Path, target: Path) -> None:
    """Rename a complete folder over its target; folders cannot be replaced in one call."""
    for _ in range(8):
        old = _move_away(target)
        try:
            os.rename(temporary, target)
        except OSError as error:
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
                continue  # another process put its own there in between
            if old is not None:  # without a new one the old one is what remains
                os.rename(old, target)
            raise
        finally:
            if old is not None:
                shutil.rmtree(old, ignore_errors=True)
        return
    raise StorageError(
        f"folder must be written by one process, got {target}, which another keeps replacing; run "
        "one at a time"
    )


def _move_away(target: Path) -> Path | None:
    """Rename a folder out of the way; None where there is none."""
    if not target.exists():
        return None
    old = Path(tempfile.mkdtemp(prefix=_prefix(target), suffix=".old", dir=target.parent))
    try:
        os.replace(target, old)  # an empty folder may be replaced
    except FileNotFoundError:  # another process moved it away first
        old.rmdir()
        return None
    except OSError:
        old.rmdir()
        raise
    return old


def sweep(folder: str | os.PathLike[str]) -> None:
    """Remove what killed writers left in a folder; nobody may be writing there.

    Args:
        folder: Where :func:`atomic_file` and :func:`atomic_directory` wrote. A folder that was
            moved away and has no successor is put back.
    """
    for path in Path(folder).glob(".*"):
        if found := _UNFINISHED.fullmatch(path.name):
            _tidy(path, path.with_name(found["name"]))


def _tidy(path: Path, target: Path) -> None:
    """Put back a folder that was moved away for nothing; remove what else was left."""
    if path.suffix == ".old" and any(path.iterdir()) and not target.exists():
        path.rename(target)
    elif path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _make_room(target: Path) -> None:
    """Make the folder to write in, and clear away what dead writers of this target left."""
    target.parent.mkdir(parents=True, exist_ok=True)
    for path in target.parent.glob(f".{glob.escape(target.name)}.*"):
        found = _UNFINISHED.fullmatch(path.name)
        ours = found is not None and (found["name"], found["host"]) == (target.name, _HOST)
        if found is not None and ours and not _is_alive(int(found["process"])):
            _tidy(path, target)


def _prefix(target: Path) -> str:
    """Begin the name of what is being written: hidden, and ours to tell from a dead writer's."""
    return f".{target.name}.{_HOST}-{os.getpid()}-"


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):  # of another user, or no number of a process
        return True
    return True


def write_json_atomic(path: str | os.PathLike[str], value: Any) -> None:
    """Write a JSON file, keys in the given order, two spaces of indent; NaN is refused."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    with atomic_file(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def read_json(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a file that describes something: one JSON object.

    Args:
        path: The file.

    Returns:
        The object.

    Raises:
        ArtifactError: If it is none.
        OSError: If it cannot be read.
    """
    try:
        value = json.loads(Path(path).read_text(encoding="utf-8"))
        if not isinstance(value, dict):
            raise ValueError(f"a {type(value).__name__} in place of an object")
        return value
    except (RecursionError, ValueError) as error:
        raise ArtifactError(
            f"{Path(path).name} must be readable, got {path} with {error}; it was damaged or "
            "edited, make its folder again"
        ) from error
