"""The prefix index and restrictions on it in numpy, for where there is no torch.

Shape legend: N = items, L = levels, B = users, W = beams, C = widest fan-out of a level, E = listed
items of a user, R = results. States, leaves and tables as in :mod:`genrec.decoding.trie`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["ArrayIndex", "Restriction"]

Integers = npt.NDArray[np.integer[Any]]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Restriction:
    """What may be found; joined with ``&``.

    Attributes:
        states: From states, shape ``(B, ...)``, and their level to which may be visited.
        items: From items, shape ``(B, R)``, to which may be returned.
    """

    states: Callable[[Integers, int], Bools]
    items: Callable[[Integers], Bools]

    def __and__(self, other: Restriction) -> Restriction:
        return Restriction(
            lambda states, level: self.states(states, level) & other.states(states, level),
            lambda items: self.items(items) & other.items(items),
        )


class ArrayIndex:
    """Which codes continue the prefixes of a catalogue's semantic IDs.

    Args:
        first_child: For each level where the children of its states begin, ``(states + 1,)``.
        leaf_items: Items in the order of their IDs, shape ``(N,)``.
        leaf_offsets: Where each leaf's items begin, shape ``(leaves + 1,)``; None where every ID
            belongs to one item.

    Attributes:
        num_states: How many prefixes exist of each length, ``L + 1`` numbers.
        max_children: Widest fan-out of each level, ``L`` numbers.

    Example:
        >>> index = ArrayIndex([np.array([0, 2]), np.array([0, 2, 3])], np.array([0, 1, 2]), None)
        >>> states, legal = index.step(np.array([[0, 1]]), 1)
        >>> states.tolist(), legal.tolist()
        ([[[0, 1], [2, 2]]], [[[True, True], [True, False]]])
    """

    def __init__(
        self, first_child: Sequence[Integers], leaf_items: Integers, leaf_offsets: Integers | None
    ) -> None:
        self.first_child = list(first_child)
        self.leaf_items, self.leaf_offsets = leaf_items, leaf_offsets
        self.num_levels, self.num_items = len(self.first_child), len(leaf_items)
        self.num_states = [1, *(int(table[-1]) for table in self.first_child)]
        self.max_children = [int(np.diff(table).max()) for table in self.first_child]
        leaves = np.arange(self.num_states[-1])
        if leaf_offsets is not None:
            leaves = leaves.repeat(np.diff(leaf_offsets))
        self._leaf_of_item = np.empty(self.num_items, dtype=np.int64)
        self._leaf_of_item[leaf_items] = leaves

    @classmethod
    def load(cls, folder: Path) -> ArrayIndex:
        """Memory-map what :meth:`save` wrote.

        Args:
            folder: The folder.

        Returns:
            The index.

        Raises:
            OSError: If a file cannot be read.
            ValueError: If one is no array.
        """
        count = len(list(folder.glob("first_child_*.npy")))
        names = [f"first_child_{level}" for level in range(count)] + ["leaf_items"]
        *tables, leaf_items = (np.load(folder / f"{name}.npy", mmap_mode="r") for name in names)
        shared = folder / "leaf_offsets.npy"
        return cls(tables, leaf_items, np.load(shared, mmap_mode="r") if shared.exists() else None)

    def save(self, folder: Path) -> None:
        """Write the tables as ``.npy`` files into an existing folder."""
        for level, table in enumerate(self.first_child):
            np.save(folder / f"first_child_{level}.npy", table)
        np.save(folder / "leaf_items.npy", self.leaf_items)
        if self.leaf_offsets is not None:
            np.save(folder / "leaf_offsets.npy", self.leaf_offsets)

    def step(self, states: Integers, level: int) -> tuple[npt.NDArray[np.int32], Bools]:
        """List the states that continue others, for all beams at once.

        Args:
            states: States of ``level``, shape ``(B, W)``; -1 for a dead beam.
            level: How many codes the prefixes have, in ``[0, L)``.

        Returns:
            States and whether they exist, both ``(B, W, C)``, in rising order; where one does
            not, it is some other.
        """
        table, safe = self.first_child[level], np.maximum(states, 0)
        first = table[safe]
        count = np.where(states >= 0, table[safe + 1] - first, 0)
        ranks = np.arange(self.max_children[level], dtype=np.int32)
        found = np.minimum(first[..., None] + ranks, self.num_states[level + 1] - 1)
        return found.astype(np.int32, copy=False), ranks < count[..., None]

    def allow(self, allowed: Bools) -> Restriction:
        """Restrict every user to the items marked in ``(N,)``."""
        alive = [_any_child(allowed[self.leaf_items], self.leaf_offsets)]
        for table in reversed(self.first_child):
            alive.append(_any_child(alive[-1], table))
        alive.reverse()
        return Restriction(
            lambda states, level: alive[level][states], lambda items: allowed[np.maximum(items, 0)]
        )

    def allow_per_user(self, item_ids: Integers) -> Restriction:
        """Restrict each user to items of their own, ``(B, E)``, -1 for none, in this order."""
        user, items = np.nonzero(item_ids >= 0)[0], item_ids[item_ids >= 0]
        nodes = self._leaf_of_item[items]
        keys = [np.unique(user * self.num_states[-1] + nodes)]
        for level in reversed(range(self.num_levels)):
            nodes = self._parents(nodes, level)
            keys.append(np.unique(user * self.num_states[level] + nodes))
        return self._listed(keys[::-1], np.unique(user * self.num_items + items), keep=True)

    def exclude_per_user(self, item_ids: Integers) -> Restriction:
        """Keep items of their own, ``(B, E)``, -1 for none, from each user, in this order."""
        rows = np.nonzero(item_ids >= 0)[0]
        listed = np.unique(rows * self.num_items + item_ids[item_ids >= 0])
        # A node is dead for a user when all below it is: count what is gone, level by level.
        user, nodes = listed // self.num_items, self._leaf_of_item[listed % self.num_items]
        table, keys = self.leaf_offsets, []
        for level in range(self.num_levels, -1, -1):
            width = self.num_states[level]
            found, gone = np.unique(user * width + nodes, return_counts=True)
            user, nodes = found // width, found % width
            dead = gone == (1 if table is None else table[nodes + 1] - table[nodes])
            user, nodes = user[dead], nodes[dead]
            keys.append(user * width + nodes)
            if level:
                table = self.first_child[level - 1]
                nodes = self._parents(nodes, level - 1)
        return self._listed(keys[::-1], listed, keep=False)

    def items(
        self, leaves: Integers, num_results: int, legal: Restriction | None
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Turn leaves into items; items that share an ID follow one another by item id.

        Args:
            leaves: Leaves in order of preference, shape ``(B, W)``; -1 for none.
            num_results: Items to return for each row, >= 1.
            legal: The restriction under which the leaves were found, or None.

        Returns:
            ``(items, beams)``, both of shape ``(B, num_results)``, padded with -1: each item and
            the column of ``leaves`` it came from.
        """
        if self.leaf_offsets is None:
            items = np.where(leaves >= 0, self.leaf_items[leaves], -1).astype(np.int64)
            beams = np.where(leaves >= 0, np.arange(leaves.shape[1]), -1)
            return _fit(items, num_results), _fit(beams, num_results)
        first = self.leaf_offsets[np.maximum(leaves, 0)].astype(np.int64)
        ends = self.leaf_offsets[np.maximum(leaves, 0) + 1]
        count = np.where(leaves >= 0, ends - first, 0).ravel()
        # All items of all leaves one after another, then the illegal ones go.
        row, beam = np.repeat(np.indices(leaves.shape).reshape(2, -1), count, axis=1)
        before = np.cumsum(count) - count
        place = np.arange(len(row)) + np.repeat(first.ravel() - before, count)
        item = self.leaf_items[place].astype(np.int64)
        if legal is not None and len(row):
            size = np.bincount(row, minlength=len(leaves)).max()
            wide = np.full((len(leaves), size), -1, dtype=np.int64)
            column = _ranks(row)
            wide[row, column] = item
            keep = legal.items(wide)[row, column]
            row, beam, item = row[keep], beam[keep], item[keep]
        column = _ranks(row)
        keep = column < num_results
        items = np.full((len(leaves), num_results), -1, dtype=np.int64)
        beams = items.copy()
        items[row[keep], column[keep]], beams[row[keep], column[keep]] = item[keep], beam[keep]
        return items, beams

    def _parents(self, nodes: Integers, level: int) -> npt.NDArray[np.int64]:
        """Find the parents, states of ``level``, of states of ``level + 1``."""
        return np.searchsorted(self.first_child[level], nodes, side="right") - 1

    def _listed(self, nodes: Sequence[Integers], listed: Integers, *, keep: bool) -> Restriction:
        """Restrict users to listed states and items, or from them; sorted ``user * size + x``."""

        def states(asked: Integers, level: int) -> Bools:
            return _contains(nodes[level], asked, self.num_states[level]) == keep

        return Restriction(
            states, lambda items: _contains(listed, np.maximum(items, 0), self.num_items) == keep
        )


def _contains(keys: Integers, asked: Integers, size: int) -> Bools:
    """Tell which of each user's numbers, ``(B, ...)``, are among sorted ``user * size + x``."""
    if len(keys) == 0:
        return np.zeros(asked.shape, dtype=bool)
    users = np.arange(len(asked)).reshape(-1, *[1] * (asked.ndim - 1))
    wanted = users * size + asked
    return keys[np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)] == wanted


def _any_child(alive: Bools, offsets: Integers | None) -> Bools:
    """Tell for each parent whether any of its children is alive."""
    if offsets is None:
        return alive
    total = np.append(0, np.cumsum(alive))
    return total[offsets[1:]] > total[offsets[:-1]]


def _ranks(rows: Integers) -> npt.NDArray[np.int64]:
    """Number the entries of each row from 0, where ``rows`` rises."""
    return np.arange(len(rows)) - np.searchsorted(rows, rows)


def _fit(values: Integers, width: int) -> npt.NDArray[np.int64]:
    """Cut or pad the columns to a width, padding with -1."""
    missing = max(0, width - values.shape[1])
    return np.pad(values[:, :width], ((0, 0), (0, missing)), constant_values=-1)
