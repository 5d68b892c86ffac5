"""Tables that a call for many users is told: histories, and items to allow or to leave out.

They are read as ``genrec prepare`` reads tables: by ending, header and first values.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from genrec.data.files.columns import Column
from genrec.data.files.line_chunks import read_lines
from genrec.data.files.rejected import RejectedRows
from genrec.data.files.table_files import TABLE_SUFFIXES, TableFile
from genrec.data.readers.table_columns import usual_column
from genrec.errors import ConfigError, DataError, MissingPathError
from genrec.serving.recommender import Recommender

__all__ = ["ItemLists", "UserSource", "type_of_keys"]

_USER = ("user_id", "user_key", "user")
_ITEM = ("item_id", "item_key", "item")
_HISTORY = ("history", "items")
_TIME = ("time", "timestamp")


@dataclass(frozen=True)
class UserSource:
    """Users in chunks: frames with ``user`` and perhaps ``history``, a list of keys.

    Attributes:
        count: How many.
        chunk: From the first of some users and their number to their frame.
        user_type: Of the users' ids in the result.
        item_type: Of the items in the result, where all keys of the catalogue are of it.
    """

    count: int
    chunk: Callable[[int, int], pl.DataFrame]
    user_type: pl.DataType
    item_type: pl.DataType

    @classmethod
    def of(cls, recommender: Recommender) -> UserSource:
        """Take all users of the data set."""
        keys = recommender.data.user_keys
        return cls(
            len(keys),
            lambda start, size: pl.DataFrame({"user": keys[start : start + size]}),
            type_of_keys(pl.LazyFrame({"user": list(keys)}, schema={"user": pl.String})),
            pl.Int64(),
        )

    @classmethod
    def read(cls, path: Path, option: str = "--input", *, whole: bool = False) -> UserSource:
        """Read a file of histories; ``whole`` tells whether the catalogue's keys are numbers."""
        table = _open(path, option)
        history = _named(_HISTORY, table)
        if history is not None:
            user = _named(_USER, table)
            return cls._of_frame(_lists(table, user, history, option), table, user, history, option)
        user, item = _named(_USER, table, "user"), _named(_ITEM, table, "item")
        if user is None or item is None:
            raise DataError(
                f"{option} must have user_id and item_id, or history, got "
                f"{', '.join(table.names)} in {path}; rename the columns"
            )
        time = _named(_TIME, table, "time")
        if user not in _USER or item not in _ITEM or time not in (None, *_TIME):
            _say_taken(path, {"user": user, "item": item, "time": time})
        rows = _rows(table, user, item, time, option, whole)
        return cls._of_frame(rows, table, user, item, option)

    @classmethod
    def _of_frame(
        cls, found: pl.LazyFrame, table: TableFile, user: str | None, item: str, option: str
    ) -> UserSource:
        def chunk(start: int, size: int) -> pl.DataFrame:
            with _readable(table.path, option):
                return found.slice(start, size).collect()

        with _readable(table.path, option):
            count = int(found.select(pl.len()).collect().item())
            users = pl.Int64() if user is None else _result_type(table, user, found.select("user"))
            twice = count - int(found.select(pl.col("user").n_unique()).collect().item())
        if twice:
            warnings.warn(
                f"{option} must have one row a user with a history, got {twice:,} rows of users "
                f"named before in {table.path}; each row gets its own recommendations",
                stacklevel=2,
            )
        items = pl.Int64() if table.holds_integers(item) in (True, None) else pl.String()
        return cls(count, chunk, users, items)


@dataclass(frozen=True)
class ItemLists:
    """Items for everybody, or for each user: a frame of ``user`` and ``items``."""

    everybody: list[Any] | None
    each: pl.DataFrame | None

    @classmethod
    def read(cls, path: Path, option: str) -> ItemLists:
        """Read a list of items: a table, or one key a line."""
        if not path.name.lower().endswith(TABLE_SUFFIXES):
            _check_file(path, option)
            return cls([line for line in read_lines(path) if line], None)
        table = _open(path, option)
        user, item = _named(_USER, table, "user"), _named(_ITEM, table, "item")
        if item is None:
            raise DataError(
                f"{option} must have a column item_id, got {', '.join(table.names)} in {path}; "
                "rename it"
            )
        if user not in (None, *_USER) or item not in _ITEM:
            _say_taken(path, {"user": user, "item": item})
        columns = [Column("item", item, "key")]
        if user is None:
            return cls(_read(table, columns, option)["item"].to_list(), None)
        columns.append(Column("user", user, "key"))
        grouped = _read(table, columns, option).group_by("user")
        return cls(None, grouped.agg(pl.col("item").alias("items")))

    def of(self, users: pl.Series) -> list[Any]:
        """Give everybody's list, or one for each of some users."""
        if self.each is None:
            return self.everybody or []
        asked = pl.DataFrame({"user": users.cast(pl.String)})
        joined = asked.join(self.each, on="user", how="left", maintain_order="left")
        return [items or [] for items in joined["items"].to_list()]


def type_of_keys(keys: pl.LazyFrame) -> pl.DataType:
    """Tell whether the only column holds whole numbers as usually written: 7, and not 007."""
    plain = pl.all().cast(pl.String).str.contains(r"^(0|[1-9][0-9]{0,17})$")
    return pl.Int64() if keys.select(plain.all()).collect().item() else pl.String()


def _rows(
    table: TableFile, user: str, item: str, time: str | None, option: str, whole: bool
) -> pl.LazyFrame:
    """Read one row an interaction into one row a user, oldest item first.

    Items of one time stand as in a prepared data set, in the order of their keys.
    """
    columns = [Column("user", user, "key"), Column("item", item, "key")]
    if time is not None:
        columns.append(Column("time", time, "time"))
    items = pl.col("item").alias("history")
    if time is not None:
        key = pl.col("item").cast(pl.Int64, strict=False) if whole else pl.col("item")
        items = items.sort_by("time", key, maintain_order=True)
    # Users stay in the order in which the file first names them.
    return _read(table, columns, option).group_by("user", maintain_order=True).agg(items).lazy()


def _lists(table: TableFile, user: str | None, history: str, option: str) -> pl.LazyFrame:
    """Read one row a user; Parquet and JSON with lists are not held in memory."""
    found = table.scan_lists(history, () if user is None else (user,))
    if found is None:
        columns = [Column("history", history, "text", required=False)]
        columns += [] if user is None else [Column("user", user, "key")]
        texts = pl.col("history").fill_null("").str.split(",")
        parsed = texts.list.eval(pl.element().str.strip_chars()).list.filter(pl.element() != "")
        found = _read(table, columns, option).lazy().with_columns(parsed.alias("history"))
    else:
        names = {history: "history"} | ({} if user is None else {user: "user"})
        found = found.rename(names).with_columns(pl.col("history").fill_null([]))
    if user is None:
        found = found.with_row_index("user").with_columns(pl.col("user").cast(pl.Int64))
    return found.select("user", "history")


def _read(table: TableFile, columns: Sequence[Column], option: str) -> pl.DataFrame:
    """Read columns, and say how many rows could not be used."""
    times = [column.source for column in columns if column.kind == "time"]
    rejected = RejectedRows()
    with _readable(table.path, option):
        reader = None
        for source in times:
            try:
                reader = table.time_reader(source, time_format=None, ticks_per_s=None)
            except DataError as error:
                raise DataError(
                    f"{option}: {str(error).partition('; ')[0]}; write them as 2024-03-01, or "
                    "leave the column out where the rows stand in order"
                ) from None
        frame = table.read(columns, rejected=rejected, time=reader)
    for flaw in rejected.as_list():
        lines = ", ".join(map(str, flaw["first_lines"]))
        more = ", ..." if flaw["rows"] > len(flaw["first_lines"]) else ""
        warnings.warn(
            f"{flaw['rows']:,} rows of {option} {table.path} are left out: {flaw['reason']} "
            f"(line {lines}{more})",
            stacklevel=2,
        )
    return frame


def _open(path: Path, option: str) -> TableFile:
    if not path.name.lower().endswith(TABLE_SUFFIXES):
        raise ConfigError(
            f"{option} must end in {', '.join(TABLE_SUFFIXES)}, got {path}; for example "
            f"{path.with_suffix('.parquet')}"
        )
    _check_file(path, option)
    with _readable(path, option):
        return TableFile(path)


def _check_file(path: Path, option: str) -> None:
    if not path.is_file():
        raise MissingPathError(f"{option} must be a file, got {path}; check the path")


@contextmanager
def _readable(path: Path, option: str) -> Iterator[None]:
    """Name the option in what is wrong with its file."""
    try:
        yield
    except (DataError, OSError, pl.exceptions.PolarsError) as error:
        text = str(error)
        if text.startswith(option):
            raise
        reason = " ".join(text.partition("; ")[0].split())[:160]
        raise DataError(
            f"{option} must be a readable {path.suffix} file, got {path} ({reason}); write it again"
        ) from None


def _named(known: Sequence[str], table: TableFile, role: str | None = None) -> str | None:
    """Find a column by its names here, else by those that `genrec prepare` takes for a role."""
    exact = next((name for name in known if name in table.names), None)
    return exact if exact is not None or role is None else usual_column(role, table)


def _say_taken(path: Path, taken: dict[str, str | None]) -> None:
    """Tell which columns were guessed to be what."""
    named = ", ".join(f"{role} {name}" for role, name in taken.items() if name is not None)
    order = "; the order of the rows counts" if taken.get("time", "") is None else ""
    print(f"{path}: taking {named}{order}", file=sys.stderr)


def _result_type(table: TableFile, source: str, keys: pl.LazyFrame) -> pl.DataType:
    """Tell whether ids are written as numbers: where the file has them so, or cannot say."""
    return pl.String() if table.holds_integers(source) is False else type_of_keys(keys)
