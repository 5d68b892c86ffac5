"""One way to read a table, whatever it is stored as: Parquet, CSV, TSV or JSON lines."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import polars as pl

from genrec.data.files.columns import Column, accept, find_columns, has_decimal_comma, key_text
from genrec.data.files.delimited import Dialect, read_delimited, read_header, sample_values
from genrec.data.files.json_lines import (
    plain_key,
    read_json_columns,
    read_objects,
    sample_objects,
)
from genrec.data.files.line_chunks import first_bytes, first_line
from genrec.data.files.rejected import RejectedRows
from genrec.data.files.times import TimeReader, looks_like_times
from genrec.errors import DataError, MissingPathError

__all__ = ["TABLE_SUFFIXES", "TableFile", "parse_vector"]

_PARQUET = (".parquet", ".pq")
_JSON = (".jsonl", ".ndjson", ".json")
_DELIMITED = {".csv": ",", ".tsv": "\t", ".txt": "\t"}

#: Endings of files that can be read, each also with ``.gz`` behind it (Parquet aside).
TABLE_SUFFIXES = (*_PARQUET, ".csv", ".tsv", *_JSON, ".csv.gz", ".tsv.gz", ".jsonl.gz", ".json.gz")

_NO_VALUE = (pl.List, pl.Array, pl.Struct, pl.Binary, pl.Object, pl.Duration, pl.Time)
_NO_KEY = (*_NO_VALUE, pl.Boolean)
_WORDS = {"key": "key", "number_key": "key", "time": "time", "rating": "number"}
_SAMPLE_ROWS = 1_000
_NUMBER = re.compile(r"[+-]?[0-9]*[.,]?[0-9]+(?:[eE][+-]?[0-9]+)?|nan", re.IGNORECASE)


class TableFile:
    """A table on disk.

    Args:
        path: The file; its ending tells the format.
        separator: Between values of a separated file; None goes by ending and header.
        encoding: Encoding of a separated file.

    Attributes:
        names: Names of the columns.

    Raises:
        MissingPathError: If there is no such file.
        DataError: If the format is unknown, or the file is empty or damaged.
    """

    def __init__(
        self, path: Path, *, separator: str | None = None, encoding: str = "utf-8"
    ) -> None:
        self.path = path
        if not path.is_file():
            raise MissingPathError(f"table must exist, got {path}; check the path")
        suffixes = [suffix.lower() for suffix in path.suffixes]
        self._suffix = next((s for s in reversed(suffixes) if s != ".gz"), "")
        self._dialect = Dialect()
        if self._suffix in _PARQUET:
            self.names = list(self._parquet_schema())
        elif self._suffix in _JSON:
            if first_bytes(path).startswith(b"["):
                raise DataError(
                    f"table must hold one JSON object a line, got a list in {path}; write it as "
                    f"JSON lines, for example with `jq -c '.[]' {path} > {path.stem}-lines.jsonl`"
                )
            samples = sample_objects(path, _SAMPLE_ROWS)
            if not samples:
                raise DataError(
                    f"table must hold one JSON object a line, got none in {path}; "
                    "write it as JSON lines"
                )
            self.names = list(dict.fromkeys(name for record in samples for name in record))
        elif self._suffix in _DELIMITED:
            if separator is None:
                separator = _guess_separator(first_line(path), _DELIMITED[self._suffix])
            self._dialect = Dialect(separator, encoding=encoding)
            self.names = read_header(path, self._dialect)
        else:
            raise DataError(
                f"table must end in one of {', '.join(TABLE_SUFFIXES)}, got {path}; convert it"
            )

    def sample(self, source: str) -> list[str]:
        """Read the first values of a column, up to 1,000, as text, empty ones left out."""
        if self._suffix in _PARQUET:
            head = self._collect([source], rows=_SAMPLE_ROWS)
            values: Sequence[Any] = head[source].to_list()
        elif self._suffix in _JSON:
            values = [record.get(source) for record in sample_objects(self.path, _SAMPLE_ROWS)]
        else:
            values = sample_values(self.path, source, self._dialect)
        return [str(value) for value in values if value is not None and str(value).strip()]

    def holds_integers(self, source: str) -> bool | None:
        """Tell whether a column, or each list of it, holds whole numbers; None: a text cannot."""
        if self._suffix in _PARQUET:
            kind = self._parquet_schema()[source]
            return (kind.inner if isinstance(kind, (pl.List, pl.Array)) else kind).is_integer()
        if self._suffix not in _JSON:
            return None
        values = [record.get(source) for record in sample_objects(self.path, _SAMPLE_ROWS)]
        flat = [v for value in values for v in (value if isinstance(value, list) else [value])]
        return all(isinstance(v, int) and not isinstance(v, bool) for v in flat if v is not None)

    def scan_lists(self, source: str, keys: Sequence[str]) -> pl.LazyFrame | None:
        """Open a column of lists of keys and some of keys, as text; None where it has no lists."""
        if self._suffix in _PARQUET:
            schema = self._parquet_schema()
            kind = schema[source]
            if not isinstance(kind, (pl.List, pl.Array)):
                return None
            for name in keys:
                self._check_kind(name, schema[name], "key", _NO_KEY)
            inner = cast(pl.DataType, kind.inner)
            lazy = pl.scan_parquet(self.path).select(source, *keys)
            lists = pl.col(source).cast(pl.List(inner))
            return lazy.with_columns(
                lists.list.eval(key_text(pl.element(), inner)),
                *(key_text(pl.col(k), schema[k]) for k in keys),
            )
        if self._suffix not in _JSON:
            return None
        values = [record.get(source) for record in sample_objects(self.path, _SAMPLE_ROWS)]
        if any(isinstance(value, str) for value in values):
            return None
        types = {source: pl.List(pl.String), **dict.fromkeys(keys, pl.String())}
        return pl.scan_ndjson(self.path, schema=types)

    def read(
        self, columns: Sequence[Column], *, rejected: RejectedRows, time: TimeReader | None = None
    ) -> pl.DataFrame:
        """Read columns of plain values: one row a row that is whole, in the order of the file.

        Rows that are left out are noted in ``rejected``; ``time`` says how to read a time column.
        """
        if self._suffix in _PARQUET:
            return self._read_parquet(columns, rejected, time)
        if self._suffix in _JSON:
            return read_json_columns(self.path, columns, rejected=rejected, time=time)
        return read_delimited(
            self.path, columns, rejected=rejected, dialect=self._dialect, time=time
        )

    def time_reader(
        self, source: str, *, time_format: str | None, ticks_per_s: int | None
    ) -> TimeReader:
        """Find out how to read a time column, where format and ticks per second leave it open."""
        if self._suffix in _PARQUET and self._parquet_schema()[source].is_temporal():
            return TimeReader.of_column(self._parquet_schema()[source])
        reader = TimeReader.guess(
            self.sample(source),
            time_format=time_format,
            where=f"{source!r} of {self.path}",
            counted=ticks_per_s is not None,
        )
        return reader if ticks_per_s is None else reader.of_unit(ticks_per_s)

    def number(self, name: str, source: str) -> Column:
        """Describe a column of numbers that may be missing, a decimal comma found by its values."""
        comma = has_decimal_comma(self.sample(source))
        return Column(name, source, "rating", required=False, decimal_comma=comma)

    def is_number(self, source: str) -> bool:
        """Tell whether most values of a column are numbers, with a decimal comma or without."""
        values = self.sample(source)
        numbers = sum(bool(_NUMBER.fullmatch(value.strip())) for value in values)
        return 2 * numbers > len(values) or not values

    def is_moment(self, source: str, *, counted: bool = True) -> bool:
        """Tell whether a column holds dates or times, by its type or as they are written.

        ``counted``: or is of numbers that may be seconds of these years.
        """
        if self._suffix in _PARQUET and self._parquet_schema()[source].is_temporal():
            return True
        return looks_like_times(self.sample(source), counted=counted)

    def records(
        self, names: Sequence[str], rejected: RejectedRows
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        """Read rows one by one, nested values included; for items, which are few.

        Args:
            names: Columns to read; the first is the key, and rows without it are left out.
            rejected: Takes note of the rows that are left out.

        Yields:
            Line (for Parquet: row) and values.
        """
        for number, row in self._numbered(names, rejected):
            text = plain_key(row.get(names[0]))
            if text is None:
                rejected.add(self.path.name, f"no {names[0]}", line=number)
                continue
            yield number, {**row, names[0]: text}

    def _numbered(
        self, names: Sequence[str], rejected: RejectedRows
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        if self._suffix in _PARQUET:
            kind = self._parquet_schema()[names[0]]
            self._check_kind(names[0], kind, "key", _NO_KEY)
            frame = self._collect(names)
            if not (kind.is_integer() or kind.is_float()):  # dates and decimals name something too
                frame = frame.with_columns(pl.col(names[0]).cast(pl.String))
            return enumerate(frame.iter_rows(named=True), start=1)
        if self._suffix in _JSON:
            return read_objects(self.path, rejected)
        columns = [Column(name, name, "text", required=name == names[0]) for name in names]
        frame = self.read(columns, rejected=rejected)
        return enumerate(frame.iter_rows(named=True), start=2)  # after the header

    def _parquet_schema(self) -> dict[str, pl.DataType]:
        try:
            return dict(pl.scan_parquet(self.path).collect_schema())
        except (pl.exceptions.PolarsError, OSError) as error:
            raise self._damaged(error) from None

    def _collect(self, names: Sequence[str], rows: int | None = None) -> pl.DataFrame:
        """Read columns of a Parquet file, whose pages may be damaged where its schema is not."""
        table = pl.scan_parquet(self.path).select(list(names))
        try:
            return (table if rows is None else table.head(rows)).collect(engine="streaming")
        except (pl.exceptions.PolarsError, OSError) as error:
            raise self._damaged(error) from None

    def _check_kind(
        self, source: str, kind: pl.DataType, what: str, wrong: tuple[type[pl.DataType], ...]
    ) -> None:
        """Refuse a column of which no value can be read as what it shall be."""
        if isinstance(kind, wrong):
            raise DataError(
                f"column {source!r} must hold one {what} a row, got {kind} in {self.path}; "
                "name another column, or write it as text or numbers"
            )

    def _damaged(self, error: Exception) -> DataError:
        return DataError(
            f"Parquet file must be readable, got {self.path} ({str(error).splitlines()[0]}); "
            "write it again"
        )

    def _read_parquet(
        self, columns: Sequence[Column], rejected: RejectedRows, time: TimeReader | None
    ) -> pl.DataFrame:
        find_columns(columns, list(self._parquet_schema()), self.path)
        for column in columns:
            kind = self._parquet_schema()[column.source]
            wrong = _NO_KEY if column.kind == "key" else _NO_VALUE
            self._check_kind(column.source, kind, _WORDS.get(column.kind, "text"), wrong)
        raw = self._collect([column.source for column in columns])
        lines = np.arange(1, len(raw) + 1)
        return accept(raw, columns, time, lines=lines, file=self.path.name, rejected=rejected)


def _guess_separator(header: bytes, usual: str) -> str:
    """Take the usual separator unless the header holds another one and not this."""
    for separator in (usual, ",", "\t", ";", "|"):
        if separator.encode() in header:
            return separator
    return usual


def parse_vector(value: object) -> list[float]:
    """Read a vector from a list, or from text such as ``[1, 2]`` or ``1 2``; else a ValueError."""
    if isinstance(value, str):
        text = value.strip()
        value = json.loads(text) if text.startswith("[") else text.replace(",", " ").split()
    if not isinstance(value, (list, tuple)) or not value:
        raise ValueError("no vector")
    return [float(number) for number in value]
