"""Read columns of CSV, TSV and other separated files of any size, flaws counted by line."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from genrec.data.files.columns import (
    Column,
    accept,
    final_schema,
    find_columns,
    finish,
    parsed_whole,
    schema_of,
)
from genrec.data.files.line_chunks import LineChunk, count_lines, first_line, line_chunks
from genrec.data.files.rejected import RejectedRows
from genrec.data.files.times import TimeReader
from genrec.errors import DataError

__all__ = ["Dialect", "read_delimited", "read_header", "sample_values"]

#: A quoted field that runs over more lines than this is taken for a stray quote.
_LONGEST_RECORD_LINES = 200
_SAMPLE_LINES = 1_000
_SAMPLE_BYTES = 1 << 18
_MARK = "\x1e"


@dataclass(frozen=True)
class Dialect:
    """How a file separates its values.

    Attributes:
        separator: Between values; may have several characters.
        names: Names of the columns, for files without a header; None reads the first line.
        quoted: Whether values may stand in double quotes.
        encoding: Encoding of the text.
    """

    separator: str = ","
    names: tuple[str, ...] | None = None
    quoted: bool = True
    encoding: str = "utf-8"


def read_header(path: Path, dialect: Dialect) -> list[str]:
    """Name the columns of a file.

    Args:
        path: The file.
        dialect: How it separates its values.

    Returns:
        The names.

    Raises:
        DataError: If the file is empty.
    """
    if dialect.names is not None:
        return list(dialect.names)
    line = first_line(path)
    if not line.strip():
        raise DataError(f"table must have a header line, got an empty file {path}; check the file")
    return [name.strip() for name in _fields(_decode(line, dialect)[0], dialect)[0]]


def sample_values(path: Path, source: str, dialect: Dialect) -> list[str]:
    """Read the first values of a column, as text.

    Args:
        path: The file.
        source: Name of the column.
        dialect: How the file separates its values.

    Returns:
        Up to 1,000 values.
    """
    position = read_header(path, dialect).index(source)
    chunk = next(line_chunks(path, chunk_bytes=_SAMPLE_BYTES), None)
    if chunk is not None and dialect.names is None:
        chunk = _without_header(chunk)
    values = []
    for line in chunk.data.split(b"\n")[:_SAMPLE_LINES] if chunk else ():
        fields, _ = _fields(_decode(line.rstrip(b"\r"), dialect)[0], dialect)
        if position < len(fields):
            values.append(fields[position])
    return values


def read_delimited(
    path: Path,
    columns: Sequence[Column],
    *,
    rejected: RejectedRows,
    dialect: Dialect | None = None,
    time: TimeReader | None = None,
) -> pl.DataFrame:
    """Read columns.

    Args:
        path: Plain or gzip.
        columns: What to read.
        rejected: Takes note of the rows that are left out.
        dialect: How the file separates its values; None for CSV.
        time: How to read the time column, where there is one.

    Returns:
        One row a line that is whole, in the order of the file.

    Raises:
        DataError: If a column is missing or the file is empty.
    """
    dialect = dialect or Dialect()
    names = read_header(path, dialect)
    positions = find_columns(columns, names, path)
    if (whole := _scan(path, columns, names, dialect, time)) is not None:
        return whole
    parser = _LineParser(path, columns, positions, len(names), dialect, time, rejected)
    with_header = dialect.names is None
    frames = [pl.DataFrame(schema=final_schema(columns))]
    carried: LineChunk | None = None  # an unfinished quoted value of the block before
    for chunk, is_last in _mark_last(line_chunks(path)):
        if with_header:
            chunk, with_header = _without_header(chunk), False
        if carried is not None:
            chunk = LineChunk(carried.data + chunk.data, carried.first_line)
        frame = _parse_fast(chunk, columns, names, dialect, time)
        carried = None
        if frame is None:
            frame, carried = parser.parse(chunk, is_last=is_last)
        frames.append(frame)
    return pl.concat(frames)


def _scan(
    path: Path,
    columns: Sequence[Column],
    names: Sequence[str],
    dialect: Dialect,
    time: TimeReader | None,
) -> pl.DataFrame | None:
    """Parse a whole file, streaming; None where a line is flawed or that cannot be told."""
    if len(dialect.separator) > 1 or dialect.encoding != "utf-8":
        return None
    # Only with the number of lines is it sure that no stray quote has swallowed some.
    num_rows = count_lines(path)
    if num_rows is None:
        return None
    places, schema, wanted = _layout(columns, names, time)
    header_lines = 0 if dialect.names is not None else 1
    try:
        lazy = pl.scan_csv(
            path,
            has_header=False,
            skip_rows=header_lines,
            separator=dialect.separator,
            schema=schema,
            quote_char='"' if dialect.quoted else None,
        )
        lazy = lazy.select(wanted).rename(places, strict=False)
        frame = finish(lazy, columns, time).collect(engine="streaming")
    except pl.exceptions.PolarsError:
        return None
    return frame if parsed_whole(frame, columns, num_rows - header_lines) else None


def _layout(
    columns: Sequence[Column], names: Sequence[str], time: TimeReader | None
) -> tuple[dict[str, str], dict[str, pl.DataType], list[str]]:
    """Give each column its place: name by place, type by place, places that are wanted.

    Names of a file may repeat; only those of the columns that are read must not.
    """
    places = {f"column_{place}": name for place, name in enumerate(names)}
    types = schema_of(columns, time)
    schema = {place: types.get(name, pl.String()) for place, name in places.items()}
    wanted = [place for place, name in places.items() if name in types]
    return {place: places[place] for place in wanted}, schema, wanted


def _parse_fast(
    chunk: LineChunk,
    columns: Sequence[Column],
    names: Sequence[str],
    dialect: Dialect,
    time: TimeReader | None,
) -> pl.DataFrame | None:
    """Parse a block in one go; None where that fails or gives less than the lines hold."""
    data, separator = chunk.data, dialect.separator
    if not data:
        return pl.DataFrame(schema=final_schema(columns))
    if dialect.encoding != "utf-8":
        try:
            data = data.decode(dialect.encoding).encode()
        except UnicodeDecodeError:
            return None
    if len(separator) > 1:
        if b"\x1f" in data:
            return None
        data, separator = data.replace(separator.encode(), b"\x1f"), "\x1f"
    places, schema, wanted = _layout(columns, names, time)
    try:
        parsed = pl.read_csv(
            data,
            has_header=False,
            separator=separator,
            schema=schema,
            columns=wanted,
            quote_char='"' if dialect.quoted else None,
        )
    except pl.exceptions.PolarsError:
        return None
    frame = finish(parsed.lazy().rename(places), columns, time).collect()
    return frame if parsed_whole(frame, columns, chunk.num_lines) else None


@dataclass(frozen=True)
class _LineParser:
    """Reads the blocks that polars could not, line by line."""

    path: Path
    columns: Sequence[Column]
    positions: Sequence[int]
    num_fields: int
    dialect: Dialect
    time: TimeReader | None
    rejected: RejectedRows

    def parse(self, chunk: LineChunk, *, is_last: bool) -> tuple[pl.DataFrame, LineChunk | None]:
        """Read a block; give its whole rows, and what belongs to the block after it."""
        file = self.path.name
        lines = chunk.data.split(b"\n")
        if not lines[-1]:
            lines.pop()
        rows: list[list[str | None]] = []
        numbers: list[int] = []
        carried = None
        index = 0
        while index < len(lines):
            number = chunk.first_line + index
            text, repaired = _decode(lines[index], self.dialect)
            fields, used = self._record(text, lines, index)
            if used < 0 and not is_last:  # runs on into the next block
                carried = LineChunk(b"\n".join(lines[index:]) + b"\n", number)
                break
            index += max(used, 1)
            if repaired:
                self.rejected.repaired(file, "not UTF-8, read as Latin-1", line=number)
            if used <= 0:
                self.rejected.add(file, "a quote or carriage return out of place", line=number)
            elif len(fields) > self.num_fields:
                self.rejected.add(file, f"more than {self.num_fields} fields", line=number)
            elif len(fields) > 1 or fields[0].strip():  # else a blank line
                rows.append([fields[p] if p < len(fields) else None for p in self.positions])
                numbers.append(number)
        raw = pl.DataFrame(
            rows, dict.fromkeys(schema_of(self.columns, None), pl.String), orient="row"
        )
        frame = accept(
            raw,
            self.columns,
            self.time,
            lines=np.array(numbers, dtype=np.int64),
            file=file,
            rejected=self.rejected,
        )
        return frame, carried

    def _record(self, text: str, lines: list[bytes], index: int) -> tuple[list[str], int]:
        """Split a record into fields and say how many lines it takes.

        Zero where no fields can be made of it, -1 where the block ends before it can be told.
        """
        fields, is_open = _fields(text, self.dialect)
        if not is_open:
            return fields, 1 if fields else 0
        end = min(len(lines), index + _LONGEST_RECORD_LINES)
        for following in range(index + 1, end):
            text += "\n" + _decode(lines[following], self.dialect)[0]
            if b'"' not in lines[following]:
                continue
            fields, is_open = _fields(text, self.dialect)
            if not is_open:
                # Two stray quotes close each other too; then the number of fields is wrong.
                used = following + 1 - index
                return (fields, used) if len(fields) == self.num_fields else ([], 0)
        return [], -1 if end == len(lines) and end - index < _LONGEST_RECORD_LINES else 0


def _fields(text: str, dialect: Dialect) -> tuple[list[str], bool]:
    """Split a record into fields, none where that fails; tell whether a quote stays open."""
    if not dialect.quoted or '"' not in text:
        return text.split(dialect.separator), False
    # An open quote swallows the mark behind the last field.
    marked = f"{text}{dialect.separator}{_MARK}"
    try:
        fields = next(csv.reader([marked], delimiter=dialect.separator))
    except csv.Error:
        return [], False
    if fields[-1] != _MARK:
        return fields, True
    return fields[:-1], False


def _decode(line: bytes, dialect: Dialect) -> tuple[str, bool]:
    """Decode a line; tell whether it had to be read in another encoding."""
    try:
        return line.rstrip(b"\r").decode(dialect.encoding), False
    except UnicodeDecodeError:
        return line.rstrip(b"\r").decode("latin-1"), True


def _without_header(chunk: LineChunk) -> LineChunk:
    """Cut off the header and blank lines before it."""
    data, number = chunk.data, chunk.first_line
    while data:
        line, _, data = data.partition(b"\n")
        number += 1
        if line.strip():
            break
    return LineChunk(data, number)


def _mark_last(chunks: Iterator[LineChunk]) -> Iterator[tuple[LineChunk, bool]]:
    """Say of each block whether it is the last."""
    before = next(chunks, None)
    for chunk in chunks:
        assert before is not None
        yield before, False
        before = chunk
    if before is not None:
        yield before, True
