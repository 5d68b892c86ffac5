"""The contract of whatever recommends, and the rankers that only count.

Shape legend: B = users, S = history items, R = results, N = items, E = excluded items, F =
followers, C = candidates.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import pad

from genrec.data.prepared import PreparedDataset, StringArray
from genrec.data.schemas import Ranking, Rules
from genrec.data.splits import count_repeats
from genrec.decoding.legal import ItemSets

__all__ = [
    "MANY_REPEATS",
    "Cooccurrence",
    "OwnHistory",
    "Popularity",
    "Ranker",
    "SearchingRanker",
    "baselines",
    "in_training",
    "newest_items",
    "share_of_repeats",
    "training_counts",
    "training_pairs",
]

#: From this share of repeats on, they are worth a word, and a baseline of their own.
MANY_REPEATS = 0.05
#: On so many users they are counted.
_COUNTED_USERS = 100_000


class Ranker(Protocol):
    """Recommends items of one catalogue; all that evaluation and serving know of a model.

    Attributes:
        name: What tables call it.
        item_keys: The catalogue's own item ids, ``N``.
        num_items: Number of items ``N``.
        max_history: Most history items that it takes, >= 1.
        device: Where it expects tensors.
        groups: Equal for items that it cannot tell apart by their codes before repair, shape
            ``(N,)``, int64; None where it knows no codes.
    """

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def item_keys(self) -> StringArray: ...  # noqa: D102
    @property
    def num_items(self) -> int: ...  # noqa: D102
    @property
    def max_history(self) -> int: ...  # noqa: D102
    @property
    def device(self) -> torch.device: ...  # noqa: D102
    @property
    def groups(self) -> npt.NDArray[np.int64] | None: ...  # noqa: D102

    def rank(
        self,
        history: Tensor,
        k: int,
        *,
        users: Tensor | None = None,
        rules: Rules | None = None,
    ) -> Ranking:
        """Find the best next items; may be called from several threads at once.

        The order of a user's items is total, and does not depend on the users beside: rules
        leave items out and move no other ones, and a longer list begins with the shorter one.
        (Of a :class:`SearchingRanker` both are true only with enough beams.)

        Args:
            history: Rows of the catalogue, oldest first, shape ``(B, S)``, int64, S at most
                ``max_history``; -1 for padding, at the end. Each user has at least one item.
            k: Items for each user ``R``, >= 1; may be more than ``N``.
            users: Hashed user keys, shape ``(B,)``, int64, from
                :func:`~genrec.data.sequence_dataset.hash_users`; only models with user tokens
                need them.
            rules: What may be recommended; everything when None.

        Returns:
            Shape ``(B, R)``, always.
        """
        ...


@runtime_checkable
class SearchingRanker(Protocol):
    """What a ranker has beyond the contract if it searches with beams: it may miss items."""

    @property
    def num_beams(self) -> int: ...  # noqa: D102

    def with_beams(self, num_beams: int) -> Ranker:
        """Return the same ranker with another number of beams, >= 1."""
        ...


@dataclass(frozen=True)
class _Popular:
    """What is popular, for all that ranks by it in the end.

    Attributes:
        order: The items, most frequent first, ties to the lower row, shape ``(N,)``, int64.
        places: Place of each item there, shape ``(N,)``, int64.
        share: How often each was taken, below one of the most frequent, shape ``(N,)``, float32.
    """

    order: Tensor
    places: Tensor
    share: Tensor

    @classmethod
    def of(cls, counts: npt.NDArray[np.integer], device: torch.device) -> _Popular:
        order = np.argsort(-counts.astype(np.int64), kind="stable")
        places = np.empty_like(order)
        places[order] = np.arange(len(order))
        share = (counts / (counts.max(initial=0) + 1)).astype(np.float32)
        return cls(*(torch.from_numpy(array).to(device) for array in (order, places, share)))

    def first(self, items: Tensor) -> Tensor:
        """Put each user's items, ``(B, C)``, in this order."""
        return items.gather(1, self.places[items].argsort(dim=1))


def _best_first(items: Tensor, scores: Tensor) -> Tensor:
    """Put each user's items in the order of their scores, both ``(B, C)``; ties stay."""
    return items.gather(1, scores.argsort(dim=1, descending=True, stable=True))


class Popularity:
    """Recommends the items that are most frequent in the training part, to everybody.

    Args:
        item_keys: The catalogue's own item ids, ``N``.
        counts: How often each item was taken, shape ``(N,)``; ties go to the lower row.
        device: Where the results live.
    """

    name = "popularity"
    max_history = sys.maxsize
    groups = None

    def __init__(
        self,
        item_keys: StringArray,
        counts: npt.NDArray[np.integer],
        *,
        device: torch.device | str = "cpu",
    ) -> None:
        self.item_keys, self.num_items = item_keys, len(item_keys)
        self.device = torch.device(device)
        self._popular = _Popular.of(counts, self.device)
        self._counts = torch.from_numpy(counts.astype(np.float32)).to(self.device)

    @classmethod
    def fit(cls, data: PreparedDataset, *, device: torch.device | str = "cpu") -> Popularity:
        """Count the training part of a data set."""
        return cls(data.item_keys, training_counts(data), device=device)

    def rank(
        self, history: Tensor, k: int, *, users: Tensor | None = None, rules: Rules | None = None
    ) -> Ranking:
        """Recommend what is popular; see :meth:`Ranker.rank`."""
        rules = rules or Rules()
        if rules.allow is None:
            none = history.new_empty(len(history), 0)
            candidates = _candidates(none, self._popular.order, k, rules)
        else:
            candidates = self._popular.first(rules.allow)
        items = _first(candidates, k, rules, self.num_items)
        return Ranking(items, self._counts[items].masked_fill(items < 0, -torch.inf))


class Cooccurrence:
    """Recommends what most often came right after the user's newest item, then what is popular.

    Args:
        item_keys: The catalogue's own item ids, ``N``.
        pairs: ``item * N + next item``, each pair once, sorted, int64.
        pair_counts: How often each pair was seen, >= 1.
        counts: How often each item was taken, shape ``(N,)``.
        device: Where the results live.
    """

    name = "co-occurrence"
    max_history = sys.maxsize
    groups = None

    def __init__(
        self,
        item_keys: StringArray,
        pairs: npt.NDArray[np.int64],
        pair_counts: npt.NDArray[np.integer],
        counts: npt.NDArray[np.integer],
        *,
        device: torch.device | str = "cpu",
    ) -> None:
        self.item_keys, self.num_items = item_keys, len(item_keys)
        self.device = torch.device(device)
        self._popular = _Popular.of(counts, self.device)
        places = self._popular.places.numpy(force=True)
        source, follower = pairs // max(self.num_items, 1), pairs % max(self.num_items, 1)
        best_first = np.lexsort((places[follower], -pair_counts, source))
        # Where each item's followers begin, and the end: source stays sorted in best_first.
        starts = np.searchsorted(source, np.arange(self.num_items + 1))
        arrays = (pairs, pair_counts.astype(np.int64), starts)
        self._pairs, self._pair_counts, self._starts = (
            torch.from_numpy(np.ascontiguousarray(array)).to(self.device) for array in arrays
        )
        self._followers = torch.from_numpy(follower[best_first]).to(self.device)

    @classmethod
    def fit(cls, data: PreparedDataset, *, device: torch.device | str = "cpu") -> Cooccurrence:
        """Count the training part of a data set."""
        first, second = training_pairs(data)
        keys, counts = np.unique(first * data.num_items + second, return_counts=True)
        return cls(data.item_keys, keys, counts, training_counts(data), device=device)

    def rank(
        self, history: Tensor, k: int, *, users: Tensor | None = None, rules: Rules | None = None
    ) -> Ranking:
        """Recommend what followed the newest item; see :meth:`Ranker.rank`."""
        rules = rules or Rules()
        last = newest_items(history)
        if rules.allow is None:
            candidates = _candidates(self._after(last, k, rules), self._popular.order, k, rules)
        else:
            allowed = self._popular.first(rules.allow)
            candidates = _best_first(allowed, self._count(last, allowed))
        items = _first(candidates, k, rules, self.num_items)
        scores = self._count(last, items) + self._popular.share[items]
        return Ranking(items, scores.masked_fill(items < 0, -torch.inf))

    def _after(self, last: Tensor, k: int, rules: Rules) -> Tensor:
        """List the followers of items, best first, ``(B, F)``; -1 where there are no more."""
        begin, end = self._starts[last].unsqueeze(1), self._starts[last + 1].unsqueeze(1)
        width = int((end - begin).max())
        if rules.mask is None:  # at most the excluded ones are lost, so these are enough
            width = min(width, k + _num_excluded(rules))
        at = begin + torch.arange(width, device=self.device)  # (B, F)
        return pad(self._followers, (0, 1))[at.where(at < end, 0)].where(at < end, -1)

    def _count(self, last: Tensor, items: Tensor) -> Tensor:
        """Count how often items, ``(B, C)``, came right after others, ``(B,)``."""
        if len(self._pairs) == 0:
            return torch.zeros_like(items)
        wanted = last.unsqueeze(1) * self.num_items + items
        at = torch.searchsorted(self._pairs, wanted).clamp(max=len(self._pairs) - 1)
        return torch.where(self._pairs[at] == wanted, self._pair_counts[at], 0)


class OwnHistory:
    """Recommends what the user has had most often, of equals the newest, then what is popular.

    Where people come back to items this is hard to beat, as long as the history is not hidden.

    Args:
        item_keys: The catalogue's own item ids, ``N``.
        counts: How often each item was taken, shape ``(N,)``.
        device: Where the results live.
    """

    name = "own history"
    max_history = sys.maxsize
    groups = None

    def __init__(
        self,
        item_keys: StringArray,
        counts: npt.NDArray[np.integer],
        *,
        device: torch.device | str = "cpu",
    ) -> None:
        self.item_keys, self.num_items = item_keys, len(item_keys)
        self.device = torch.device(device)
        self._popular = _Popular.of(counts, self.device)

    @classmethod
    def fit(cls, data: PreparedDataset, *, device: torch.device | str = "cpu") -> OwnHistory:
        """Count the training part of a data set."""
        return cls(data.item_keys, training_counts(data), device=device)

    def rank(
        self, history: Tensor, k: int, *, users: Tensor | None = None, rules: Rules | None = None
    ) -> Ranking:
        """Recommend what the history holds; see :meth:`Ranker.rank`."""
        rules = rules or Rules()
        if rules.allow is None:
            own = _best_first(history, self._own(history, history))
            candidates = _candidates(own, self._popular.order, k, rules)
        else:
            allowed = self._popular.first(rules.allow)
            candidates = _best_first(allowed, self._own(history, allowed))
        items = _first(candidates, k, rules, self.num_items)
        counts = self._own(history, items)
        scores = torch.where(counts > 0, counts, self._popular.share[items])
        return Ranking(items, scores.masked_fill(items < 0, -torch.inf))

    def _own(self, history: Tensor, items: Tensor) -> Tensor:
        """Count items ``(B, C)`` in histories ``(B, S)``; of equal counts the newest is more."""
        same = (items.unsqueeze(2) == history.unsqueeze(1)) & (items >= 0).unsqueeze(2)
        places = torch.arange(history.shape[1], device=history.device)
        newest = (same * (places + 1)).amax(dim=2)
        return same.sum(dim=2) + newest / (history.shape[1] + 2)


def baselines(
    data: PreparedDataset, *, device: torch.device | str = "cpu"
) -> dict[str, Popularity | Cooccurrence | OwnHistory]:
    """Fit the rankers that every table shows for comparison, by name.

    That of the user's own items is among them where one in twenty interactions is a repeat.
    """
    fitted: list[Popularity | Cooccurrence | OwnHistory] = [
        Popularity.fit(data, device=device),
        Cooccurrence.fit(data, device=device),
    ]
    if share_of_repeats(data) > MANY_REPEATS:
        fitted.append(OwnHistory.fit(data, device=device))
    return {ranker.name: ranker for ranker in fitted}


def share_of_repeats(data: PreparedDataset) -> float:
    """Say how much of the training part users had before, of the first 100,000 users, 0 to 1."""
    users = min(data.num_users, _COUNTED_USERS)
    offsets, ends = data.sequence_offsets[: users + 1], data.train_ends[:users]
    repeats, chances = count_repeats(data.sequence_items, offsets, ends)
    return repeats / max(1, chances)


def newest_items(history: Tensor) -> Tensor:
    """Return the newest item of each history ``(B, S)``, shape ``(B,)``, int64."""
    last = (history >= 0).sum(dim=1, keepdim=True) - 1
    return history.gather(1, last).squeeze(1)


def training_pairs(data: PreparedDataset) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """List what came right after what in the training part: items, and the next ones."""
    items = np.asarray(data.sequence_items, dtype=np.int64)
    inside = in_training(data)
    pair = inside[1:] & inside[:-1]
    starts = np.asarray(data.sequence_offsets[1:-1])  # no pair spans two users
    pair[starts[(starts > 0) & (starts < len(items))] - 1] = False
    return items[:-1][pair], items[1:][pair]


def in_training(data: PreparedDataset) -> npt.NDArray[np.bool_]:
    """Mark the interactions of the training part, shape ``(interactions,)``."""
    step = np.zeros(data.num_interactions + 1, dtype=np.int64)
    np.add.at(step, np.asarray(data.sequence_offsets[:-1]), 1)
    np.add.at(step, np.asarray(data.train_ends), -1)
    return np.cumsum(step[:-1]) > 0


def training_counts(data: PreparedDataset) -> npt.NDArray[np.int64]:
    """Count each item in the training part, shape ``(N,)``."""
    items = np.asarray(data.sequence_items)[in_training(data)]
    return np.bincount(items, minlength=data.num_items)


def _num_excluded(rules: Rules) -> int:
    return 0 if rules.exclude is None else rules.exclude.shape[1]


def _candidates(best: Tensor, popular: Tensor, k: int, rules: Rules) -> Tensor:
    """Append to each user's best items, ``(B, F)``, as many popular ones as can be needed."""
    if rules.mask is not None:
        popular = popular[rules.mask[popular]]
    fill = popular[: k + _num_excluded(rules) + best.shape[1]]
    return torch.cat([best, fill.expand(len(best), -1)], dim=1)


def _first(candidates: Tensor, k: int, rules: Rules, num_items: int) -> Tensor:
    """Keep the first ``k`` candidates that the rules let pass, each once, shape ``(B, k)``."""
    by_item, order = candidates.sort(dim=1, stable=True)
    # Of equal items the stable sort keeps the foremost in front; those behind it go.
    repeated = pad(by_item[:, 1:] == by_item[:, :-1], (1, 0))[:, : candidates.shape[1]]
    drop = (candidates < 0) | torch.zeros_like(repeated).scatter(1, order, repeated)
    safe = candidates.clamp(min=0)
    if rules.mask is not None:
        drop |= ~rules.mask[safe]
    if rules.exclude is not None:
        drop |= ItemSets(rules.exclude, num_items).contains(safe)
    kept = drop.long().argsort(dim=1, stable=True)[:, :k]
    items = candidates.gather(1, kept).masked_fill(drop.gather(1, kept), -1)
    return pad(items, (0, k - items.shape[1]), value=-1)
