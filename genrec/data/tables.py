"""The one way from any source's tables to arrays: encode, filter, order.

Every reader ends in a :class:`RawTables`; what follows is the same for all of them.
Shape legend: N = items, U = users, M = interactions.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from genrec.data.files.rejected import RejectedRows
from genrec.data.options import Repeats, Ties
from genrec.errors import DataError

__all__ = [
    "ITEM",
    "RATING",
    "TIME",
    "USER",
    "Interactions",
    "RawTables",
    "encode_keys",
    "k_core",
    "order_rule",
    "ordered",
    "without_duplicates",
    "without_repeats",
]

USER = "user_key"
ITEM = "item_key"
TIME = "time"
RATING = "rating"


#: About how many interactions are sorted at a time.
_PART_ROWS = 1 << 19


def _no_notes(template: str) -> dict[str, Any]:
    return {}


@dataclass(frozen=True, kw_only=True)
class RawTables:
    """What a reader gives: clean rows, and what it had to leave out.

    Attributes:
        name: Short name of the data set.
        source: Where it came from.
        interactions: Columns ``user_key``, ``item_key`` (strings or integers, no nulls) and,
            where the source has them, ``time`` (Int64) and ``rating`` (Float32), in the
            order of the file.
        items: Column ``item_key`` of the same type, and text fields; one row an item or more.
        rejected: Rows that could not be used.
        ticks_per_s: Unit of ``time``: 1 for seconds, 1,000 for milliseconds.
        text_template: Template of the item text, see :mod:`genrec.data.text.item_text`.
        title_field: Field of ``items`` to show a person.
        user_order: All users in the order of their ids, where the source fixes it.
        item_order: All items in the order of their ids, where the source fixes it.
        min_interactions: Fewest interactions of a user and of an item, where the options leave
            them open.
        vectors: One vector a row of ``items``, where the source brings them.
        items_only: Whether this is a catalogue without interactions, for stage one alone.
        columns: Names of columns that the user gave, kept for later versions of the tables.
        notes: Gives more facts for the data card, from the template that is used in the end.
    """

    name: str
    source: str
    interactions: pl.DataFrame
    items: pl.DataFrame
    text_template: str
    rejected: RejectedRows = field(default_factory=RejectedRows)
    ticks_per_s: int = 1
    title_field: str = "title"
    user_order: pl.Series | None = None
    item_order: pl.Series | None = None
    min_interactions: int = 0
    vectors: npt.NDArray[np.floating[Any]] | None = None
    items_only: bool = False
    columns: dict[str, Any] = field(default_factory=dict)
    notes: Callable[[str], dict[str, Any]] = _no_notes


@dataclass(frozen=True)
class Interactions:
    """Interactions as numbers.

    Attributes:
        users: User of each, shape ``(M,)``, int32, index in the users' keys.
        items: Item of each, shape ``(M,)``, int32, index in the items' keys.
        times: Shape ``(M,)``, int64; None where the source has no time.
    """

    users: npt.NDArray[np.int32]
    items: npt.NDArray[np.int32]
    times: npt.NDArray[np.int64] | None

    def __len__(self) -> int:
        return len(self.users)

    def where(self, keep: npt.NDArray[np.bool_]) -> Interactions:
        """Keep those where ``keep``, ``(M,)``, is True, in the same order."""
        if keep.all():
            return self
        times = None if self.times is None else self.times[keep]
        return Interactions(self.users[keep], self.items[keep], times)

    def take(self, positions: npt.NDArray[np.integer[Any]]) -> Interactions:
        """Put them in another order: ``positions``, ``(M,)``, says where each stands now."""
        times = None if self.times is None else self.times[positions]
        return Interactions(self.users[positions], self.items[positions], times)

    def counts(self) -> dict[str, int]:
        """Count interactions, users and items that are left."""
        return {
            "interactions": len(self),
            "users": int(np.count_nonzero(np.bincount(self.users))) if len(self) else 0,
            "items": int(np.count_nonzero(np.bincount(self.items))) if len(self) else 0,
        }


def encode_keys(
    keys: pl.Series, order: pl.Series | None = None
) -> tuple[npt.NDArray[np.int32], pl.Series]:
    """Number keys from 0, by their order and not by their first appearance.

    Integers, and strings that are all plain integers, are ordered by value, other strings by
    their bytes, so that ids do not depend on the order of the rows.

    Args:
        keys: Keys of the rows, shape ``(M,)``, without nulls.
        order: All keys in the order of their ids; None sorts those that occur.

    Returns:
        Id of each row, shape ``(M,)``, int32, and the keys by id.

    Raises:
        DataError: If a key is not among ``order``.
    """
    if order is None and keys.dtype.is_integer() and len(keys):
        codes = _encode_dense(keys)
        if codes is not None:
            return codes
    distinct = _sorted(keys.unique()) if order is None else order
    # The row of a key in this table is its id; a join looks them all up at once.
    table = pl.DataFrame({"key": distinct}).with_row_index("id")
    joined = pl.DataFrame({"key": keys}).join(
        table, on="key", how="left", maintain_order="left", coalesce=True
    )
    ids = joined["id"]
    if ids.null_count():
        unknown = keys.filter(ids.is_null())[0]
        raise DataError(
            f"every key must be among the {len(distinct)} known ones, got {unknown!r}; "
            "use files of one release"
        )
    return ids.to_numpy().astype(np.int32), distinct


def _encode_dense(keys: pl.Series) -> tuple[npt.NDArray[np.int32], pl.Series] | None:
    """Number integers through a table over their range; None where it would be mostly holes."""
    values = keys.to_numpy()
    low, high = int(values.min()), int(values.max())
    if high - low > max(4 * len(values), 1_000_000):
        return None
    shifted = values - low
    present = np.zeros(high - low + 1, dtype=bool)
    present[shifted] = True
    table = np.cumsum(present, dtype=np.int32) - 1
    return table[shifted], pl.Series(np.flatnonzero(present) + low, dtype=keys.dtype)


def _sorted(distinct: pl.Series) -> pl.Series:
    if distinct.dtype != pl.String:
        return distinct.sort()
    # "007" and "+7" are no numbers here: two keys must never share one value.
    plain = distinct.str.contains(r"^(?:0|-?[1-9][0-9]{0,17})$")
    if len(distinct) and plain.all():
        return distinct.gather(distinct.cast(pl.Int64).arg_sort())
    return distinct.sort()


def k_core(rows: Interactions, *, min_user: int, min_item: int) -> tuple[Interactions, int]:
    """Drop users and items with few interactions until none is left.

    Fewer than ``min_user`` and ``min_item`` are few; 0 or 1 keeps all. Gives what is left, and
    how many rounds it took.
    """
    user_counts, item_counts = np.bincount(rows.users), np.bincount(rows.items)
    rounds = 0
    while len(rows):
        # Rows are only looked through where a count says that there is something to find.
        keep = None
        for ids, counts, fewest in (
            (rows.users, user_counts, min_user),
            (rows.items, item_counts, min_item),
        ):
            if ((counts > 0) & (counts < fewest)).any():
                enough = (counts >= fewest)[ids]
                keep = enough if keep is None else keep & enough
        if keep is None:
            break
        gone = ~keep  # few rows after the first round: subtracting is cheaper than counting anew
        user_counts -= np.bincount(rows.users[gone], minlength=len(user_counts))
        item_counts -= np.bincount(rows.items[gone], minlength=len(item_counts))
        rows = rows.where(keep)
        rounds += 1
    return rows, rounds


def ordered(rows: Interactions, ties: Ties) -> Interactions:
    """Order by user and time.

    Args:
        rows: The interactions, in the order of the file.
        ties: ``"item"`` orders a user's interactions of the same time by item id, so that the
            result does not depend on the order of the file; ``"file"`` keeps the file's order.
            Rows without time keep the file's order.

    Returns:
        The same interactions, user after user.
    """
    if len(rows) < 2:
        return rows
    if rows.times is None:
        return rows.take(np.argsort(rows.users, kind="stable"))
    if ties == "file":
        return rows.take(np.lexsort((rows.times, rows.users)))
    return _sorted_by_all(rows)


def _sorted_by_all(rows: Interactions) -> Interactions:
    """Order by user, time and item.

    The three are packed into one 64-bit number and the numbers are sorted, in parts that are a
    range of users each: a fraction of the time of a sort by three columns.
    """
    assert rows.times is not None
    first = int(rows.times.min())
    time_bits = (int(rows.times.max()) - first).bit_length()
    item_bits = int(rows.items.max()).bit_length()
    user_bits = int(rows.users.max()).bit_length()
    # A user's high bits choose the part, the low ones are sorted with time and item: as many as
    # fit beside them in 64 bits, and few enough for parts of _PART_ROWS, which stay in a cache.
    part_bits = (len(rows) // _PART_ROWS).bit_length()
    low_bits = min(64 - time_bits - item_bits, max(0, user_bits - part_bits))
    if low_bits < 0 or user_bits - low_bits > 16:  # times too wide, or parts too many
        # Beyond 62 bits the differences themselves would not fit.
        if time_bits < 63 and (ticks := _common_ticks(rows.times, first)) > 1:
            found = _sorted_by_all(replace(rows, times=(rows.times - first) // ticks))
            assert found.times is not None
            return replace(found, times=found.times * ticks + first)
        return rows.take(np.lexsort((rows.items, rows.times, rows.users)))
    part_of = (rows.users >> low_bits).astype(np.uint16)
    if not (part_of[1:] >= part_of[:-1]).all():  # else the file has the users together already
        order = np.argsort(part_of, kind="stable")  # a radix sort for 16 bits
        rows, part_of = rows.take(order), part_of[order]
    assert rows.times is not None
    old_times = rows.times
    num_parts = int(part_of[-1]) + 1
    ends = np.searchsorted(part_of, np.arange(num_parts), side="right").tolist()
    users, items = np.empty_like(rows.users), np.empty_like(rows.items)
    times = np.empty_like(old_times)
    # From the highest bit down: the user's low bits, the time since the first, the item.
    shift, item_shift = np.uint64(time_bits + item_bits), np.uint64(item_bits)
    item_mask, time_mask = np.uint64((1 << item_bits) - 1), np.uint64((1 << time_bits) - 1)

    def sort_part(part: int, start: int, end: int) -> None:
        here, low = slice(start, end), part << low_bits
        packed = (old_times[here] - first).view(np.uint64)
        packed <<= item_shift
        packed |= rows.items[here].view(np.uint32)
        if low_bits:
            packed |= (rows.users[here] - low).astype(np.uint64) << shift
        packed.sort()
        items[here] = packed & item_mask
        users[here] = (packed >> shift if low_bits else 0) + low
        packed >>= item_shift  # in place: the items and users are out already
        packed &= time_mask
        np.add(packed.view(np.int64), first, out=times[here])

    with ThreadPoolExecutor(pl.thread_pool_size()) as pool:
        list(pool.map(sort_part, range(num_parts), [0, *ends], ends))
    return Interactions(users, items, times)


def _common_ticks(times: npt.NDArray[np.int64], first: int) -> int:
    """Find how many ticks all times are apart, by tens: 1,000 for seconds kept as milliseconds."""
    ticks = 1
    while ticks < 10**9 and times.max() > first and not ((times - first) % (ticks * 1_000)).any():
        ticks *= 1_000
    return ticks


def without_duplicates(rows: Interactions, ties: Ties) -> Interactions:
    """Keep one of the rows that agree in user, item and time; ``ties`` as in :func:`ordered`."""
    if rows.times is None or len(rows) < 2:
        return rows
    if ties == "item":  # rows that agree are neighbours
        after = np.flatnonzero(rows.items[1:] == rows.items[:-1]) + 1
        same = rows.times[after] == rows.times[after - 1]
        same &= rows.users[after] == rows.users[after - 1]
        keep = np.ones(len(rows), dtype=bool)
        keep[after[same]] = False
        return rows.where(keep)
    frame = pl.DataFrame({"user": rows.users, "time": rows.times, "item": rows.items})
    return rows.where(frame.select(_first()).to_series().to_numpy())


def without_repeats(rows: Interactions, keep: Repeats) -> Interactions:
    """Keep one interaction of a user with an item, the first or the last, or all."""
    if keep == "all":
        return rows
    frame = pl.DataFrame({"user": rows.users, "item": rows.items})
    return rows.where(frame.select(_first() if keep == "first" else _last()).to_series().to_numpy())


def _first() -> pl.Expr:
    return pl.struct(pl.all()).is_first_distinct()


def _last() -> pl.Expr:
    return pl.struct(pl.all()).is_last_distinct()


def order_rule(*, has_time: bool, ties: Ties) -> str:
    """Say in words how :func:`ordered` ordered the interactions, for the data card."""
    if not has_time:
        return "no time in the source: the order of the file"
    if ties == "item":
        return "by time; at the same time by item id"
    return "by time; at the same time in the order of the file"
