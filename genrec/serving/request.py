"""A call for recommendations as it was given, read and checked; without torch.

Shape legend: B = users, K = results.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from genrec.errors import ConfigError, DataError
from genrec.serving.keys import Key, Lists, given_as_numbers, read_keys, read_lists, whole_number
from genrec.serving.recommendations import Recommendations
from genrec.serving.stock import (
    Limits,
    NothingLeft,
    Stock,
    Unknown,
    check_count,
    depth_of_caller,
)

__all__ = ["Request", "read_beams"]

Rows = npt.NDArray[np.int64]

#: Most users of a batch, and on a CPU most items of their histories, which else leave its caches.
_MOST_USERS, _MOST_ITEMS_CPU = 256, 2048


def read_beams(num_beams: Any, ranker: str, *, searches: bool) -> int | None:
    """Check a number of beams for a ranker of some name.

    Raises:
        ConfigError: If it is no number from 1 on, or the ranker does not search.
    """
    if num_beams is None:
        return None
    found = whole_number(num_beams, "num_beams", usual=30)
    if not searches:
        raise ConfigError(
            f"num_beams must be left out for a model that ranks all items, got {found} for "
            f"{ranker}; it needs no beams"
        )
    return found


@dataclass(frozen=True)
class Request:
    """Whom to recommend how much of what.

    Attributes:
        rows: The histories as rows of the catalogue.
        k: Items for each user ``K``.
        limits: What may be recommended.
        seen: What each user shall not get besides, or None.
        names: The users' own ids, or None.
        many: Whether the call was for many users.
        whole_numbers: Whether keys were given as numbers.
    """

    rows: Lists
    k: int
    limits: Limits
    seen: Lists | None
    names: Sequence[Key] | None
    many: bool
    whole_numbers: bool

    @classmethod
    def read(
        cls,
        stock: Stock,
        histories: Any,
        k: int,
        *,
        users: Any,
        exclude_seen: bool,
        exclude: Any,
        allow: Any,
        on_unknown: str,
        histories_of: Callable[[Sequence[Key], Unknown], Lists] | None = None,
    ) -> Request:
        """Read what :meth:`~genrec.serving.recommender.Recommender.recommend` was given.

        Args:
            stock: The items.
            histories: As there; likewise all that is not named here.
            k: Likewise.
            users: Likewise.
            exclude_seen: Likewise.
            exclude: Likewise.
            allow: Likewise.
            on_unknown: Likewise.
            histories_of: Looks up the histories of users that are named alone; None where
                histories have to be given.

        Returns:
            The request.

        Raises:
            GenRecError: As there.
        """
        unknown = Unknown(on_unknown)
        if not isinstance(exclude_seen, (bool, np.bool_)):
            raise ConfigError(
                f"exclude_seen must be True or False, got {exclude_seen!r}; True is usual"
            )
        k = min(whole_number(k, "k", usual=10), stock.catalogue.num_items)
        names = None if users is None else read_keys(users, "users")
        if histories is not None:
            given = read_lists(histories, "histories", ordered=True)
            rows, many = stock.look_up(given, "histories", unknown), given.many
            named: Sequence[Key] = given.keys
        elif histories_of is None:
            raise DataError("histories must be given, got none; give item keys")
        elif names is None:
            raise DataError("histories or users must be given, got neither; give item keys")
        else:
            rows, many = histories_of(names[0], unknown), names[1]
            named = []
        count = len(rows.lengths)
        if names is not None:
            check_count("users", len(names[0]), count)
        only = None if allow is None else read_lists(allow, "allow")
        out = None if exclude is None else read_lists(exclude, "exclude")
        limits = Limits.read(only, out, stock, unknown, count, many)
        listed = [[] if each is None else each.keys for each in (only, out)]
        whole_numbers = given_as_numbers(named, names[0] if names else [], *listed)
        seen = rows if exclude_seen else None
        return cls(rows, k, limits, seen, names and names[0], many, whole_numbers)

    def batches(
        self, max_history: int, batch_size: int | None, *, on_cpu: bool = True
    ) -> Iterator[tuple[Rows, bool]]:
        """Cut the users into batches of like length.

        Args:
            max_history: Newest history items that count.
            batch_size: Users of a batch; as many as compute fastest when None.
            on_cpu: Where they are computed.

        Yields:
            Places of users and whether they have a history; the longest come first, so that
            memory runs out at once or not at all.
        """
        lengths = np.minimum(self.rows.lengths, max_history)
        order = np.argsort(lengths, kind="stable")
        empty = int((lengths == 0).sum())
        for part in _parts(order[empty:], lengths, batch_size, on_cpu=on_cpu):
            yield part, True
        most = batch_size or _MOST_USERS
        for at in range(0, empty, most):
            yield order[at : min(at + most, empty)], False

    def answer(
        self, stock: Stock, rows: Rows, scores: npt.NDArray[np.float32], *, popular: bool
    ) -> Recommendations:
        """Put padded results, ``(B, K)`` each, into words; warn where some get nothing.

        Args:
            stock: The items.
            rows: Of the catalogue.
            scores: Of the rows.
            popular: Whether it is known what is popular.

        Returns:
            The answer.
        """
        count = len(self.rows.lengths)
        without = int((rows < 0).all(axis=1).sum())
        if without:
            why = self._why_nothing(int(((self.rows.lengths == 0) & ~np.bool_(popular)).sum()))
            warnings.warn(
                f"{without:,} of {count:,} users get no item: {why}",
                NothingLeft,
                stacklevel=depth_of_caller(),
            )
        return stock.answer(
            rows,
            scores,
            owners=list(range(count)) if self.names is None else self.names,
            popular=(self.rows.lengths == 0) & popular,
            many=self.many,
            whole_numbers=self.whole_numbers,
        )

    def _why_nothing(self, strangers: int) -> str:
        """Say what leaves users nothing; of ``strangers`` nothing at all is known."""
        if self.limits.allowed == 0:
            return "no item of allow is known, or it names none; name keys of the catalogue"
        if self.limits.allowed is not None:
            return (
                "nothing is left of allow for them without what is excluded, removed or in the "
                "history; allow more, or set exclude_seen to False"
            )
        if strangers:
            return "their histories are empty, and this run does not know what is popular"
        return (
            "nothing is left without what is excluded, removed or in the history; exclude less, "
            "or set exclude_seen to False"
        )


def _parts(order: Rows, lengths: Rows, batch_size: int | None, *, on_cpu: bool) -> list[Rows]:
    """Cut users who stand in the order of their histories' lengths into batches.

    The longest come first, so that memory runs out at once or not at all.
    """
    parts, end = [], len(order)
    while end > 0:
        size = batch_size or _MOST_USERS
        if batch_size is None and on_cpu:
            size = max(1, min(_MOST_USERS, _MOST_ITEMS_CPU // int(lengths[order[end - 1]])))
        parts.append(order[max(0, end - size) : end])
        end -= size
    return parts
