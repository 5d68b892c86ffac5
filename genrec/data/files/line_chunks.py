"""Read text files in blocks of whole lines, unpacking and reading ahead in a thread."""

from __future__ import annotations

import codecs
import gzip
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

from genrec.errors import DataError, MissingPathError

__all__ = [
    "LineChunk",
    "count_lines",
    "decoded",
    "first_line",
    "fits",
    "line_chunks",
    "open_binary",
]

_CHUNK_BYTES = 16 << 20
_COUNT_BYTES = 1 << 20
_LONGEST_LINE_BYTES = 256 << 20
_UTF8_MARK = b"\xef\xbb\xbf"


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
        A binary stream of the unpacked content.

    Raises:
        MissingPathError: If there is no such file.
        DataError: If the file is UTF-16, or the gzip ends too early or is damaged, now or
            while it is read.
    """
    if not path.is_file():
        raise MissingPathError(f"file must exist, got {path}; check the folder")
    with path.open("rb") as raw:
        start = raw.read(2)
    if start in (b"\xff\xfe", b"\xfe\xff"):
        raise DataError(f"file must be UTF-8, got UTF-16 in {path}; save it as UTF-8")
    packed = start == b"\x1f\x8b"
    try:
        with gzip.open(path, "rb") if packed else path.open("rb") as stream:
            yield cast(BinaryIO, stream)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(
            f"gzip file must be complete, got {path} ({error}); delete it and fetch it again"
        ) from None


def first_line(path: Path) -> bytes:
    """Read the first line that is not blank, without its end and a UTF-8 mark; empty if none."""
    with open_binary(path) as stream:
        for line in stream:
            plain = line.removeprefix(_UTF8_MARK).strip(b"\r\n")
            if plain.strip():
                return plain
    return b""


def count_lines(path: Path) -> int | None:
    """Count the lines of a plain file, a last one without an end counted.

    None for gzip, where counting costs as much as reading, and for a file that does not begin
    with a line that holds something.
    """
    lines, last = 0, b""
    with path.open("rb") as stream:
        start = stream.read(2)
        if start == b"\x1f\x8b" or start[:1] in b"\r\n":
            return None
        stream.seek(0)
        while block := stream.read(_COUNT_BYTES):
            lines += block.count(b"\n")
            last = block[-1:]
    return lines + (last not in (b"", b"\n"))


def decoded(data: bytes, encoding: str = "utf-8") -> str:
    """Decode text; bytes that are none in its encoding are taken for Windows-1252, as of Excel."""
    return data.decode(encoding, errors="genrec-windows")


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


def line_chunks(path: Path, *, chunk_bytes: int = _CHUNK_BYTES) -> Iterator[LineChunk]:
    """Read a file in blocks of whole lines; the next block is read while one is worked on.

    Args:
        path: Plain or gzip.
        chunk_bytes: About how much of the unpacked content is in a block.

    Yields:
        The blocks, in the order of the file.

    Raises:
        MissingPathError: If there is no such file.
        DataError: If the file cannot be unpacked, or a line is longer than 256 MiB.
    """
    chunks = _split(path, chunk_bytes)
    # One thread: unpacking releases the interpreter, so it runs beside the parsing of a block.
    with ThreadPoolExecutor(1, thread_name_prefix=f"read {path.name}") as pool:
        ahead = pool.submit(next, chunks, None)
        while (chunk := ahead.result()) is not None:
            ahead = pool.submit(next, chunks, None)
            yield chunk


def _split(path: Path, chunk_bytes: int) -> Iterator[LineChunk]:
    """Cut a file behind the last line end of each block; what follows it opens the next."""
    rest, number = b"", 1
    with open_binary(path) as stream:
        while block := stream.read(chunk_bytes):
            if number == 1 and not rest:
                block = block.removeprefix(_UTF8_MARK)
            cut = block.rfind(b"\n") + 1
            if not cut:
                rest += block
                if len(rest) > _LONGEST_LINE_BYTES:
                    raise DataError(
                        f"lines must be shorter than {_LONGEST_LINE_BYTES >> 20} MiB, got a longer "
                        f"line {number} in {path}; is this a text file?"
                    )
                continue
            chunk = LineChunk(rest + block[:cut], number)
            number += chunk.num_lines
            rest = block[cut:]
            yield chunk
    if rest:
        yield LineChunk(rest, number)
