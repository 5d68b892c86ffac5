"""Weights of the item-token model for a catalogue that has grown.

Shape legend: N = items, D = width, V = vectors of a prefix.
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

    Args:
        weights: Those of the trained model.
        sizes: Tensors of the shapes wanted. Those that differ, of ``tokens.vectors`` and
            ``tree.prefixes``, are filled with zeros where an item or a prefix is new.
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
            before = after = torch.arange(count, device=weight.device)
            num_rows = (old.num_items, new.num_items)
        else:
            level = int(name.split(".")[2])
            before, after = (index.paths.states[:count, level].long() for index in (old, new))
            num_rows = (old.num_states[level + 1], new.num_states[level + 1])
        vectors = weight.view(num_rows[0], -1, weight.shape[1])  # (rows, V, D)
        filled = vectors.new_zeros(num_rows[1], *vectors.shape[1:])
        filled[after] = vectors[before]
        grown[name] = filled.flatten(0, 1)
    return grown
