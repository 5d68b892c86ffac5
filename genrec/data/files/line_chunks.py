"""Read text files in blocks of whole lines, unpacking and reading ahead in a thread."""

from __future__ import annotations

import codecs
import gzip
import io
import os
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

from genrec.data.files.rejected import RejectedRows
from genrec.errors import ConfigError, DataError, MissingPathError

__all__ = [
    "LineChunk",
    "check_encoding",
    "count_lines",
    "decoded",
    "first_bytes",
    "first_line",
    "fits",
    "line_chunks",
    "numbered_lines",
    "open_binary",
    "read_lines",
    "swells",
]

_CHUNK_BYTES = 16 << 20
_COUNT_BYTES = 1 << 20
_LONGEST_LINE_BYTES = 64 << 20
_TOO_LONG = f"a line longer than {_LONGEST_LINE_BYTES >> 20} MiB"
_USUAL_RATIO = 50  # logs shrink to a third or a twentieth
_UTF8_MARK = b"\xef\xbb\xbf"
#: Marks of encodings in which a letter is several bytes, the longer ones first: two begin alike.
_WIDE_MARKS = {
    b"\xff\xfe\0\0": "utf-32",
    b"\0\0\xfe\xff": "utf-32",
    b"\xff\xfe": "utf-16",
    b"\xfe\xff": "utf-16",
}
_WIDE = ("utf-32-le", "utf-32-be", "utf-16-le", "utf-16-be")
_HEAD_BYTES = 1 << 10
_NUL_SHARE = 1 / 8  # of the bytes; a few stray ones are the text's own flaw


@dataclass(frozen=True)
class LineChunk:
    """Whole lines of a file.

    Attributes:
        data: The lines.
        first_line: Number of the first of them, from 1.
    """

    data: bytes
    first_line: int

    @property
    def num_lines(self) -> int:
        """Lines, a last one without an end counted."""
        return self.data.count(b"\n") + (not self.data.endswith(b"\n"))


@contextmanager
def open_binary(path: Path) -> Iterator[BinaryIO]:
    """Open a file for reading, unpacking gzip by its first bytes rather than by its name.

    Args:
        path: The file.

    Yields:
        A binary stream of the unpacked content; UTF-16, as in Excel's "Unicode text", and UTF-32
        in UTF-8, with their marks or without.

    Raises:
        MissingPathError: If there is no such file.
        DataError: If the gzip ends too early or is damaged, now or while it is read, or if the
            content is no text.
    """
    if not path.is_file():
        raise MissingPathError(f"file must exist, got {path}; check the folder")
    with path.open("rb") as raw:
        packed = raw.read(2) == b"\x1f\x8b"
    try:
        with gzip.open(path, "rb") if packed else path.open("rb") as stream:
            wide = _wide_encoding(stream.read(_HEAD_BYTES), path)
            stream.seek(0)
            found = cast(BinaryIO, stream)
            yield io.BufferedReader(_FromWide(found, wide)) if wide else found
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(
            f"gzip file must be complete, got {path} ({error}); delete it and fetch it again"
        ) from None


def _wide_encoding(head: bytes, path: Path) -> str | None:
    """Tell by its first bytes whether a file is UTF-16 or UTF-32; None where it is like ASCII.

    What holds as many NULs as these do but is neither is a DataError: read on, every key and
    title would be garbage.
    """
    for mark, encoding in _WIDE_MARKS.items():
        if head.startswith(mark):
            return encoding
    if head.count(0) < max(4, _NUL_SHARE * len(head)):
        return None
    for encoding in _WIDE:
        try:
            text = codecs.getincrementaldecoder(encoding)().decode(head)
        except UnicodeError:
            continue
        if "\0" not in text and any(sign in text for sign in "\n\t,;|:{"):
            return encoding
    raise DataError(
        f"table must be text, got NUL bytes in {path}; save it as UTF-8, or in an encoding that "
        "--encoding can name"
    )


class _FromWide(io.RawIOBase):
    """A stream of UTF-16 or UTF-32 as one of UTF-8; no letter is a question mark in a lozenge.

    Args:
        stream: The bytes.
        encoding: ``"utf-16"`` or ``"utf-32"`` where a mark tells their order, else with the order.
    """

    def __init__(self, stream: BinaryIO, encoding: str) -> None:
        self._stream = stream
        self._decoder = codecs.getincrementaldecoder(encoding)("replace")
        self._left = b""

    def readable(self) -> bool:
        """A stream to read from."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer; 0 at the end."""
        at_end = False
        while not self._left and not at_end:
            block = self._stream.read(max(2, len(buffer)))
            at_end = not block
            self._left = self._decoder.decode(block, final=at_end).encode("utf-8", "replace")
        count = min(len(buffer), len(self._left))
        buffer[:count], self._left = self._left[:count], self._left[count:]
        return count


def swells(path: Path) -> bool:
    """Tell whether a gzip may hold much more than its size lets expect, by what it says itself."""
    with path.open("rb") as stream:
        if stream.read(2) != b"\x1f\x8b":
            return False
        stream.seek(-4, os.SEEK_END)
        unpacked, packed = int.from_bytes(stream.read(4), "little"), path.stat().st_size
    # The size is given modulo 4 GiB: what seems to have shrunk may be anything.
    return not packed // 2 <= unpacked <= _USUAL_RATIO * packed


def numbered_lines(path: Path, rejected: RejectedRows | None = None) -> Iterator[tuple[int, bytes]]:
    """Read a file line by line, in bounded memory whatever it holds.

    Args:
        path: Plain or gzip.
        rejected: Takes note of lines longer than 64 MiB, which are left out.

    Yields:
        Number, from 1, and line with its end.
    """
    with open_binary(path) as stream:
        number = 0
        while line := stream.readline(_LONGEST_LINE_BYTES + 1):
            number += 1
            if len(line) <= _LONGEST_LINE_BYTES:
                yield number, line
                continue
            while line and not line.endswith(b"\n"):
                line = stream.readline(_COUNT_BYTES)
            if rejected is not None:
                rejected.add(path.name, _TOO_LONG, line=number)


def first_bytes(path: Path) -> bytes:
    """Read what a file begins with, without a UTF-8 mark and blanks; empty if none."""
    with open_binary(path) as stream:
        return stream.read(1 << 10).removeprefix(_UTF8_MARK).lstrip()


def first_line(path: Path) -> bytes:
    """Read the first line that is not blank, without its end and a UTF-8 mark; empty if none.

    One longer than 64 MiB is a DataError.
    """
    with open_binary(path) as stream:
        while line := stream.readline(_LONGEST_LINE_BYTES + 1):
            if len(line) > _LONGEST_LINE_BYTES:
                raise DataError(
                    f"first line must be no longer than {_LONGEST_LINE_BYTES >> 20} MiB, got a "
                    f"longer one in {path}; is this a text file?"
                )
            plain = line.removeprefix(_UTF8_MARK).strip(b"\r\n")
            if plain.strip():
                return plain
    return b""


def count_lines(path: Path) -> int | None:
    """Count the lines of a plain file, a last one without an end counted.

    None for gzip, where counting costs as much as reading, for UTF-16 and UTF-32, for a file
    that does not begin with a line that holds something, and for one with a line longer than
    64 MiB.
    """
    lines, last, unended = 0, b"", 0
    with path.open("rb") as stream:
        start = stream.read(_HEAD_BYTES)
        packed = start[:2] == b"\x1f\x8b"
        if packed or start[:1] in b"\r\n" or _wide_encoding(start, path) is not None:
            return None
        stream.seek(0)
        while block := stream.read(_COUNT_BYTES):
            lines += block.count(b"\n")
            last = block[-1:]
            end = block.rfind(b"\n") + 1
            unended = len(block) - end + (0 if end else unended)
            if unended > _LONGEST_LINE_BYTES:
                return None
    return lines + (last not in (b"", b"\n"))


def decoded(data: bytes, encoding: str = "utf-8") -> str:
    """Decode text; bytes that are none in its encoding are taken for Windows-1252, as of Excel."""
    return data.decode(encoding, errors="genrec-windows")


def check_encoding(encoding: str) -> None:
    """Refuse what is no encoding, and one in which lines and separators are other bytes.

    Raises:
        ConfigError: If it is not like ASCII where ASCII is enough.
    """
    plain = bytes([*b"\t\n\r", *range(32, 127)])
    try:
        known = plain.decode(encoding, errors="genrec-windows") == plain.decode("ascii")
    except (LookupError, UnicodeError, ValueError):
        known = False
    if not known:
        wide = encoding.lower().replace("_", "-").startswith(("utf-16", "utf-32", "utf16", "utf32"))
        fix = "for example utf-8, cp1252 or latin-1"
        raise ConfigError(
            f"encoding must be one that holds ASCII as it is, got {encoding!r}; "
            f"{'leave it out, files tell it by their first bytes' if wide else fix}"
        )


def fits(data: bytes, encoding: str) -> bool:
    """Tell whether bytes are text in an encoding."""
    try:
        data.decode(encoding)
    except UnicodeDecodeError:
        return False
    return True


def _as_windows(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeDecodeError)
    wrong = error.object[error.start : error.end]
    # Five bytes mean nothing in Windows-1252; Latin-1 knows all.
    return wrong.decode("cp1252" if fits(wrong, "cp1252") else "latin-1"), error.end


codecs.register_error("genrec-windows", _as_windows)


def line_chunks(
    path: Path, *, rejected: RejectedRows | None = None, chunk_bytes: int = _CHUNK_BYTES
) -> Iterator[LineChunk]:
    """Read a file in blocks of whole lines; the next block is read while one is worked on.

    Args:
        path: Plain or gzip.
        rejected: Takes note of lines longer than 64 MiB, which are left out: a gzip of some MB can
            hold one of some GiB.
        chunk_bytes: About how much of the unpacked content is in a block.

    Yields:
        The blocks, in the order of the file.

    Raises:
        MissingPathError: If there is no such file.
        DataError: If the file cannot be unpacked.
    """
    chunks = _split(path, chunk_bytes, rejected)
    # One thread: unpacking releases the interpreter, so it runs beside the parsing of a block.
    with ThreadPoolExecutor(1, thread_name_prefix=f"read {path.name}") as pool:
        ahead = pool.submit(next, chunks, None)
        while (chunk := ahead.result()) is not None:
            ahead = pool.submit(next, chunks, None)
            yield chunk


def read_lines(path: Path) -> list[str]:
    """Read the lines of a small file, blanks around them cut; a blank line is an empty text."""
    text = "".join(decoded(chunk.data) for chunk in line_chunks(path))
    return [line.strip() for line in text.split("\n")]


def _split(path: Path, chunk_bytes: int, rejected: RejectedRows | None) -> Iterator[LineChunk]:
    """Cut a file behind the last line end of each block; what follows it opens the next."""
    parts: list[bytes] = []  # of the line that no block has ended yet
    number, begun, skipping = 1, False, False
    with open_binary(path) as stream:
        while block := stream.read(chunk_bytes):
            if not begun:
                block, begun = block.removeprefix(_UTF8_MARK), True
            if skipping:
                _, end, block = block.partition(b"\n")
                if not end:
                    continue
                number, skipping = number + 1, False
            cut = block.rfind(b"\n") + 1
            if cut:
                chunk = LineChunk(b"".join([*parts, block[:cut]]), number)
                number += chunk.num_lines
                parts = []
                yield chunk
            if len(block) > cut:
                parts.append(block[cut:])
            if sum(map(len, parts)) > _LONGEST_LINE_BYTES:
                parts, skipping = [], True
                if rejected is not None:
                    rejected.add(path.name, _TOO_LONG, line=number)
    if parts:
        yield LineChunk(b"".join(parts), number)
