"""Recommendations from a file of histories, or for all users of a data set, into a file.

The work is done in chunks of users. Each chunk that is done lies beside the result until all are,
so that a run that was stopped goes on where it was, and memory holds one chunk.
"""

from __future__ import annotations

import io
import os
import shutil
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import xxhash
from filelock import FileLock, Timeout
from tqdm import tqdm

from genrec.atomic import atomic_file, read_json, write_json_atomic
from genrec.errors import ConfigError, DataError
from genrec.serving.recommender import Recommender
from genrec.serving.stock import NothingLeft
from genrec.serving.tables import ItemLists, UserSource, type_of_keys

__all__ = ["SUFFIXES", "Chunks", "recommend_chunk", "recommend_to_file"]

#: From first user and number of users of each chunk to the first and the bytes of its Parquet file.
Compute = Callable[["Chunks", Sequence[tuple[int, int]]], Iterable[tuple[int, bytes]]]

SUFFIXES = (".parquet", ".csv", ".jsonl")
_SAY_EVERY_S = 20.0


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
        histories: Any table that ``genrec prepare`` reads: either ``user_id, item_id``, one row an
            interaction, oldest first or with a ``time``; or ``history`` and perhaps ``user_id``,
            one row a user, in CSV with commas between the items. None takes all users of the
            recommender's data set, with all that they had. Lists in Parquet and JSON lines are
            read chunk by chunk; rows that cannot be used are left out with a warning.
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
    given = {"input": histories, "allow": allow, "exclude": exclude}
    _check_out(out, given)
    with _alone(out):
        chunks = Chunks.open(recommender, histories, allow, exclude, options)
        return _write(chunks, out, given, chunk_size, compute or _one_by_one)


def _check_out(out: Path, given: dict[str, Path | None]) -> None:
    """Refuse a result that could not be written, or would replace what it is made of."""
    _suffix(out, "--out")
    if out.is_dir():
        raise ConfigError(f"--out must be a file, got the folder {out}; for example {out}/recs.csv")
    for name, path in given.items():
        if path is not None and path.exists() and out.exists() and out.samefile(path):
            raise ConfigError(f"--out must be another file than --{name}, got {out} for both")


@contextmanager
def _alone(out: Path) -> Iterator[None]:
    """Keep other calls from writing the same file.

    The lock's file stays, since deleting it would let two owners hold one name; so it does not lie
    beside the result, but among this machine's temporary files.
    """
    user = os.getuid() if hasattr(os, "getuid") else ""
    name = f"{user} {out.resolve()}".encode(errors="surrogateescape")
    place = Path(tempfile.gettempdir()) / f"genrec-{xxhash.xxh3_64_hexdigest(name)}.lock"
    lock = FileLock(place, blocking=False)
    try:
        lock.acquire()
    except Timeout:
        raise ConfigError(
            f"--out must not be written by another call, got {out}, which is; wait for it, or "
            "name another file"
        ) from None
    try:
        yield
    finally:
        lock.release()


def _write(
    chunks: Chunks, out: Path, given: dict[str, Path | None], chunk_size: int, compute: Compute
) -> int:
    """Do the chunks that are missing and join them; the number of users."""
    recommender, source, options = chunks.recommender, chunks.source, chunks.options
    path = recommender.path
    run = [] if path is None else [path / "meta.json", path / "best", path / "latest"]
    about = {
        "recommender": repr(recommender),
        "run": [_state(file) for file in run if file.is_file()],
        "items": recommender.item_keys.digest(),
        "available": xxhash.xxh3_64_hexdigest(recommender.shelf.available.tobytes()),
        "users": None if given["input"] is not None else recommender.data.fingerprint,
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
    done = source.count - sum(size for _, size in todo)
    with tqdm(total=source.count, unit=" users", disable=None, mininterval=1.0) as progress:
        progress.update(done)
        said = time.monotonic()
        try:
            for start, part in compute(chunks, todo):
                with atomic_file(files[start]) as temporary:
                    temporary.write_bytes(part)
                progress.update(sizes[start])
                done += sizes[start]
                if progress.disable and time.monotonic() - said > _SAY_EVERY_S:  # no terminal
                    said = time.monotonic()
                    print(f"{done:,} of {source.count:,} users", file=sys.stderr, flush=True)
        except KeyboardInterrupt:
            print(
                f"stopped after {done:,} of {source.count:,} users; the same call goes on from "
                "there",
                file=sys.stderr,
            )
            raise
    served = _join(parts, len(files), out, source, _all_whole(recommender))
    shutil.rmtree(parts)
    exclude_seen = bool(options.get("exclude_seen", True))
    _say_without(source.count - served, source.count, given["allow"], exclude_seen)
    return source.count


def _say_without(without: int, count: int, allow: Path | None, exclude_seen: bool) -> None:
    """Say how many users got nothing, and what may be the reason."""
    if not without:
        return
    what = "nothing is left" if allow is None else f"nothing known of --allow {allow} is left"
    gone = "excluded, removed or in the history" if exclude_seen else "excluded or removed"
    fix = "; --no-exclude-seen brings back what they had" if exclude_seen else ""
    warnings.warn(
        f"{without:,} of {count:,} users get no item and are not in the file: {what} for them "
        f"without what is {gone}{fix}",
        NothingLeft,
        stacklevel=4,
    )


def _one_by_one(chunks: Chunks, todo: Sequence[tuple[int, int]]) -> Iterable[tuple[int, bytes]]:
    """Do chunks in this process."""
    return ((start, chunks.part(start, size)) for start, size in todo)


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
    source: UserSource
    lists: dict[str, ItemLists]
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
        if histories is None:
            source = UserSource.of(recommender)
        else:
            source = UserSource.read(histories, whole=_all_whole(recommender))
        paths = {"allow": allow, "exclude": exclude}
        lists = {
            name: ItemLists.read(path, f"--{name}")
            for name, path in paths.items()
            if path is not None
        }
        given = {"input": histories, **paths}
        files = {name: path for name, path in given.items() if path is not None}
        return cls(recommender, source, lists, options, files)

    def part(self, start: int, size: int) -> bytes:
        """Recommend to some users in order; the bytes of a Parquet file."""
        users = self.source.chunk(start, size)
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            try:
                table = recommend_chunk(self.recommender, users, self.lists, self.options)
            except DataError as error:
                text = _located(str(error), self.recommender, users, self.files)
                raise DataError(text) from None
        for each in said:
            if not issubclass(each.category, NothingLeft):  # counted for all chunks together
                text = _located(str(each.message), self.recommender, users, self.files)
                warnings.warn(text, each.category, stacklevel=2)
        buffer = io.BytesIO()
        table.write_parquet(buffer)
        return buffer.getvalue()


def recommend_chunk(
    recommender: Recommender,
    chunk: pl.DataFrame,
    lists: dict[str, ItemLists],
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
    option = "input" if name in ("histories", "users") else name
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


def _join(parts: Path, count: int, out: Path, source: UserSource, whole: bool) -> int:
    """Put the chunks together in the caller's types; count the users with results."""
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
    return int(table.select((pl.col("rank") == 1).sum()).collect().item() or 0)


def _open_parts(out: Path, about: dict[str, Any]) -> Path:
    """Make the folder of the chunks; keep those of an earlier call with the same arguments."""
    parts = out.parent / f".{out.name}.parts"
    file = parts / "meta.json"
    if not file.is_file() or read_json(file) != about:
        shutil.rmtree(parts, ignore_errors=True)
        parts.mkdir(parents=True)
        write_json_atomic(file, about)
    return parts


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
    return type_of_keys(keys) == pl.Int64
