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
import torch

from genrec.errors import GenRecError
from genrec.rankers import SearchingRanker
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
        keys, titles = self.shelf.catalogue.item_keys, self.shelf.catalogue.item_titles
        query, ends = self.query, self.histories.offsets.tolist()
        names = query.users if query.users is not None else [None] * query.num_users
        whole = _whole_numbers(query) and self.shelf.plain_keys
        results = []
        everybody = zip(names, self.rows.tolist(), self.scores.tolist(), strict=True)
        for place, (name, rows, scores) in enumerate(everybody):
            items: list[dict[str, Any]] = []
            for rank, (row, score) in enumerate(zip(rows, scores, strict=True), start=1):
                if row < 0:
                    break
                key = _written(keys[row], whole)
                items.append({"item": key, "title": titles[row], "score": score, "rank": rank})
            if query.explain:
                self._explain(place, rows[: len(items)], items, whole)
            length = ends[place + 1] - ends[place]
            popular = length == 0 and self.shelf.popular is not None
            results.append(
                {
                    "user": name,
                    "popular": popular,
                    "unknown": self._unknown(place, length),
                    "items": items,
                }
            )
        return results

    def _unknown(self, place: int, known: int) -> list[Key]:
        """List the keys of a given history that were left out."""
        given = self.query.histories
        if given is None or len(given[place]) == known:
            return []
        rows = self.shelf.row_of
        return list(dict.fromkeys(key for key in given[place] if str(key) not in rows))

    def _explain(
        self, place: int, rows: list[int], items: list[dict[str, Any]], whole: bool
    ) -> None:
        """Add the codes of each result, and the item of the history that it is most like."""
        codes = self.shelf.codes
        keys, titles = self.shelf.catalogue.item_keys, self.shelf.catalogue.item_titles
        begin, end = self.histories.offsets[place : place + 2]
        had = self.histories.rows[begin:end]
        chosen = np.array(rows, dtype=np.int64)
        written = [None] * len(rows) if codes is None else codes[chosen].tolist()
        found = _nearest(self.shelf, chosen, had)
        whys: list[dict[str, Any] | None] = [None] * len(rows)
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
    for place, query in enumerate(queries):
        try:
            resolved = _Resolved.of(query, shelf, users, num_beams)
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
    def of(cls, query: Query, shelf: Shelf, users: Users, num_beams: int | None) -> _Resolved:
        unknown = Unknown(query.on_unknown)

        def rows_of(lists: Sequence[Sequence[Key]], what: str) -> Lists:
            flat = [key for keys in lists for key in keys]
            offsets = np.cumsum([0, *map(len, lists)], dtype=np.int64)
            return shelf.look_up(KeyLists(flat, offsets, True), what, unknown)

        if query.histories is not None:
            histories = rows_of(query.histories, "histories")
        else:
            histories = users.histories(list(query.users or ()), shelf, unknown)
        k = min(query.k, shelf.catalogue.num_items)
        beams = 0 if num_beams is None else max(k, num_beams)
        allow = None if query.allow is None else rows_of([query.allow], "allow").rows
        exclude = rows_of([query.exclude], "exclude").rows if query.exclude else _NOTHING
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


def _search(shelf: Shelf, asked: list[_Resolved]) -> list[Answer]:
    """Answer requests that may share a search."""
    k = max(one.k for one in asked)
    histories = _joined([one.histories for one in asked])
    drop = _joined([one.dropped() for one in asked])
    allow = None
    if asked[0].allow is not None:
        allow = _joined([_repeated(one.allow, len(one.histories.lengths)) for one in asked])
    names = None
    if asked[0].query.users is not None:
        names = [name for one in asked for name in one.query.users or ()]
    request = Request(histories, k, Limits(None, allow, drop), None, names, True, False)
    rows, scores = rank_all(shelf.ranker, shelf.popular, request, shelf.mask, None)
    answers, begin = [], 0
    for one in asked:
        end = begin + len(one.histories.lengths)
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


def _nearest(shelf: Shelf, rows: Rows, had: Rows) -> tuple[Rows, list[int | None]] | None:
    """Find of each result the likest item of a history, and how many codes they share.

    The longest shared prefix wins, then the nearest vector, then the newest item.

    Returns:
        Rows of the history and numbers of shared codes (None without IDs), ``K`` of each; None
        where there is nothing to compare.
    """
    if len(rows) == 0 or len(had) == 0 or (shelf.codes is None and shelf.vectors is None):
        return None
    newest = had[::-1].copy()
    like = torch.zeros(len(rows), len(newest))
    shared = torch.zeros(len(rows), len(newest), dtype=torch.long)
    if shelf.vectors is not None:
        like = 1 / (1 + torch.cdist(shelf.vectors[rows], shelf.vectors[newest]))  # below 1 code
    if shelf.codes is not None:
        same = shelf.codes[rows][:, None] == shelf.codes[newest][None]  # (K, S, L)
        shared = same.long().cumprod(dim=2).sum(dim=2)
    best = (like + shared).argmax(dim=1)  # the first of equal ones, which is the newest
    counted: list[int | None] = [None] * len(rows)
    if shelf.codes is not None:
        counted = shared.gather(1, best[:, None])[:, 0].tolist()
    return newest[best.numpy()], counted


def _whole_numbers(query: Query) -> bool:
    """Whether a request writes keys as whole numbers, as its answer then does too."""
    histories = [key for keys in query.histories or () for key in keys]
    return given_as_numbers(histories, query.users or (), query.allow or (), query.exclude)


def _written(key: str, whole: bool) -> Key:
    """Write a key as a whole number where its reader takes one, of 64 bits at most."""
    return int(key) if whole and len(key) <= 18 else key
