"""Many requests, one search: array calls over all their users, each with rules of its own.

Shape legend: B = users of a request, S = history items, K = results, L = levels, E = width of item
vectors.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from genrec.errors import GenRecError
from genrec.rankers import SearchingRanker
from genrec.serving.http.nearest import nearest_of
from genrec.serving.keys import Key, KeyLists, Lists, given_as_numbers
from genrec.serving.ranking import rank_all
from genrec.serving.request import Request
from genrec.serving.shelf import Shelf, Users
from genrec.serving.stock import Limits, Unknown

__all__ = ["Answer", "Query", "answer_all"]

Rows = npt.NDArray[np.int64]

_NOTHING = np.empty(0, dtype=np.int64)


@dataclass(frozen=True, kw_only=True)
class Query:
    """A request for recommendations; histories or users, or both.

    Attributes:
        histories: Item keys of each of ``B`` users, oldest first; None takes the data set's.
        users: The users' own ids, ``B``.
        k: Items for each user, >= 1.
        exclude_seen: Leave out the items of the histories.
        exclude: Items to leave out.
        allow: The only items to choose from; None for all.
        on_unknown: ``raise`` or ``ignore``.
        explain: Whether the answer shall say why.
    """

    histories: Sequence[Sequence[Key]] | None = None
    users: Sequence[Key] | None = None
    k: int = 10
    exclude_seen: bool = True
    exclude: Sequence[Key] = ()
    allow: Sequence[Key] | None = None
    on_unknown: str = "ignore"
    explain: bool = False

    @property
    def num_users(self) -> int:
        """Number of users ``B``."""
        return len(self.histories if self.histories is not None else self.users or ())


@dataclass(frozen=True)
class Answer:
    """What was found for a request.

    Attributes:
        query: The request.
        shelf: The items that it was found among.
        histories: Rows of the known items of each history.
        rows: Rows of the catalogue, best first, shape ``(B, K)``; -1 where there are fewer.
        scores: Shape ``(B, K)``, float32.
    """

    query: Query
    shelf: Shelf
    histories: Lists
    rows: Rows
    scores: npt.NDArray[np.float32]

    def to_json(self) -> list[dict[str, Any]]:
        """Write one JSON object a user."""
        query = self.query
        lengths = self.histories.lengths.tolist()
        names = query.users if query.users is not None else [None] * query.num_users
        counts = (self.rows >= 0).sum(axis=1).tolist()  # those found stand before all -1
        whole = _whole_numbers(query) and self.shelf.plain_keys
        found = self.rows[self.rows >= 0]
        keys = [_written(key, whole) for key in self.shelf.catalogue.item_keys.take(found)]
        titles = self.shelf.catalogue.item_titles.take(found)
        results, begin = [], 0
        for place, name in enumerate(names):
            end = begin + counts[place]
            scores = self.scores[place].tolist()
            items: list[dict[str, Any]] = [
                {"item": key, "title": title, "score": score, "rank": rank}
                for rank, (key, title, score) in enumerate(
                    zip(keys[begin:end], titles[begin:end], scores[: counts[place]], strict=True), 1
                )
            ]
            if query.explain:
                self._explain(place, found[begin:end], items, whole)
            results.append(
                {
                    "user": name,
                    "popular": lengths[place] == 0 and self.shelf.popular is not None,
                    "unknown": self._unknown(place, lengths[place]),
                    "items": items,
                }
            )
            begin = end
        return results

    def _unknown(self, place: int, known: int) -> list[Key]:
        """List the keys of a given history that were left out, or a user without any."""
        given = self.query.histories
        if given is None:
            return [] if known else [(self.query.users or ())[place]]
        if len(given[place]) == known:
            return []
        rows = self.shelf.row_of
        return list(dict.fromkeys(key for key in given[place] if str(key) not in rows))

    def unknown_rules(self) -> list[Key]:
        """List the keys of ``allow`` and ``exclude`` that no item has."""
        named = (*(self.query.allow or ()), *self.query.exclude)
        rows = self.shelf.row_of
        return list(dict.fromkeys(key for key in named if str(key) not in rows))

    def _explain(self, place: int, chosen: Rows, items: list[dict[str, Any]], whole: bool) -> None:
        """Add the codes of each result, and the item of the history that it is most like."""
        codes = self.shelf.codes
        keys, titles = self.shelf.catalogue.item_keys, self.shelf.catalogue.item_titles
        begin, end = self.histories.offsets[place : place + 2]
        had = self.histories.rows[begin:end]
        written = [None] * len(chosen) if codes is None else codes[chosen].tolist()
        found = nearest_of(self.shelf, chosen, had)
        whys: list[dict[str, Any] | None] = [None] * len(chosen)
        if found is not None:
            near, shared = found
            whys = [
                {
                    "nearest": {"item": _written(keys[row], whole), "title": titles[row]},
                    "shared_prefix": length,
                }
                for row, length in zip(near.tolist(), shared, strict=True)
            ]
        for item, code, why in zip(items, written, whys, strict=True):
            item |= {"codes": code, "why": why}


def answer_all(shelf: Shelf, users: Users, queries: Sequence[Query]) -> list[Answer | Exception]:
    """Answer many requests with as few searches as give each the same as alone.

    Those share a search that use the same number of beams, since more beams may find other
    items; that have a list of allowed items, or none; and that name users, or none.

    Args:
        shelf: The items.
        users: Those who may be named.
        queries: The requests.

    Returns:
        For each an answer, or the error that its user shall see.
    """
    answers: list[Answer | Exception | None] = [None] * len(queries)
    groups: dict[tuple[int, bool, bool], list[tuple[int, _Resolved]]] = {}
    ranker = shelf.ranker
    num_beams = ranker.num_beams if isinstance(ranker, SearchingRanker) else None
    known = _known_histories(shelf, queries)
    for place, query in enumerate(queries):
        try:
            resolved = _Resolved.of(query, shelf, users, num_beams, known.get(place))
        except GenRecError as error:
            answers[place] = error
            continue
        groups.setdefault(resolved.group, []).append((place, resolved))
    for members in groups.values():
        asked = [resolved for _, resolved in members]
        found: Sequence[Answer | Exception]
        try:
            found = _search(shelf, asked)
        except GenRecError as error:
            found = [error] * len(asked)
        for (place, _), answer in zip(members, found, strict=True):
            answers[place] = answer
    return [answer for answer in answers if answer is not None]


@dataclass(frozen=True)
class _Resolved:
    """A request in rows of the catalogue."""

    query: Query
    k: int
    histories: Lists
    exclude: Rows
    allow: Rows | None
    group: tuple[int, bool, bool]

    @classmethod
    def of(
        cls,
        query: Query,
        shelf: Shelf,
        users: Users,
        num_beams: int | None,
        histories: Lists | None = None,
    ) -> _Resolved:
        """Look up what a request names; ``histories`` are its own where that is done already."""
        unknown = Unknown(query.on_unknown)
        if histories is None and query.histories is not None:
            histories = _look_up(shelf, query.histories, "histories", unknown)
        elif histories is None:
            histories = users.histories(list(query.users or ()), shelf, unknown)
        k = min(query.k, shelf.catalogue.num_items)
        beams = 0 if num_beams is None else max(k, num_beams)
        allow = None
        if query.allow is not None:
            allow = _look_up(shelf, [query.allow], "allow", unknown).rows
        exclude = _NOTHING
        if query.exclude:
            exclude = _look_up(shelf, [query.exclude], "exclude", unknown).rows
        group = (beams, allow is not None, query.users is not None)
        return cls(query, k, histories, exclude, allow, group)

    def dropped(self) -> Lists:
        """List what each user shall not get."""
        if self.query.exclude_seen and len(self.exclude) == 0:
            return self.histories
        lengths = self.histories.lengths
        if not self.query.exclude_seen:
            return _repeated(self.exclude, len(lengths))
        offsets = self.histories.offsets
        seen = (self.histories.rows[a:b] for a, b in itertools.pairwise(offsets))
        rows = [part for had in seen for part in (had, self.exclude)]
        steps = np.arange(len(lengths) + 1) * len(self.exclude)
        return Lists(np.concatenate(rows), offsets + steps)


def _look_up(shelf: Shelf, lists: Sequence[Sequence[Key]], what: str, unknown: Unknown) -> Lists:
    """Find the rows of lists of keys."""
    flat = [key for keys in lists for key in keys]
    offsets = np.cumsum([0, *map(len, lists)], dtype=np.int64)
    return shelf.look_up(KeyLists(flat, offsets, True), what, unknown)


def _known_histories(shelf: Shelf, queries: Sequence[Query]) -> dict[int, Lists]:
    """Find, at once, the histories of requests that ignore what is not known, by their places.

    The others are looked up one by one: each may be refused for a key of its own.
    """
    given = {
        place: query.histories
        for place, query in enumerate(queries)
        if query.histories is not None and query.on_unknown == "ignore"
    }
    lists = [keys for histories in given.values() for keys in histories]
    whole = _look_up(shelf, lists, "histories", Unknown("ignore"))
    bounds, begin, found = whole.offsets.tolist(), 0, {}
    for place, histories in given.items():
        end = begin + len(histories)
        rows = whole.rows[bounds[begin] : bounds[end]]
        found[place] = Lists(rows, whole.offsets[begin : end + 1] - bounds[begin])
        begin = end
    return found


def _search(shelf: Shelf, asked: list[_Resolved]) -> list[Answer]:
    """Answer requests that may share a search."""
    k = max(one.k for one in asked)
    histories = _joined([one.histories for one in asked])
    drops = [one.dropped() for one in asked]
    drop = histories
    if any(each is not one.histories for each, one in zip(drops, asked, strict=True)):
        drop = _joined(drops)
    allow = None
    if asked[0].allow is not None:
        allow = _joined([_repeated(one.allow, one.query.num_users) for one in asked])
    names = None
    if asked[0].query.users is not None:
        names = [name for one in asked for name in one.query.users or ()]
    request = Request(histories, k, Limits(None, allow, drop), None, names, True, False)
    rows, scores = rank_all(shelf.ranker, shelf.popular, request, shelf.mask, None)
    answers, begin = [], 0
    for one in asked:
        end = begin + one.query.num_users
        of_one = (slice(begin, end), slice(one.k))
        answers.append(Answer(one.query, shelf, one.histories, rows[of_one], scores[of_one]))
        begin = end
    return answers


def _joined(lists: list[Lists]) -> Lists:
    """Put lists of several requests one after the other."""
    lengths = np.concatenate([each.lengths for each in lists])
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    return Lists(np.concatenate([each.rows for each in lists]), offsets)


def _repeated(rows: Rows | None, count: int) -> Lists:
    """Give the same list to some users."""
    assert rows is not None
    return Lists(np.tile(rows, count), np.arange(count + 1) * len(rows))


def _whole_numbers(query: Query) -> bool:
    """Whether a request writes keys as whole numbers, as its answer then does too."""
    histories = [key for keys in query.histories or () for key in keys]
    return given_as_numbers(histories, query.users or (), query.allow or (), query.exclude)


def _written(key: str, whole: bool) -> Key:
    """Write a key as a whole number where its reader takes one, of 64 bits at most."""
    return int(key) if whole and len(key) <= 18 else key
