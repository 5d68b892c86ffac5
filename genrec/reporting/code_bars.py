"""What guessing the codes of a target costs: the bars that a model's levels stand beside.

Shape legend: N = items, L = levels, E = examples, P = pairs of neighbours in the training part.
A *state* is a prefix that exists, numbered from 0 at each length.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from genrec.decoding.trie import PrefixIndex

__all__ = ["CodePaths", "TrainingCounts", "bigram_nats", "uniform_nats"]

Items = npt.NDArray[np.int64]
Nats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class CodePaths:
    """The way of every item through the tree of codes.

    Attributes:
        states: State after each code, shape ``(N, L)``, int64.
    """

    states: Items

    @classmethod
    def of_index(cls, index: PrefixIndex) -> CodePaths:
        """Take the paths of a prefix index."""
        return cls(index.paths.states.cpu().numpy().astype(np.int64))

    @classmethod
    def of_items(cls, num_items: int) -> CodePaths:
        """Let every item be its own code, of one level: what a softmax over items chooses among."""
        return cls(np.arange(num_items)[:, None])

    @cached_property
    def parents(self) -> list[Items]:
        """For each level the state before each of its states."""
        before = np.zeros(len(self.states), dtype=np.int64)
        found = []
        for level in range(self.states.shape[1]):
            column = self.states[:, level]
            parents = np.zeros(int(column.max()) + 1, dtype=np.int64)
            parents[column] = before
            found.append(parents)
            before = column
        return found

    @cached_property
    def children(self) -> list[Items]:
        """For each level how many codes continue each state before it."""
        return [np.bincount(parents) for parents in self.parents]


@dataclass(frozen=True)
class TrainingCounts:
    """What the training part holds.

    Attributes:
        items: How often each item was taken, shape ``(N,)``.
        first: Items that have a next one, shape ``(P,)``.
        second: The next ones, shape ``(P,)``.
    """

    items: Items
    first: Items
    second: Items


def uniform_nats(paths: CodePaths, targets: Items) -> Nats:
    """Compute the cost of a uniform guess among the codes that continue the target's prefix.

    Args:
        paths: The tree.
        targets: Items, shape ``(E,)``.

    Returns:
        ``ln`` of the number of children, shape ``(E, L)``, in nats.
    """
    columns = [
        np.log(children[parents[paths.states[targets, level]]])
        for level, (parents, children) in enumerate(zip(paths.parents, paths.children, strict=True))
    ]
    return np.stack(columns, axis=1)


def bigram_nats(paths: CodePaths, seen: TrainingCounts, last: Items, targets: Items) -> Nats:
    """Compute the cost of a bigram of codes, counted in the training part.

    At each level the target's code is guessed from its prefix ``s`` and the state ``k`` of the
    newest item at the same level. Of all neighbours in the training part ``n(k, c)`` led from
    ``k`` to the child ``c`` of ``s``, ``n(k, s)`` to any of its children and ``t(k, s)`` to how
    many different ones; ``p(c)`` is the child's share of what was taken below ``s``, each child
    counted once more. The guess is ``(n(k, c) + t(k, s) p(c)) / (n(k, s) + t(k, s))``, and
    ``p(c)`` where nothing led from ``k`` to below ``s``.

    Args:
        paths: The tree.
        seen: The training part.
        last: Newest item of each history, shape ``(E,)``.
        targets: Items, shape ``(E,)``.

    Returns:
        Shape ``(E, L)``, in nats. The children of a prefix have probabilities that sum to one.

    Source:
        Witten and Bell 1991, method C, https://doi.org/10.1109/18.87000.
    """
    columns = []
    for level, (parents, children) in enumerate(zip(paths.parents, paths.children, strict=True)):
        states = paths.states[:, level]
        taken = np.bincount(states, weights=seen.items, minlength=len(parents))
        below = np.bincount(parents, weights=taken, minlength=len(children))
        goal = states[targets]
        prefix = parents[goal]
        backed_off = (taken[goal] + 1) / (below[prefix] + children[prefix])
        # Pairs of states as one number, each once, with its count.
        pairs, counts = np.unique(
            states[seen.first] * len(parents) + states[seen.second], return_counts=True
        )
        contexts = pairs // len(parents) * len(children) + parents[pairs % len(parents)]
        known, places = np.unique(contexts, return_inverse=True)
        total = np.bincount(places, weights=counts, minlength=len(known))
        kinds = np.bincount(places, minlength=len(known))
        n_child = _look_up(pairs, counts, states[last] * len(parents) + goal)
        context = states[last] * len(children) + prefix
        n_all, n_kinds = _look_up(known, total, context), _look_up(known, kinds, context)
        shared = (n_child + n_kinds * backed_off) / np.maximum(n_all + n_kinds, 1)
        columns.append(-np.log(np.where(n_all > 0, shared, backed_off)))
    return np.stack(columns, axis=1)


def _look_up(keys: Items, values: npt.NDArray[Any], wanted: Items) -> Nats:
    """Find the values of keys, which are sorted; 0 where there is none."""
    if len(keys) == 0:
        return np.zeros(len(wanted))
    at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[at] == wanted, values[at], 0).astype(np.float64)
