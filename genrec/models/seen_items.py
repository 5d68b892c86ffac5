"""Where in the tree a user's own items lie.

Shape legend: B = users, S = history items, L = levels, M = rows, each of which belongs to a user
and knows the first items of the history, C = children of a prefix.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from genrec.decoding.trie import PrefixIndex, TrieStep

__all__ = ["SeenItems", "SeenPairs", "seen_start"]

#: What a weight of seen items begins with where hardly anybody comes back, in nats.
_HARDLY = -10.0


@dataclass(frozen=True)
class SeenPairs:
    """Rows and the items that they know, in the order of the rows.

    On a CPU these alone; elsewhere all places of the history, since the host would have to wait
    for the device to learn how many there are.

    Attributes:
        rows: Shape ``(P,)``, int64, rising.
        items: Shape ``(P,)``, int64.
        fresh: Which of them count, shape ``(P,)``, bool; None for all.
        each: Pairs of each row, where all have as many; None elsewhere.
    """

    rows: Tensor
    items: Tensor
    fresh: Tensor | None
    each: int | None

    @classmethod
    def of(cls, items: Tensor, fresh: Tensor, *, all_places: bool | None = None) -> SeenPairs:
        """List items ``(M, S)``, those that are ``fresh``; None chooses by the device."""
        if all_places is None:
            all_places = items.device.type != "cpu"
        if not all_places:
            rows, columns = fresh.nonzero(as_tuple=True)
            return cls(rows, items[rows, columns], None, None)
        count, size = items.shape
        rows = torch.arange(count, device=items.device).repeat_interleave(
            size, output_size=count * size
        )
        return cls(rows, items.flatten(), fresh.flatten(), size)

    def extra(self, value: Tensor) -> Tensor:
        """Give each pair its value, scalar or ``(P,)``, and those that do not count 0."""
        value = value.expand(self.rows.shape)
        return value if self.fresh is None else value.where(self.fresh, 0.0)


@dataclass(frozen=True)
class SeenItems:
    """The items of the histories, each once.

    Attributes:
        items: Shape ``(M, S)``, int64.
        fresh: Which of them the row knows, without repeats, shape ``(M, S)``, bool.
        states: Their states after each code, shape ``(M, S, L)``, int32.
    """

    items: Tensor
    fresh: Tensor
    states: Tensor

    @classmethod
    def build(
        cls, history: Tensor, index: PrefixIndex, rows: Tensor, last: Tensor | None = None
    ) -> SeenItems:
        """Look up the histories.

        Args:
            history: Items, shape ``(B, S)``, int64; -1 for padding.
            index: The catalogue.
            rows: User of each row, shape ``(M,)``, int64.
            last: Position of the newest item that the row knows, shape ``(M,)``, int64; None
                where it knows all.

        Returns:
            The items of M rows.
        """
        size = history.shape[1]
        earlier = torch.ones(size, size, dtype=torch.bool, device=history.device).tril(-1)
        repeated = ((history.unsqueeze(2) == history.unsqueeze(1)) & earlier).any(dim=2)
        fresh = ((history >= 0) & ~repeated)[rows]
        if last is not None:
            fresh = fresh & (torch.arange(size, device=history.device) <= last.unsqueeze(1))
        items = history.clamp(min=0)
        return cls(items[rows], fresh, index.paths.states[items][rows])

    def pairs(self) -> SeenPairs:
        """List the rows' items."""
        return SeenPairs.of(self.items, self.fresh)

    def only(self, rows: slice) -> SeenItems:
        """Keep some rows."""
        return SeenItems(self.items[rows], self.fresh[rows], self.states[rows])

    def each(self, count: int) -> SeenItems:
        """Repeat each row, as for the beams of a user."""
        parts = (self.items, self.fresh, self.states)
        wide = (part.unsqueeze(1).expand(-1, count, *part.shape[1:]) for part in parts)
        return SeenItems(*(part.flatten(0, 1) for part in wide))

    def count_below(self, following: TrieStep, level: int) -> Tensor:
        """Count each row's items below the children of a prefix.

        Args:
            following: Children of each row's prefix, ``(M, C)``.
            level: Length of the prefix.

        Returns:
            Shape ``(M, C)``, int64.
        """
        # Children are neighbours, so the distance from the first is the column.
        columns = self.states[..., level] - following.states[:, :1]
        return self._count(columns, following.legal)

    def among(self, first: Tensor, inside: Tensor, index: PrefixIndex) -> Tensor:
        """Tell which items of a window each row has.

        Args:
            first: Where the window begins in the order of the leaves, shape ``(M,)``.
            inside: How far it reaches, shape ``(M, C)``, bool.
            index: The catalogue.

        Returns:
            Shape ``(M, C)``, bool. Of items that share an ID the first stands for all.
        """
        return self._count(self.places(index) - first.unsqueeze(1), inside) > 0

    def places(self, index: PrefixIndex) -> Tensor:
        """Say where in the order of the leaves the items are, ``(M, S)``; those of an ID alike."""
        return index.paths.first_item[-1][self.states[..., -1]]

    def _count(self, columns: Tensor, inside: Tensor) -> Tensor:
        """Count the items that lie in each column, ``(M, C)``, those before and after left out."""
        width = inside.shape[1]
        there = self.fresh & (columns >= 0) & (columns < width)
        counts = torch.zeros(inside.shape, dtype=torch.long, device=inside.device)
        counts.scatter_add_(1, columns.clamp(0, width - 1).long(), there.long())
        return counts.where(inside, 0)


def seen_start(repeats: int, targets: int) -> float:
    """Say what the weight of seen items begins with, from -10 to 0 nats.

    Takes how many of how many targets are items that the user has; gives their log-odds. What is
    learned from there on is small where few targets say anything.
    """
    share = (repeats + 0.5) / (targets + 1.0)
    return min(0.0, max(_HARDLY, math.log(share) - math.log1p(-share)))
