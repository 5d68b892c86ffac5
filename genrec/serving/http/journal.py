"""The journal of a service: every change of its items, on the disk before it is answered.

A text file: a header, then one change a line, each line behind its digest, which goes over the
digest before it too: a line that is changed, lost or moved is noticed. A last line without its line
break was being written when the machine stopped; it is dropped at the next start: nobody was told
that it was done.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import xxhash
from filelock import FileLock, Timeout

from genrec.atomic import atomic_file
from genrec.errors import ArtifactError, ConfigError, MissingPathError

__all__ = ["Changes", "Header", "Journal", "NewItem", "add_line"]

_FORMAT = "genrec-serving-journal"
_FORMAT_VERSION = 2
_BEGIN = "0" * 16  # stands for the digest before the first
_LINE_ITEMS = 256


@dataclass(frozen=True)
class Header:
    """Which run a journal belongs to.

    Attributes:
        run: Identity of the run that is served.
        path: Its folder.
        started: Identity of the run that the command named; another one after a swap.
    """

    run: str
    path: str
    started: str


@dataclass(frozen=True)
class NewItem:
    """An item that came after training.

    Attributes:
        item: Its key.
        title: What to show a person.
        text: What was embedded, where there was no vector.
        vector: From the run's text encoder.
        codes: The ID that the run gave it; None where the run knows the item by itself.
        sketch: Of its text vector, by which likeness is measured; None where the run has none.
    """

    item: str
    title: str | None = None
    text: str | None = None
    vector: list[float] | None = None
    codes: list[int] | None = None
    sketch: list[float] | None = None


@dataclass
class Changes:
    """What all lines come to, in the order in which items were added.

    Attributes:
        added: By key, those removed since among them.
        removed: Keys; those that the run does not know among them.
        returned: Keys that were removed and came back, perhaps from a removal of the run itself.
    """

    added: dict[str, NewItem] = field(default_factory=dict)
    removed: dict[str, None] = field(default_factory=dict)
    returned: dict[str, None] = field(default_factory=dict)

    def apply(self, line: dict[str, Any]) -> None:
        """Take one line of a journal.

        Raises:
            KeyError, TypeError: If it is none.
        """
        if line["op"] == "add":
            for written in line["items"]:
                item = NewItem(**written)
                self.added[item.item] = item
                self.removed.pop(item.item, None)
            for key in line.get("back", ()):
                self.removed.pop(key, None)
                self.returned[key] = None
        elif line["op"] == "remove":
            for key in line["keys"]:
                self.returned.pop(key, None)
                self.removed[key] = None
        else:
            raise KeyError(line["op"])

    def lines(self) -> Iterable[dict[str, Any]]:
        """Write everything as few lines."""
        added = list(self.added.values())
        for begin in range(0, len(added), _LINE_ITEMS):
            yield add_line(added[begin : begin + _LINE_ITEMS])
        returned = list(self.returned)
        for begin in range(0, len(returned), _LINE_ITEMS):
            yield add_line([], returned[begin : begin + _LINE_ITEMS])
        removed = list(self.removed)
        for begin in range(0, len(removed), _LINE_ITEMS):
            yield {"op": "remove", "keys": removed[begin : begin + _LINE_ITEMS]}

    def copy(self) -> Changes:
        """Return changes of their own."""
        return Changes(dict(self.added), dict(self.removed), dict(self.returned))


def add_line(items: Iterable[NewItem], back: Sequence[str] = ()) -> dict[str, Any]:
    """Write new items, without what they do not have, and keys that come back, as a line."""
    written = [{k: v for k, v in asdict(item).items() if v is not None} for item in items]
    return {"op": "add", "items": written, **({"back": list(back)} if back else {})}


class Journal:
    """The file; one service at a time holds it.

    Args:
        path: The file, which is made by the first :meth:`restart`; its folder must exist.

    Attributes:
        path: See above.
        header: Which run it belongs to; None where there is no file yet.
        changes: What its lines come to.
        dropped: Bytes of a torn last line that were dropped.
        empty: Whether there was a file with nothing in it, which is taken as none.

    Raises:
        ConfigError: If another service holds it, or its folder cannot be written.
        MissingPathError: If there is no such folder.
        ArtifactError: If it is damaged.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.header: Header | None = None
        self.changes = Changes()
        self.dropped = 0
        self.empty = False
        self._digest = _BEGIN  # of the last line
        self._file: Any = None
        self._broken = False
        if not self.path.parent.is_dir():
            raise MissingPathError(
                f"--journal must lie in a folder, got {self.path.parent}, which is not there; "
                "make it"
            )
        place = self.path.resolve()  # of a link, what it points to
        self._lock = FileLock(place.with_name(f".{place.name}.lock"))
        self._owner = place.with_name(f".{place.name}.owner")
        self._take()
        try:
            if self.path.exists():
                self._read()
        except BaseException:
            self.close()
            raise

    def restart(self, header: Header, changes: Changes) -> None:
        """Begin anew with some changes, which replace the older file once they are on the disk.

        Raises:
            OSError: If they cannot be written; the older file then stays.
        """
        first = {"format": _FORMAT, "version": _FORMAT_VERSION, **asdict(header)}
        digest = _BEGIN
        with atomic_file(self.path) as temporary, temporary.open("wb") as file:
            for line in (first, *changes.lines()):
                written, digest = _encode(line, digest)
                file.write(written)
        self.header, self.changes, self._digest = header, changes, digest
        self._open()

    def append(self, line: dict[str, Any]) -> None:
        """Write one change; it is on the disk when this returns.

        Raises:
            OSError: If it is not; then nothing of it stays.
        """
        if self._broken or self._file is None:
            raise OSError("an earlier write failed; start the service again")
        size = self._file.tell()
        written, digest = _encode(line, self._digest)
        rest = memoryview(written)
        try:
            while rest:
                rest = rest[self._file.write(rest) :]
            os.fsync(self._file.fileno())
        except OSError:
            # What the disk holds after a failed flush is unknown: cut it off, and write no more.
            self._broken = True
            self._open_at(size)
            raise
        self._digest = digest
        self.changes.apply(line)

    def close(self) -> None:
        """Let another service have it."""
        if self._file is not None:
            self._file.close()
            self._file = None
        self._lock.release()

    def _take(self) -> None:
        try:
            self._lock.acquire(timeout=0)
            self._owner.write_text(f"process {os.getpid()} on {socket.gethostname()}\n")
        except Timeout:
            raise ConfigError(
                f"journal must be free, got {self.path}, which {self._holder()} uses; stop it, or "
                "give this service a --journal of its own"
            ) from None
        except OSError as error:
            raise ConfigError(
                f"journal must lie in a folder that can be written, got {self.path} with "
                f"{error.strerror or error}; name another --journal"
            ) from None

    def _holder(self) -> str:
        try:
            return self._owner.read_text(encoding="utf-8", errors="replace").strip()
        except OSError:
            return "another service"

    def _read(self) -> None:
        raw = self.path.read_bytes()
        self.empty = not raw
        *lines, torn = raw.split(b"\n")  # behind the last line break there is nothing
        if torn and not lines:
            raise self._damaged(1, "no line break")  # the header came as a whole
        for number, line in enumerate(lines, start=1):
            digest, _, text = line.partition(b" ")
            if digest != _digest_of(text, self._digest).encode():
                raise self._damaged(number, "a digest that is not its own, or a lost line,")
            try:
                self._take_line(number, json.loads(text))
            except (AttributeError, KeyError, TypeError, ValueError) as error:
                raise self._damaged(number, f"{error!r}") from None
            self._digest = digest.decode("ascii")
        self.dropped = len(torn)
        if self.header is not None:
            self._open_at(len(raw) - len(torn))

    def _take_line(self, number: int, line: dict[str, Any]) -> None:
        if number > 1:
            self.changes.apply(line)
            return
        found = (line.pop("format", None), line.pop("version", None))
        if found != (_FORMAT, _FORMAT_VERSION):
            raise ValueError(f"format {found[0]} version {found[1]}")
        self.header = Header(**line)

    def _damaged(self, number: int, what: str) -> ArtifactError:
        return ArtifactError(
            f"journal must be as it was written, got {self.path} with {what} in line {number}; "
            "put a copy back, or move it away to begin without its changes"
        )

    def _open_at(self, size: int) -> None:
        """Cut off what is behind, and write on from there."""
        with self.path.open("r+b") as file:
            file.truncate(size)
            os.fsync(file.fileno())
        self._open()

    def _open(self) -> None:
        if self._file is not None:
            self._file.close()
        # Without a buffer: its rest would be written by close, behind what was cut off.
        self._file = self.path.open("ab", buffering=0)


def _encode(line: dict[str, Any], before: str) -> tuple[bytes, str]:
    """Write a line behind the one of a digest; the line and its own digest."""
    text = json.dumps(line, ensure_ascii=False, allow_nan=False).encode("utf-8")
    digest = _digest_of(text, before)
    return digest.encode() + b" " + text + b"\n", digest


def _digest_of(text: bytes, before: str) -> str:
    return xxhash.xxh3_64_hexdigest(text, seed=int(before, 16))
