"""Read columns of CSV, TSV and other separated files of any size, flaws counted by line."""

from __future__ import annotations

import csv
from collections.abc import Sequence
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
from genrec.data.files.line_chunks import (
    LineChunk,
    check_encoding,
    count_lines,
    decoded,
    first_line,
    fits,
    line_chunks,
)
from genrec.data.files.rejected import RejectedRows
from genrec.data.files.times import TimeReader
from genrec.errors import ConfigError, DataError

__all__ = ["Dialect", "read_delimited", "read_header", "sample_values"]

#: A quoted field that runs over more lines than this is taken for a stray quote.
_LONGEST_RECORD_LINES = 200
_SAMPLE_LINES = 1_000
_SAMPLE_BYTES = 1 << 18
_MARK = "\x1e"
_UNIT = "\x1f"  # in place of a separator of several signs; stands in no text
_NO_SEPARATORS = {"\r", "\n", "\0", _MARK, *map(chr, range(0xD800, 0xE000))}


@dataclass(frozen=True)
class Dialect:
    """How a file separates its values.

    Attributes:
        separator: Between values; may have several characters, but no line end and, with
            ``quoted``, no double quote.
        names: Names of the columns, for files without a header; None reads the first line.
        quoted: Whether values may stand in double quotes.
        encoding: Encoding of the text.

    Raises:
        ConfigError: If separator or encoding are none.
    """

    separator: str = ","
    names: tuple[str, ...] | None = None
    quoted: bool = True
    encoding: str = "utf-8"

    def __post_init__(self) -> None:
        signs = set(self.separator)
        if not signs or signs & _NO_SEPARATORS or (self.quoted and '"' in signs):
            raise ConfigError(
                f"separator must be one sign or some, no quote and no line end, got "
                f"{self.separator!r}; for example ';'"
            )
        check_encoding(self.encoding)


def read_header(path: Path, dialect: Dialect) -> list[str]:
    """Name the columns of a file; an empty one is a DataError."""
    if dialect.names is not None:
        return list(dialect.names)
    line = first_line(path)
    if not line.strip():
        raise DataError(f"table must have a header line, got an empty file {path}; check the file")
    return [name.strip() for name in _split(line, dialect)]


def sample_values(path: Path, source: str, dialect: Dialect) -> list[str]:
    """Read the first values of a column, up to 1,000, as text."""
    position = read_header(path, dialect).index(source)
    chunk = next(line_chunks(path, chunk_bytes=_SAMPLE_BYTES), None)
    if chunk is not None and dialect.names is None:
        chunk = _without_header(chunk)
    values = []
    for line in chunk.data.split(b"\n")[:_SAMPLE_LINES] if chunk else ():
        fields = _split(line, dialect)
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
    return _Table(path, columns, names, positions, dialect, time).read(rejected)


@dataclass(frozen=True)
class _Table:
    """A file, and what is read of it: columns by their positions among the names."""

    path: Path
    columns: Sequence[Column]
    names: Sequence[str]
    positions: Sequence[int]
    dialect: Dialect
    time: TimeReader | None

    def read(self, rejected: RejectedRows) -> pl.DataFrame:
        """Read it whole, else in blocks, else line by line: the fastest way that loses nothing."""
        if (whole := self._whole()) is not None:
            return whole
        frames = [pl.DataFrame(schema=final_schema(self.columns))]
        carried: LineChunk | None = None  # an unfinished quoted value of the block before
        chunks = line_chunks(self.path, rejected=rejected)
        following = next(chunks, None)
        if following is not None and self.dialect.names is None:
            following = _without_header(following)
        while (chunk := following) is not None:
            following = next(chunks, None)
            chunk = self._in_utf8(chunk, rejected)
            if carried is not None:
                chunk = LineChunk(carried.data + chunk.data, carried.first_line)
            frame, carried = self._block(chunk), None
            if frame is None:
                frame, carried = self._lines(chunk, rejected, is_last=following is None)
            frames.append(frame)
        return pl.concat(frames)

    def _whole(self) -> pl.DataFrame | None:
        """Parse the file, streaming; None where a line is flawed or that cannot be told."""
        if len(self.dialect.separator.encode()) > 1 or self.dialect.encoding != "utf-8":
            return None
        # Only with the number of lines is it sure that no stray quote has swallowed some.
        num_rows = count_lines(self.path)
        if num_rows is None:
            return None
        header_lines = 0 if self.dialect.names is not None else 1
        try:
            lazy = pl.scan_csv(
                self.path,
                has_header=False,
                skip_rows=header_lines,
                separator=self.dialect.separator,
                schema=self._schema(),
                quote_char='"' if self.dialect.quoted else None,
            )
            frame = self._finish(lazy).collect(engine="streaming")
        except pl.exceptions.PolarsError:
            return None
        return (
            frame if parsed_whole(frame, self.columns, self.time, num_rows - header_lines) else None
        )

    def _block(self, chunk: LineChunk) -> pl.DataFrame | None:
        """Parse a block in one go; None where that fails or gives less than the lines hold."""
        data, separator = chunk.data, self.dialect.separator
        if not data:
            return pl.DataFrame(schema=final_schema(self.columns))
        if len(separator.encode()) > 1:  # polars takes one byte
            if _UNIT.encode() in data:
                return None
            data, separator = data.replace(separator.encode(), _UNIT.encode()), _UNIT
        try:
            parsed = pl.read_csv(
                data,
                has_header=False,
                separator=separator,
                schema=self._schema(),
                columns=sorted(self.positions),
                quote_char='"' if self.dialect.quoted else None,
            )
            frame = self._finish(parsed.lazy()).collect()
        except pl.exceptions.PolarsError:
            return None
        return frame if parsed_whole(frame, self.columns, self.time, chunk.num_lines) else None

    def _in_utf8(self, chunk: LineChunk, rejected: RejectedRows) -> LineChunk:
        """Bring a block into UTF-8, noting the lines that are not of the file's encoding."""
        encoding = self.dialect.encoding
        try:
            return LineChunk(chunk.data.decode(encoding).encode(), chunk.first_line)
        except UnicodeDecodeError:
            lines = chunk.data.split(b"\n")
        for number, line in enumerate(lines, start=chunk.first_line):
            if not fits(line, encoding):
                rejected.repaired(
                    self.path.name, f"not {encoding}, read as Windows-1252", line=number
                )
        return LineChunk(decoded(chunk.data, encoding).encode(), chunk.first_line)

    def _schema(self) -> dict[str, pl.DataType]:
        """Type every column by its place, since names that are not read may repeat."""
        types = schema_of(self.columns, self.time)
        return {f"column_{p}": types.get(n, pl.String()) for p, n in enumerate(self.names)}

    def _finish(self, frame: pl.LazyFrame) -> pl.LazyFrame:
        places = {f"column_{place}": self.names[place] for place in self.positions}
        return finish(frame.select(list(places)).rename(places), self.columns, self.time)

    def _lines(
        self, chunk: LineChunk, rejected: RejectedRows, *, is_last: bool
    ) -> tuple[pl.DataFrame, LineChunk | None]:
        """Read a block line by line; give its whole rows, and what belongs to the next block."""
        file, lines = self.path.name, chunk.data.split(b"\n")
        if not lines[-1]:
            lines.pop()
        rows: list[list[str | None]] = []
        numbers: list[int] = []
        carried = None
        index = 0
        while index < len(lines):
            number = chunk.first_line + index
            text = lines[index].rstrip(b"\r").decode()
            fields, used = self._record(text, lines, index)
            if used < 0 and not is_last:  # runs on into the next block
                carried = LineChunk(b"\n".join(lines[index:]) + b"\n", number)
                break
            index += max(used, 1)
            if used <= 0:
                rejected.add(file, "a quote or carriage return out of place", line=number)
            elif len(fields) > len(self.names):
                rejected.add(file, f"more than {len(self.names)} fields", line=number)
            elif len(fields) > 1 or fields[0].strip():  # else a blank line
                rows.append([fields[p] if p < len(fields) else None for p in self.positions])
                numbers.append(number)
        raw = pl.DataFrame(rows, {c.source: pl.String() for c in self.columns}, orient="row")
        places = np.array(numbers, dtype=np.int64)
        frame = accept(raw, self.columns, self.time, lines=places, file=file, rejected=rejected)
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
            text += "\n" + lines[following].rstrip(b"\r").decode()
            if b'"' not in lines[following]:
                continue
            fields, is_open = _fields(text, self.dialect)
            if not is_open:
                # Two stray quotes close each other too; then the number of fields is wrong.
                used = following + 1 - index
                return (fields, used) if len(fields) == len(self.names) else ([], 0)
        return [], -1 if end == len(lines) and end - index < _LONGEST_RECORD_LINES else 0


def _fields(text: str, dialect: Dialect) -> tuple[list[str], bool]:
    """Split a record into fields, none where that fails; tell whether a quote stays open."""
    if not dialect.quoted or '"' not in text:
        return text.split(dialect.separator), False
    separator = dialect.separator
    if len(separator) > 1:  # csv takes one sign
        text, separator = text.replace(_UNIT, " ").replace(separator, _UNIT), _UNIT
    # An open quote swallows the mark behind the last field.
    marked = f"{text}{separator}{_MARK}"
    try:
        fields = next(csv.reader([marked], delimiter=separator))
    except csv.Error:
        return [], False
    if fields[-1] != _MARK:
        return fields, True
    return fields[:-1], False


def _split(line: bytes, dialect: Dialect) -> list[str]:
    """Split a line on its own into fields."""
    return _fields(decoded(line.rstrip(b"\r"), dialect.encoding), dialect)[0]


def _without_header(chunk: LineChunk) -> LineChunk:
    """Cut off the header and blank lines before it."""
    data, number = chunk.data, chunk.first_line
    while data:
        line, _, data = data.partition(b"\n")
        number += 1
        if line.strip():
            break
    return LineChunk(data, number)
