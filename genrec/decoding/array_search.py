"""Constrained beam search in numpy; the same search as :mod:`genrec.decoding.beam_search`.

Shape legend: B = users, W = beams, C = widest fan-out of a level, L = levels, R = results, N =
items, P = numbers that a decoded position leaves.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from genrec.decoding.array_index import ArrayIndex, Restriction

__all__ = ["ArrayRules", "array_search", "best_first", "top_items"]

Floats = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]
#: (level, what the graph of the level takes by name) -> (log-probabilities, what it leaves)
StepFn = Callable[[int, dict[str, npt.NDArray[Any]]], tuple[Floats, Floats | None]]

_DEAD = np.iinfo(np.int64).min


@dataclass(frozen=True)
class ArrayRules:
    """What may be recommended; see :class:`~genrec.data.schemas.Rules`."""

    exclude: Rows | None = None
    allow: Rows | None = None
    mask: npt.NDArray[np.bool_] | None = None

    def restrict(self, index: ArrayIndex) -> Restriction | None:
        """Turn the rules into a restriction of the search."""
        if self.allow is not None:
            # One list of what is left: two restrictions could keep a prefix alive below which
            # each allows an item, but never the same one, and the beam would be wasted.
            drop = np.zeros(self.allow.shape, dtype=bool)
            if self.exclude is not None:
                drop |= (self.allow[:, :, None] == self.exclude[:, None]).any(axis=2)
            if self.mask is not None:
                drop |= ~self.mask[self.allow]
            return index.allow_per_user(np.where(drop, -1, self.allow))
        parts = []
        if self.mask is not None:
            parts.append(index.allow(self.mask))
        if self.exclude is not None:
            parts.append(index.exclude_per_user(self.exclude))
        return None if not parts else parts[0] if len(parts) == 1 else parts[0] & parts[1]


def array_search(
    step_fn: StepFn,
    index: ArrayIndex,
    *,
    batch_size: int,
    num_beams: int,
    num_results: int,
    legal: Restriction | None,
) -> tuple[Rows, Floats]:
    """Find the existing semantic IDs to which a model gives the highest probability.

    Equal scores are ordered by the ID, lexicographically.

    Args:
        step_fn: Given a level and by name ``children``, ``legal`` and, from level 1 on, ``states``
            and ``past``, as in :class:`~genrec.models.graphs.Graphs`.
        index: The catalogue.
        batch_size: Number of users ``B``, >= 1.
        num_beams: Most prefixes kept for a user, >= 1.
        num_results: Items returned for a user, >= 1.
        legal: Restriction on items, or None.

    Returns:
        Items and the scores of their IDs, both ``(B, R)``, best first; -1 and ``-inf`` where
        there is none.
    """
    states = np.zeros((batch_size, 1), dtype=np.int32)
    scores = np.zeros((batch_size, 1), dtype=np.float32)
    past: Floats | None = None
    for level in range(index.num_levels):
        children, exists = index.step(states, level)
        given: dict[str, npt.NDArray[Any]] = {"children": children, "legal": exists}
        if past is not None:
            given |= {"states": np.maximum(states, 0), "past": past}
        log_probs, present = step_fn(level, given)
        allowed = exists if legal is None else exists & legal.states(children, level + 1)
        candidates = scores[..., None] + log_probs
        width = min(num_beams, index.num_states[level + 1])
        chosen, alive = _top(candidates, children, allowed, width)
        parents = np.where(alive, chosen // children.shape[-1], 0)
        states = np.where(alive, np.take_along_axis(_flat(children), chosen, 1), -1)
        scores = np.where(alive, np.take_along_axis(_flat(candidates), chosen, 1), -np.inf)
        scores = scores.astype(np.float32, copy=False)
        if present is not None:  # each beam goes on with what its parent left
            left = present[:, :, None]
            left = left if past is None else np.concatenate([past, left], axis=2)
            past = left[np.arange(batch_size)[:, None], parents]
    items, beams = index.items(states, num_results, legal)
    found = np.take_along_axis(scores, np.maximum(beams, 0), 1)
    return items, np.where(beams < 0, np.float32(-np.inf), found)


def best_first(items: Rows, scores: Floats, num_results: int) -> tuple[Rows, Floats]:
    """Sort results, ``(B, R)``, by scores, equal ones as they were, and keep the first."""
    scores = np.where(items < 0, np.float32(-np.inf), scores)
    order = np.argsort(-scores, axis=1, kind="stable")[:, :num_results]
    return np.take_along_axis(items, order, 1), np.take_along_axis(scores, order, 1)


def top_items(scores: Floats, k: int, rules: ArrayRules) -> tuple[Rows, Floats]:
    """Pick each user's best items among those that the rules let pass.

    Args:
        scores: Of all items, shape ``(B, N)``; ``-inf`` is never picked.
        k: Items for each user ``R``, at most ``N``.
        rules: What may be recommended.

    Returns:
        Items and scores, both ``(B, R)``; of equal scores the lower row comes first, and -1 and
        ``-inf`` stand where there is none.
    """
    batch, num_items = scores.shape
    users, drop = np.arange(batch)[:, None], np.zeros((batch, num_items + 1), dtype=bool)
    if rules.allow is not None:  # padding lands in the spare last column
        drop[:] = True
        drop[users, rules.allow] = False
    if rules.exclude is not None:
        drop[users, rules.exclude] = True
    drop = drop[:, :-1]
    if rules.mask is not None:
        drop |= ~rules.mask
    rows = np.broadcast_to(np.arange(num_items, dtype=np.int32), scores.shape)
    chosen, alive = _top(scores, rows, ~drop & (scores > -np.inf), k)
    found = np.take_along_axis(scores, chosen, 1)
    return np.where(alive, chosen, -1), np.where(alive, found, np.float32(-np.inf))


def _top(
    scores: Floats, numbers: npt.NDArray[np.int32], allowed: npt.NDArray[np.bool_], width: int
) -> tuple[Rows, npt.NDArray[np.bool_]]:
    """Pick the ``width`` best of each user, ties to the lowest number.

    One integer holds score and number, so that the order is total and one selection finds it.
    Returns flat positions and whether each is there, both ``(B, width)``.
    """
    bits = (scores.astype(np.float32, copy=False) + np.float32(0)).view(np.int32)  # no -0.0
    rising = (bits ^ ((bits >> 31) & 0x7FFFFFFF)).astype(np.int64)  # same order as the floats
    key = _flat(np.where(allowed, (rising << 32) | (0x7FFFFFFF - numbers), _DEAD))
    if (missing := width - key.shape[1]) > 0:
        key = np.pad(key, ((0, 0), (0, missing)), constant_values=_DEAD)
    chosen = np.argpartition(key, key.shape[1] - width, axis=1)[:, key.shape[1] - width :]
    best = np.take_along_axis(key, chosen, 1)
    order = np.argsort(best, axis=1)[:, ::-1]
    chosen = np.take_along_axis(chosen, order, 1)
    alive = np.take_along_axis(best, order, 1) != _DEAD
    return np.where(alive, chosen, 0), alive


def _flat(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """View ``(B, ...)`` as ``(B, numbers)``."""
    return array.reshape(len(array), -1)
