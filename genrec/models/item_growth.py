"""Weights of the item-token model for a catalogue that has grown.

Shape legend: N = items, R = rows of a table, A = levels above a row, D = width, V = vectors of a
prefix.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from genrec.decoding.trie import PrefixIndex

__all__ = ["grown_weights"]


@torch.no_grad()
def grown_weights(
    weights: Mapping[str, Tensor], sizes: Mapping[str, Tensor], old: PrefixIndex, new: PrefixIndex
) -> dict[str, Tensor]:
    """Move vectors of items and prefixes to where a larger catalogue has them.

    A new item has no history to learn from: its vector is the mean of those that share the longest
    prefix with it, so that it is found where they are, and a new prefix's likewise.

    Args:
        weights: Those of the trained model.
        sizes: Tensors of the shapes wanted; those that differ are of ``tokens.vectors`` and
            ``tree.prefixes``.
        old: The catalogue of the trained model.
        new: One that begins with the same items.

    Returns:
        Weights of the larger model.
    """
    grown = dict(weights)
    count = old.num_items
    for name, wanted in sizes.items():
        weight = weights[name]
        if weight.shape == wanted.shape:
            continue
        if name.startswith("tokens.vectors."):
            level = len(old.level_sizes)
            before = torch.arange(count, device=weight.device)
            rows = torch.arange(new.num_items, device=weight.device)
        else:
            level = int(name.split(".")[2])
            before, rows = (index.paths.states[:, level].long() for index in (old, new))
        vectors = weight.view(int(before.max()) + 1, -1, weight.shape[1])  # (R, V, D)
        filled = vectors.new_empty(int(rows.max()) + 1, *vectors.shape[1:])
        filled[rows[:count]] = vectors[before]
        items = torch.arange(len(rows), device=weight.device)
        below = items.new_empty(len(filled))
        below.scatter_reduce_(0, rows, items, "amin", include_self=False)
        fresh = below >= count  # no old item lies below
        filled[fresh] = _relatives(vectors, before, level, old, new, below[fresh])
        grown[name] = filled.flatten(0, 1)
    return grown


def _relatives(
    vectors: Tensor,
    rows: Tensor,
    level: int,
    old: PrefixIndex,
    new: PrefixIndex,
    items: Tensor,
) -> Tensor:
    """Average the old rows below the longest prefix that a new item shares.

    Args:
        vectors: Of the old rows, shape ``(R, V, D)``.
        rows: Row of each old item, shape ``(N,)``, int64.
        level: Levels above a row, ``A``.
        old: The old catalogue.
        new: The larger one.
        items: Items of the larger one, shape ``(M,)``, int64.

    Returns:
        Shape ``(M, V, D)``.
    """
    found = vectors.mean(dim=0).repeat(len(items), 1, 1)
    one_each = torch.zeros(len(vectors), dtype=torch.long, device=rows.device)
    one_each[rows] = torch.arange(len(rows), device=rows.device)  # an item below each row
    for above in range(level):
        states = old.paths.states[:, above].long()
        known = states.new_full((new.num_states[above + 1],), -1)
        known[new.paths.states[: len(states), above].long()] = states
        place = known[new.paths.states[items, above].long()]  # (M,)
        groups, size = states[one_each], old.num_states[above + 1]
        sums = vectors.new_zeros(size, *vectors.shape[1:]).index_add_(0, groups, vectors)
        means = sums / groups.bincount(minlength=size).view(-1, 1, 1)
        found = torch.where((place >= 0).view(-1, 1, 1), means[place.clamp(min=0)], found)
    return found
