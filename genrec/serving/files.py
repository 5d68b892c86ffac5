"""Recommendations from a file of histories, or for all users of a data set, into a file.

The work is done in chunks of users. Each chunk that is done lies beside the result until all are,
so that a run that was stopped goes on where it was, and memory holds one chunk.
"""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from tqdm import tqdm

from genrec.atomic import atomic_file, read_json, write_json_atomic
from genrec.errors import ConfigError, DataError, MissingPathError
from genrec.serving.recommender import Recommender

__all__ = ["SUFFIXES", "Chunks", "recommend_chunk", "recommend_to_file"]

#: From first user and number of users of each chunk to the first and the bytes of its Parquet file.
Compute = Callable[["Chunks", Sequence[tuple[int, int]]], Iterable[tuple[int, bytes]]]

SUFFIXES = (".parquet", ".csv", ".jsonl")

_USER = ("user_id", "user_key", "user")
_ITEM = ("item_id", "item_key", "item")
_HISTORY = ("history", "items")
_TIME = ("time", "timestamp")


def recommend_to_file(
    recommender: Recommender,
    out: Path,
    *,
    histories: Path | None = None,
    allow: Path | None = None,
    exclude: Path | None = None,
    chunk_size: int = 8192,
    compute: Compute | None = None,
    **options: Any,
) -> int:
    """Recommend to many users.

    Args:
        recommender: Of any run.
        out: File to write, ``.parquet``, ``.csv`` or ``.jsonl``: columns ``user_id, item_id,
            score, rank, popular``, users in the order of the input.
        histories: File of the same kinds: either ``user_id, item_id``, one row an interaction,
            oldest first or with a ``time``; or ``history`` and perhaps ``user_id``, one row a
            user, in CSV with commas between the items. None takes all users of the recommender's
            data set, with all that they had. The second kind is read chunk by chunk.
        allow: The only items: a text file with one key a line, or a table with ``item_id``, and
            ``user_id`` where each user has his own; a user without any then gets nothing.
        exclude: Items to leave out, likewise.
        chunk_size: Users of a chunk, >= 1.
        compute: What does the chunks, in any order; one after the other in this process when None.
        **options: Of :meth:`~genrec.serving.recommender.Recommender.recommend`.

    Returns:
        Number of users.

    Raises:
        GenRecError: If a file is not there or not as it should be, or an item is unknown.
    """
    _suffix(out, "--out")
    chunks = Chunks.open(recommender, histories, allow, exclude, options)
    source = chunks.source
    given = {"input": histories, "allow": allow, "exclude": exclude}
    path = recommender.path
    run = [] if path is None else [path / "meta.json", path / "best", path / "latest"]
    about = {
        "recommender": repr(recommender),
        "run": [_state(file) for file in run if file.is_file()],
        "items": recommender.item_keys.digest(),
        "chunk_size": chunk_size,
        "options": {name: str(value) for name, value in options.items()},
        "files": {name: _state(path) for name, path in given.items() if path is not None},
    }
    parts = _open_parts(out, about)
    files = {
        start: parts / f"part_{start:012d}.parquet" for start in range(0, source.count, chunk_size)
    }
    sizes = {start: min(chunk_size, source.count - start) for start in files}
    todo = [(start, sizes[start]) for start, file in files.items() if not file.is_file()]
    with tqdm(total=source.count, unit=" users", disable=None, mininterval=1.0) as progress:
        progress.update(source.count - sum(size for _, size in todo))
        results = _one_by_one(chunks, todo) if compute is None else compute(chunks, todo)
        for start, part in results:
            with atomic_file(files[start]) as temporary:
                temporary.write_bytes(part)
            progress.update(sizes[start])
    _join(parts, len(files), out, source, _all_whole(recommender))
    shutil.rmtree(parts)
    return source.count


def _one_by_one(chunks: Chunks, todo: Sequence[tuple[int, int]]) -> Iterable[tuple[int, bytes]]:
    """Do chunks in this process."""
    return ((start, chunks.part(start, size)) for start, size in todo)


@dataclass(frozen=True)
class _Users:
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
    def of(cls, recommender: Recommender) -> _Users:
        """Take all users of the data set."""
        keys = recommender.data.user_keys
        return cls(
            len(keys),
            lambda start, size: pl.DataFrame({"user": keys[start : start + size]}),
            _type_of(pl.LazyFrame({"user": list(keys)}, schema={"user": pl.String})),
            pl.Int64(),
        )

    @classmethod
    def read(cls, path: Path) -> _Users:
        """Read a file of histories."""
        table = _scan(path, "--input")
        types = table.collect_schema()
        user, item, history, time = (
            next((name for name in names if name in types), None)
            for names in (_USER, _ITEM, _HISTORY, _TIME)
        )
        if history is not None:
            if not isinstance(types[history], pl.List):
                texts = pl.col(history).cast(pl.String).fill_null("").str.split(",")
                parsed = texts.list.eval(pl.element().str.strip_chars()).list.filter(
                    pl.element() != ""
                )
                table = table.with_columns(parsed.alias(history))
            names = [] if user is None else [pl.col(user).alias("user")]
            histories = table.select(*names, pl.col(history).fill_null([]).alias("history"))
            if user is None:
                histories = histories.with_row_index("user").with_columns(
                    pl.col("user").cast(pl.Int64)
                )
        elif user is not None and item is not None:
            table = table.drop_nulls([user, item])
            if time is not None:
                table = table.sort(time, maintain_order=True)
            grouped = table.group_by(pl.col(user).alias("user"), maintain_order=True)
            histories = grouped.agg(pl.col(item).alias("history")).collect().lazy()
        else:
            raise DataError(
                f"--input must have user_id and item_id, or history, got {', '.join(types)} in "
                f"{path}; rename the columns"
            )
        found = histories.collect_schema()
        keys = histories.select(pl.col("history").explode()).collect_schema()["history"]
        untyped = path.suffix == ".csv"  # which cannot say what is a number
        return cls(
            int(histories.select(pl.len()).collect().item()),
            lambda start, size: histories.slice(start, size).collect(),
            _type_of(histories.select("user")) if untyped else found["user"],
            pl.Int64() if untyped or keys.is_integer() else pl.String(),
        )


@dataclass(frozen=True)
class _Listed:
    """Items for everybody, or for each user: a frame of ``user`` and ``items``."""

    everybody: list[Any] | None
    each: pl.DataFrame | None

    @classmethod
    def read(cls, path: Path, option: str) -> _Listed:
        """Read a list of items."""
        if path.suffix not in SUFFIXES:
            if not path.is_file():
                raise MissingPathError(f"{option} must be a file, got {path}; check the path")
            lines = path.read_text(encoding="utf-8").splitlines()
            return cls([line.strip() for line in lines if line.strip()], None)
        table = _scan(path, option)
        names = table.collect_schema().names()
        user, item = (next((n for n in known if n in names), None) for known in (_USER, _ITEM))
        if item is None:
            raise DataError(
                f"{option} must have a column item_id, got {', '.join(names)} in {path}; rename it"
            )
        if user is None:
            return cls(table.select(item).drop_nulls().collect()[item].to_list(), None)
        users = pl.col(user).cast(pl.String).alias("user")
        grouped = table.drop_nulls([user, item]).group_by(users)
        return cls(None, grouped.agg(pl.col(item).alias("items")).collect())

    def of(self, users: pl.Series) -> list[Any]:
        """Give everybody's list, or one for each of some users."""
        if self.each is None:
            return self.everybody or []
        asked = pl.DataFrame({"user": users.cast(pl.String)})
        joined = asked.join(self.each, on="user", how="left", maintain_order="left")
        return [items or [] for items in joined["items"].to_list()]


@dataclass(frozen=True)
class Chunks:
    """A recommender and its users: what each chunk of them gets.

    Attributes:
        recommender: Of any run.
        source: The users.
        lists: Items to allow and to exclude.
        options: Of :meth:`~genrec.serving.recommender.Recommender.recommend`.
        files: Where users and lists are from, by the names of their options, for errors.
    """

    recommender: Recommender
    source: _Users
    lists: dict[str, _Listed]
    options: dict[str, Any]
    files: dict[str, Path]

    @classmethod
    def open(
        cls,
        recommender: Recommender,
        histories: Path | None,
        allow: Path | None,
        exclude: Path | None,
        options: dict[str, Any],
    ) -> Chunks:
        """Read what :func:`recommend_to_file` is told, whose errors these are."""
        source = _Users.of(recommender) if histories is None else _Users.read(histories)
        paths = {"allow": allow, "exclude": exclude}
        lists = {
            name: _Listed.read(path, f"--{name}")
            for name, path in paths.items()
            if path is not None
        }
        given = {"input": histories, **paths}
        files = {name: path for name, path in given.items() if path is not None}
        return cls(recommender, source, lists, options, files)

    def part(self, start: int, size: int) -> bytes:
        """Recommend to some users in order; the bytes of a Parquet file."""
        users = self.source.chunk(start, size)
        try:
            table = recommend_chunk(self.recommender, users, self.lists, self.options)
        except DataError as error:
            text = _located(str(error), self.recommender, users, self.files)
            raise DataError(text) from None
        buffer = io.BytesIO()
        table.write_parquet(buffer)
        return buffer.getvalue()


def recommend_chunk(
    recommender: Recommender,
    chunk: pl.DataFrame,
    lists: dict[str, _Listed],
    options: dict[str, Any],
) -> pl.DataFrame:
    """Recommend to the users of a chunk.

    Args:
        recommender: Of any run.
        chunk: Columns ``user`` and perhaps ``history``, lists of keys.
        lists: Items to allow and to exclude.
        options: Of :meth:`~genrec.serving.recommender.Recommender.recommend`.

    Returns:
        ``user_id, item_id, score, rank, popular``; items as text.
    """
    rules: dict[str, Any] = {name: listed.of(chunk["user"]) for name, listed in lists.items()}
    histories = chunk["history"].to_list() if "history" in chunk.columns else None
    found = recommender.recommend(histories, users=chunk["user"], **rules, **options)
    return found.to_polars().with_columns(
        pl.col("user_id").cast(chunk["user"].dtype),
        pl.col("item_id").cast(pl.String),
        pl.Series("popular", np.repeat(found.popular, np.diff(found.offsets))),
    )


def _located(
    message: str, recommender: Recommender, chunk: pl.DataFrame, files: dict[str, Path]
) -> str:
    """Say in which file, and of which user, what a call refused stands."""
    name, _, rest = message.partition(" ")
    option = "input" if name == "histories" else name
    if option not in files:
        return message
    who = ""
    if option == "input" and "that are not among" in rest:
        known = pl.Series(list(recommender.item_keys), dtype=pl.String)
        rows = chunk.explode("history").drop_nulls("history")
        unknown = rows.filter(~pl.col("history").cast(pl.String).is_in(known.implode()))
        who = f", the first of user {unknown['user'][0]!r}" if len(unknown) else ""
    text, _, fix = rest.partition("; ")
    return f"--{option} {files[option]} {text}{who}; {fix}"


def _join(parts: Path, count: int, out: Path, source: _Users, whole: bool) -> None:
    """Put the chunks together in the caller's types."""
    types: dict[str, pl.DataType] = {"user_id": source.user_type}
    types["item_id"] = source.item_type if whole else pl.String()
    if count:
        table = pl.scan_parquet(sorted(parts.glob("part_*.parquet")))
        table = table.with_columns(pl.col(name).cast(kind) for name, kind in types.items())
    else:
        types |= {"score": pl.Float32(), "rank": pl.Int32(), "popular": pl.Boolean()}
        table = pl.LazyFrame(schema=types)
    with atomic_file(out) as temporary:
        if out.suffix == ".parquet":
            table.sink_parquet(temporary)
        elif out.suffix == ".csv":
            table.sink_csv(temporary)
        else:
            table.sink_ndjson(temporary)


def _open_parts(out: Path, about: dict[str, Any]) -> Path:
    """Make the folder of the chunks; keep those of an earlier call with the same arguments."""
    parts = out.parent / f".{out.name}.parts"
    file = parts / "meta.json"
    if not file.is_file() or read_json(file) != about:
        shutil.rmtree(parts, ignore_errors=True)
        parts.mkdir(parents=True)
        write_json_atomic(file, about)
    return parts


def _scan(path: Path, option: str) -> pl.LazyFrame:
    """Open a table without reading it; CSV as text, so that keys stay as they are."""
    suffix = _suffix(path, option)
    if not path.is_file():
        raise MissingPathError(f"{option} must be a file, got {path}; check the path")
    try:
        if suffix == ".parquet":
            table = pl.scan_parquet(path)
        elif suffix == ".csv":
            table = pl.scan_csv(path, infer_schema=False)
        else:
            table = pl.scan_ndjson(path)
        table.collect_schema()
    except (OSError, pl.exceptions.PolarsError) as error:
        raise DataError(
            f"{option} must be a readable {suffix} file, got {path} with {str(error)[:120]}; write "
            "it again"
        ) from None
    return table


def _suffix(path: Path, option: str) -> str:
    if path.suffix not in SUFFIXES:
        raise ConfigError(
            f"{option} must end in {', '.join(SUFFIXES)}, got {path}; for example "
            f"{path.with_suffix('.parquet')}"
        )
    return path.suffix


def _state(path: Path) -> list[Any]:
    status = path.stat()
    return [str(path.resolve()), status.st_size, status.st_mtime_ns]


def _all_whole(recommender: Recommender) -> bool:
    """Whether all item keys are whole numbers as they are usually written."""
    keys = pl.LazyFrame({"item": list(recommender.item_keys)}, schema={"item": pl.String})
    return _type_of(keys) == pl.Int64


def _type_of(keys: pl.LazyFrame) -> pl.DataType:
    """Tell whether the only column holds whole numbers as usually written: 7, and not 007."""
    plain = pl.all().cast(pl.String).str.contains(r"^(0|[1-9][0-9]{0,17})$")
    return pl.Int64() if keys.select(plain.all()).collect().item() else pl.String()
