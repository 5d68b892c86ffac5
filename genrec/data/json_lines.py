"""Read files with one object a line: JSON, or the Python literals of the older Amazon releases."""

from __future__ import annotations

import ast
import gzip
import json
import re
import zlib
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

from genrec.data.card import RejectedRows
from genrec.errors import DataError, MissingPathError

__all__ = ["open_binary", "parse_object", "read_objects"]


@contextmanager
def open_binary(path: Path) -> Iterator[BinaryIO]:
    """Open a file for reading, unpacking gzip by its first bytes rather than by its name.

    Args:
        path: The file.

    Yields:
        A binary stream of the unpacked content.

    Raises:
        MissingPathError: If there is no such file.
        DataError: If the gzip ends too early or is damaged, now or while it is read.
    """
    if not path.is_file():
        raise MissingPathError(f"file must exist, got {path}; check the folder")
    with path.open("rb") as raw:
        packed = raw.read(2) == b"\x1f\x8b"
    try:
        with gzip.open(path, "rb") if packed else path.open("rb") as stream:
            yield cast(BinaryIO, stream)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(
            f"gzip file must be complete, got {path} ({error}); delete it and fetch it again"
        ) from None


def parse_object(line: bytes) -> dict[str, Any]:
    """Read one line as JSON or, failing that, as a Python literal.

    Args:
        line: The line.

    Returns:
        The object.

    Raises:
        ValueError: If the line is neither; the message is the reason.
    """
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError:
        text = line.decode("latin-1")
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        try:
            # Only literals: whatever the line holds, nothing of it is run.
            value = ast.literal_eval(text.strip())
        except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
            raise ValueError("neither JSON nor a Python literal") from None
    if not isinstance(value, dict):
        raise ValueError("not an object")
    return value


def read_objects(
    path: Path,
    rejected: RejectedRows,
    *,
    key: str | None = None,
    wanted: Collection[str] | None = None,
) -> Iterator[dict[str, Any]]:
    """Read the objects of a file; lines that are none are counted and left out.

    Args:
        path: Plain or gzip.
        rejected: Takes note of the lines that are left out.
        key: A field whose value decides whether an object is wanted.
        wanted: Wanted values of that field; None wants every object. A line of another object
            is skipped without parsing it, since Python literals parse slowly.

    Yields:
        The objects, in the order of the file.
    """
    pattern = None
    if key is not None and wanted is not None:
        pattern = re.compile(rb"""["']%s["']\s*:\s*["']([^"'\\]*)["']""" % re.escape(key.encode()))
    with open_binary(path) as stream:
        for number, line in enumerate(stream, start=1):
            if not line.strip():
                continue
            if pattern is not None and wanted is not None:
                match = pattern.search(line)
                if match and match[1].decode("utf-8", "replace") not in wanted:
                    continue
            try:
                record = parse_object(line)
            except ValueError as error:
                rejected.add(path.name, str(error), line=number)
                continue
            if key is not None and wanted is not None and record.get(key) not in wanted:
                continue
            yield record
