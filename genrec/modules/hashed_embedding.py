"""An embedding table that may have a given number of rows, which ids then share.

Shape legend: N = ids, R = rows, D = width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["HashedEmbedding", "hash_rows"]

_FACTOR = 0x9E3779B1  # 2^32 divided by the golden ratio: neighbours land far apart


def hash_rows(keys: Tensor, num_rows: int) -> Tensor:
    """Spread keys over rows, the same everywhere; the shape of ``keys``, int64 in ``[0, R)``."""
    mixed = (keys.long() * _FACTOR) & 0xFFFFFFFF
    mixed = ((mixed ^ (mixed >> 15)) * 0x2C1B3C6D) & 0xFFFFFFFF
    return (mixed ^ (mixed >> 16)) % num_rows


class HashedEmbedding(nn.Module):
    """One vector an id, or so many vectors whatever the number of ids.

    Args:
        num_ids: N.
        width: D.
        num_rows: R, over which ids are spread by a hash; None for a row an id.
    """

    def __init__(self, num_ids: int, width: int, num_rows: int | None = None) -> None:
        super().__init__()
        self.hashed = num_rows is not None
        self.places: Tensor | None = None  # of a table that :meth:`listed` made
        self.weight = nn.Parameter(torch.empty(num_rows or num_ids, width))
        nn.init.normal_(self.weight, std=width**-0.5)

    def listed(self, keys: Tensor) -> HashedEmbedding:
        """Return the same vectors without hash: its id ``i`` means what ``keys[i]`` means here."""
        other = HashedEmbedding(1, 1)
        other.weight, other.places = self.weight, self.rows(keys)
        return other

    def rows(self, ids: Tensor) -> Tensor:
        """Find the row of each id, the shape of ``ids``, integer."""
        if self.places is not None:
            return self.places[ids.long()]
        return hash_rows(ids, len(self.weight)) if self.hashed else ids

    def forward(self, ids: Tensor) -> Tensor:
        """Look vectors up, shape ``(..., D)`` for ids of shape ``(...)``."""
        return nn.functional.embedding(self.rows(ids), self.weight)
