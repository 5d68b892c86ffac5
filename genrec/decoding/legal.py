"""Restrictions at call time: which prefixes and items a user may get.

Shape legend: B = users, E = listed items of a user, N = items. Each restriction is a set of
arrays beside the prefix index, which is never rebuilt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from operator import and_
from typing import Protocol

import torch
from torch import Tensor

from genrec.errors import DataError

__all__ = ["ItemFilter", "ItemSets", "LegalSet", "NodeFilter", "SharedAllowList", "UserNodes"]

#: Bytes that are cleared in about the time in which one key is looked up by bisection.
_BYTES_A_KEY = 64


class NodeFilter(Protocol):
    """Tells which states lead to an item that is allowed."""

    def allows(self, states: Tensor, level: int) -> Tensor:
        """Return a bool tensor of the shape of ``states``, ``(B, ...)``, states of ``level``."""


@dataclass(frozen=True)
class SharedAllowList:
    """One set of items for everybody.

    Attributes:
        alive: For each level 0..L which states lead to an allowed item, bool.
    """

    alive: Sequence[Tensor]

    def allows(self, states: Tensor, level: int) -> Tensor:
        """Look the states up, in any shape, whoever the user is."""
        return self.alive[level][states]


@dataclass(frozen=True)
class UserNodes:
    """States listed for each user, as one sorted array of ``user * states + state`` a level.

    Attributes:
        keys: For each level 0..L, sorted, int64.
        num_states: Number of states of each level.
        keep: Whether the listed states are the allowed ones, or the forbidden ones.
    """

    keys: Sequence[Tensor]
    num_states: Sequence[int]
    keep: bool

    @staticmethod
    def pack(user: Tensor, nodes: Tensor, num_states: int) -> Tensor:
        """Make one level's sorted keys."""
        return torch.unique(user * num_states + nodes)

    def allows(self, states: Tensor, level: int) -> Tensor:
        """Look the states up."""
        return _contains(self.keys[level], states, self.num_states[level]) == self.keep


class ItemSets:
    """Items listed for each user.

    Args:
        item_ids: Shape ``(B, E)``, integer; -1 for none.
        num_items: Number of items ``N``.

    Raises:
        DataError: If an item is not in the catalogue.
    """

    def __init__(self, item_ids: Tensor, num_items: int) -> None:
        if item_ids.ndim != 2:
            raise DataError(
                f"listed items must have shape (B, E), got {tuple(item_ids.shape)}; pad with -1"
            )
        if item_ids.numel() and int(item_ids.max()) >= num_items:
            raise DataError(
                f"item ids must lie in [0, {num_items}), got {int(item_ids.max())}; "
                "look them up in the tokenizer's item keys"
            )
        self.num_items = num_items
        users = torch.arange(len(item_ids), device=item_ids.device).unsqueeze(1)
        packed = users * num_items + item_ids.long()
        self.keys = torch.unique(packed[item_ids >= 0])

    def pairs(self) -> tuple[Tensor, Tensor]:
        """Return all ``(user, item)``, each pair once, as two flat arrays."""
        return self.keys // self.num_items, self.keys % self.num_items

    def contains(self, items: Tensor) -> Tensor:
        """Tell which items, shape ``(B, R)``, are listed for the user of their row."""
        return _contains(self.keys, items, self.num_items)


@dataclass(frozen=True)
class ItemFilter:
    """Tells which items are allowed, where some that share an ID are and others are not.

    Attributes:
        mask: Which items everybody may get, shape ``(N,)``, or None.
        sets: Items listed for each user, or None.
        keep: Whether the listed ones are the allowed ones, or the forbidden ones.
    """

    mask: Tensor | None = None
    sets: ItemSets | None = None
    keep: bool = False

    def allows(self, items: Tensor) -> Tensor:
        """Return a bool tensor of the shape of ``items``, ``(B, R)``; -1 counts as item 0."""
        safe = items.clamp(min=0)
        if self.sets is not None:
            return self.sets.contains(safe) == self.keep
        assert self.mask is not None
        return self.mask[safe]


@dataclass(frozen=True)
class LegalSet:
    """One restriction or several; joined with ``&``.

    Attributes:
        parts: Pairs of which states may be visited and which items may be returned.
    """

    parts: tuple[tuple[NodeFilter, ItemFilter], ...]

    def __and__(self, other: LegalSet) -> LegalSet:
        return LegalSet(self.parts + other.parts)

    def allows(self, states: Tensor, level: int) -> Tensor:
        """Tell which states, shape ``(B, ...)``, of a level may be visited."""
        return reduce(and_, (nodes.allows(states, level) for nodes, _ in self.parts))

    def allows_items(self, items: Tensor) -> Tensor:
        """Tell which items, shape ``(B, R)``, may be returned; -1 counts as item 0."""
        return reduce(and_, (items_filter.allows(items) for _, items_filter in self.parts))


def _contains(keys: Tensor, wanted: Tensor, count: int) -> Tensor:
    """Tell which numbers below ``count``, ``(B, ...)``, are listed for the user of their row.

    The sorted keys are ``user * count + number``. Where a mark for each number of each user costs
    less than bisection does, marks are made.
    """
    if len(keys) == 0:
        return torch.zeros_like(wanted, dtype=torch.bool)
    users = torch.arange(len(wanted), device=wanted.device)
    wanted = users.reshape(-1, *[1] * (wanted.ndim - 1)) * count + wanted
    if len(users) * count <= _BYTES_A_KEY * wanted.numel():
        listed = torch.zeros(len(users) * count, dtype=torch.bool, device=wanted.device)
        return listed.index_fill_(0, keys, True)[wanted]
    place = torch.searchsorted(keys, wanted.contiguous()).clamp(max=len(keys) - 1)
    return keys[place] == wanted
