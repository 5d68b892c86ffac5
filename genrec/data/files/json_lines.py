"""Read files with one object a line: JSON, or the Python literals of the older Amazon releases."""

from __future__ import annotations

import ast
import itertools
import json
import re
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from genrec.data.files.columns import (
    Column,
    accept,
    final_schema,
    finish,
    parsed_whole,
    schema_of,
)
from genrec.data.files.line_chunks import (
    LineChunk,
    decoded,
    line_chunks,
    numbered_lines,
    swells,
)
from genrec.data.files.rejected import RejectedRows
from genrec.data.files.times import TimeReader

__all__ = ["parse_object", "plain_key", "read_json_columns", "read_objects", "sample_objects"]

_HOLDERS = (dict, list, tuple, set)
_DEEPEST = 64  # lists and objects in each other; what walks through them would run out of stack

#: Half a letter, as a text that was cut in the middle of one leaves it; no UTF-8 can hold it.
_HALF = re.compile(r"\\u(?:0000)?d[89a-f]", re.IGNORECASE)

#: What polars makes of a list, an object, a flag, a fraction, or a float of too many digits.
_ODD_KEY = r"^(?:[\[{]|true$|false$|-0$|-?[0-9]+\.[0-9]+$|-?[0-9]{20,}$)"


def parse_object(line: bytes) -> dict[str, Any]:
    """Read a line as JSON or, failing that, a Python literal; else a ValueError with the reason."""
    text = decoded(line)
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        try:
            # Only literals: whatever the line holds, nothing of it is run.
            value = ast.literal_eval(text.strip())
            repr(value)  # an integer may have too many digits to be shown
        except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
            raise ValueError("neither JSON nor a Python literal") from None
    if not isinstance(value, dict):
        raise ValueError("not an object")
    if sum(map(text.count, "[{(")) > _DEEPEST and _is_deep(value):
        raise ValueError("nested too deeply")
    if _HALF.search(text):
        whole: dict[str, Any] = _whole_letters(value)
        return whole
    return value


def _is_deep(value: Any) -> bool:
    """Tell whether lists and objects lie in each other too often."""
    inner = [value]
    for _ in range(_DEEPEST):
        held = [v.values() if isinstance(v, dict) else v for v in inner if isinstance(v, _HOLDERS)]
        inner = list(itertools.chain.from_iterable(held))
    return any(isinstance(entry, _HOLDERS) for entry in inner)


def _whole_letters(value: Any) -> Any:
    """Put the sign for an unknown letter where half of one stands."""
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, dict):
        return {_whole_letters(name): _whole_letters(entry) for name, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_whole_letters(entry) for entry in value]
    return value


def plain_key(value: object) -> str | None:
    """Write a value that names something as text: a text or a whole number, blanks cut.

    None where it names nothing: a blank, a flag, a list, an object.
    """
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # what pandas makes of integers beside an empty cell
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        return None
    try:
        return str(value).strip() or None
    except ValueError:  # an integer of thousands of digits
        return None


def read_objects(
    path: Path,
    rejected: RejectedRows,
    *,
    key: str | None = None,
    wanted: Collection[str] | None = None,
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Read the objects of a file; lines that are none are counted and left out.

    Args:
        path: Plain or gzip.
        rejected: Takes note of the lines that are left out.
        key: A field whose value decides whether an object is wanted.
        wanted: Wanted values of that field; None wants every object. A line of another object
            is skipped without parsing it, since Python literals parse slowly.

    Yields:
        Line, from 1, and object, in the order of the file.
    """
    pattern = None
    if key is not None and wanted is not None:
        pattern = re.compile(rb"""["']%s["']\s*:\s*["']([^"'\\]*)["']""" % re.escape(key.encode()))
    for number, line in numbered_lines(path, rejected):
        if not line.strip():
            continue
        if pattern is not None and wanted is not None:
            match = pattern.search(line)
            if match and match[1].decode("utf-8", "replace").strip() not in wanted:
                continue
        try:
            record = parse_object(line)
        except ValueError as error:
            rejected.add(path.name, str(error), line=number)
            continue
        if key is not None and wanted is not None:
            name = plain_key(record.get(key))
            if name is None:
                rejected.add(path.name, f"no {key}", line=number)
                continue
            if name not in wanted:
                continue
            record[key] = name
        yield number, record


def sample_objects(path: Path, count: int = 1_000) -> list[dict[str, Any]]:
    """Read the first ``count`` objects of a file; lines that are none are left out."""
    found: list[dict[str, Any]] = []
    for _, line in numbered_lines(path):
        if len(found) >= count:
            break
        try:
            found.append(parse_object(line))
        except ValueError:
            continue
    return found


def read_json_columns(
    path: Path,
    columns: Sequence[Column],
    *,
    rejected: RejectedRows,
    time: TimeReader | None = None,
) -> pl.DataFrame:
    """Read fields of every object of a file of any size.

    Args:
        path: Plain or gzip.
        columns: What to read.
        rejected: Takes note of the lines that are left out.
        time: How to read the time column, where there is one.

    Returns:
        One row an object that is whole, in the order of the file.
    """
    # polars holds a line whole, however long it is.
    if not swells(path) and (whole := _scan(path, columns, time)) is not None:
        return whole
    frames = [pl.DataFrame(schema=final_schema(columns))]
    for chunk in line_chunks(path, rejected=rejected):
        frame = _parse_fast(chunk, columns, time)
        if frame is None:
            frame = _parse_slowly(chunk, columns, time, path.name, rejected)
        frames.append(frame)
    return pl.concat(frames)


def _scan(path: Path, columns: Sequence[Column], time: TimeReader | None) -> pl.DataFrame | None:
    """Parse a whole file, streaming; None where a line or the file itself is flawed."""
    try:
        lazy = pl.scan_ndjson(path, schema=schema_of(columns, time))
        frame = finish(lazy, columns, time).collect(engine="streaming")
    except (pl.exceptions.PolarsError, OSError):
        return None
    return frame if _parsed_well(frame, columns, time) else None


def _parse_fast(
    chunk: LineChunk, columns: Sequence[Column], time: TimeReader | None
) -> pl.DataFrame | None:
    """Parse a block in one go; None where that fails or gives less than the lines hold."""
    try:
        parsed = pl.read_ndjson(chunk.data, schema=schema_of(columns, time))
        frame = finish(parsed.lazy(), columns, time).collect()
    except pl.exceptions.PolarsError:
        return None
    return frame if _parsed_well(frame, columns, time) else None


def _parsed_well(frame: pl.DataFrame, columns: Sequence[Column], time: TimeReader | None) -> bool:
    """Tell whether nothing is missing, and no key may have been anything but text or integer."""
    keys = [pl.col(column.name) for column in columns if column.kind == "key"]
    # polars writes them as text; what really is such a text shows when read line by line.
    odd = [key.str.contains(_ODD_KEY).any() for key in keys]
    return (
        parsed_whole(frame, columns, time, None)
        and not frame.select(pl.any_horizontal(pl.lit(False), *odd)).item()
    )


def _parse_slowly(
    chunk: LineChunk,
    columns: Sequence[Column],
    time: TimeReader | None,
    file: str,
    rejected: RejectedRows,
) -> pl.DataFrame:
    """Parse a block line by line, noting what is wrong with which line."""
    rows: list[list[str | None]] = []
    numbers: list[int] = []
    for number, line in enumerate(chunk.data.split(b"\n"), start=chunk.first_line):
        if not line.strip():
            continue
        try:
            record = parse_object(line)
            rows.append([_as_text(record.get(column.source), column) for column in columns])
            numbers.append(number)
        except ValueError as reason:
            rejected.add(file, str(reason), line=number)
    raw = pl.DataFrame(rows, {column.source: pl.String() for column in columns}, orient="row")
    lines = np.array(numbers, dtype=np.int64)
    return accept(raw, columns, time, lines=lines, file=file, rejected=rejected)


def _as_text(value: object, column: Column) -> str | None:
    """Write a JSON value as a table would hold it; a key by the rule of :func:`plain_key`."""
    if value is None or isinstance(value, str):
        return value
    if column.kind != "key":
        return str(value)
    if (name := plain_key(value)) is None:
        raise ValueError(f"{column.source} is no key")
    return name
