"""What the prefix index says about each item and each prefix, as arrays made once.

Shape legend: N = items, L = levels. States as in :mod:`genrec.decoding.trie`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["ItemPaths", "hash_prefixes"]


@dataclass(frozen=True)
class ItemPaths:
    """The way of every item through the tree.

    Attributes:
        states: State after each code of an item, shape ``(N, L)``, int32.
        num_below: For each level 1..L how many items each of its states has below it, int32.
        first_item: For each level 1..L where these begin in the order of the leaves, int32.
        most_below: For each level 1..L the largest of ``num_below``.
    """

    states: Tensor
    num_below: list[Tensor]
    first_item: list[Tensor]
    most_below: list[int]

    @classmethod
    def build(
        cls, first_child: Sequence[Tensor], leaf_items: Tensor, leaf_offsets: Tensor | None
    ) -> ItemPaths:
        """Follow the tables of a prefix index from the leaves to the root.

        Args:
            first_child: For each level where the children of its states begin, ``(states + 1,)``.
            leaf_items: Items in the order of their leaves, shape ``(N,)``.
            leaf_offsets: Where each leaf's items begin, ``(leaves + 1,)``, or None where every
                leaf has one item.

        Returns:
            The paths.
        """
        num_items = len(leaf_items)
        starts = leaf_offsets  # where each state's items begin in leaf_items
        if starts is None:
            starts = torch.arange(num_items + 1, dtype=torch.int32, device=leaf_items.device)
        columns, num_below, first_item = [], [], []
        for table in (*reversed(first_child[1:]), None):
            counts = starts.diff()
            num_below.append(counts)
            first_item.append(starts[:-1])
            numbers = torch.arange(len(counts), dtype=torch.int32, device=counts.device)
            columns.append(torch.repeat_interleave(numbers, counts))
            if table is not None:
                starts = starts[table.long()]
        states = torch.empty(num_items, len(columns), dtype=torch.int32, device=leaf_items.device)
        states[leaf_items.long()] = torch.stack(columns[::-1], dim=1)
        most_below = [int(counts.max()) for counts in num_below]
        return cls(states, num_below[::-1], first_item[::-1], most_below[::-1])


def hash_prefixes(first_child: Sequence[Tensor], child_codes: Sequence[Tensor]) -> list[Tensor]:
    """Number prefixes by their codes, whatever other prefixes there are.

    Args:
        first_child: For each level where the children of its states begin, ``(states + 1,)``.
        child_codes: For each level the codes of all children.

    Returns:
        For each level 1..L a number in ``[0, 2^31)`` for each state, int32. Some prefixes may
        share one.
    """
    parents = torch.zeros(1, dtype=torch.long, device=child_codes[0].device)
    hashes = []
    for table, codes in zip(first_child, child_codes, strict=True):
        mixed = torch.repeat_interleave(parents, table.diff()) * 1_000_003 + codes.long() + 1
        mixed = ((mixed ^ (mixed >> 17)) * 0x45D9F3B) & 0x7FFFFFFF
        parents = mixed ^ (mixed >> 15)
        hashes.append(parents.int())
    return hashes
