"""Items that share a semantic ID: counting them and telling them apart.

Shape legend: N = items, L = code levels, G = groups of items with equal codes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from genrec.errors import ArtifactError

__all__ = [
    "IdGroups",
    "append_dedup_digit",
    "collision_statistics",
    "group_ids",
    "pack_ids",
    "unpack_ids",
]

_MOST_BINS = 1 << 24


@dataclass(frozen=True)
class IdGroups:
    """Items sorted into groups with equal codes.

    Attributes:
        order: Item ids, group after group, ascending in each group, shape ``(N,)``, int64.
        starts: Where each group begins in ``order``, shape ``(G,)``, int64.
        sizes: Items of each group, shape ``(G,)``, int64.
    """

    order: npt.NDArray[np.int64]
    starts: npt.NDArray[np.int64]
    sizes: npt.NDArray[np.int64]

    def ranks(self) -> npt.NDArray[np.int64]:
        """Number the items inside each group from 0 in item order, shape ``(N,)``."""
        ranks = np.empty(len(self.order), dtype=np.int64)
        ranks[self.order] = np.arange(len(self.order)) - np.repeat(self.starts, self.sizes)
        return ranks


def pack_ids(
    ids: npt.NDArray[np.integer[Any]], level_sizes: Sequence[int]
) -> npt.NDArray[np.int64]:
    """Pack each row of codes ``(N, L)`` into one integer that sorts like the row: ``(N,)``, int64.

    Args:
        ids: Codes, each in ``[0, level size)``.
        level_sizes: Codes of each level; their product must be below 2^63.

    Raises:
        ArtifactError: If the product of the sizes is too large.
    """
    if math.prod(level_sizes) >= 2**63:
        raise ArtifactError(
            f"the product of level_sizes must be below 2^63, got {tuple(level_sizes)}; "
            "use fewer levels or smaller codebooks"
        )
    keys = np.zeros(len(ids), dtype=np.int64)
    for level, size in enumerate(level_sizes):
        keys *= size
        keys += ids[:, level]
    return keys


def unpack_ids(keys: npt.NDArray[np.int64], level_sizes: Sequence[int]) -> npt.NDArray[np.int32]:
    """Undo :func:`pack_ids`: codes ``(N, L)`` from keys ``(N,)``."""
    ids = np.empty((len(keys), len(level_sizes)), dtype=np.int32)
    for level in reversed(range(len(level_sizes))):
        keys, ids[:, level] = np.divmod(keys, level_sizes[level])
    return ids


def group_ids(ids: npt.NDArray[np.integer[Any]], level_sizes: Sequence[int]) -> IdGroups:
    """Sort the items of codes ``(N, L)`` into groups that share all codes, in ascending order."""
    keys = pack_ids(ids, level_sizes)
    order = np.argsort(keys, kind="stable")
    keys = keys[order]
    is_start = np.ones(len(keys), dtype=np.bool_)
    np.not_equal(keys[1:], keys[:-1], out=is_start[1:])
    starts = np.flatnonzero(is_start)
    return IdGroups(order, starts, np.diff(starts, append=len(keys)))


def append_dedup_digit(
    ids: npt.NDArray[np.int32], level_sizes: Sequence[int]
) -> tuple[npt.NDArray[np.int32], int]:
    """Append a digit that tells items of equal codes apart: ``(N, L + 1)``, and its size.

    Every item gets one, 0 where its codes are unique, so that all IDs have the same length;
    items of a group are numbered in item order.

    Source:
        TIGER, https://arxiv.org/abs/2305.05065, section 3.1.
    """
    ranks = group_ids(ids, level_sizes).ranks()
    digit = ranks.astype(np.int32)[:, None]  # (N, 1)
    return np.concatenate([ids, digit], axis=1), int(ranks.max(initial=0)) + 1


def collision_statistics(
    ids: npt.NDArray[np.integer[Any]], level_sizes: Sequence[int]
) -> dict[str, Any]:
    """Count how many items share an ID and how evenly the codes are used.

    Args:
        ids: Codes, shape ``(N, L)``.
        level_sizes: Codes of each level.

    Returns:
        ``num_items``, ``distinct_ids``, ``collision_rate`` (1 - distinct / items),
        ``items_sharing_id``, ``largest_group``; and, one entry a level, ``level_sizes``,
        ``codes_used``, ``perplexity`` (2 to the power of the code entropy in bits).
    """
    num_items = len(ids)
    sizes = group_ids(ids, level_sizes).sizes
    used, perplexity = [], []
    for level, size in enumerate(level_sizes):
        column = ids[:, level]
        if size > _MOST_BINS:  # an array over all codes would not fit in memory
            column = np.unique(column, return_inverse=True)[1]
        counts = np.bincount(column)
        shares = counts[counts > 0] / num_items
        used.append(int((counts > 0).sum()))
        perplexity.append(round(float(np.exp(-(shares * np.log(shares)).sum())), 3))
    return {
        "num_items": num_items,
        "distinct_ids": len(sizes),
        "collision_rate": 1 - len(sizes) / num_items if num_items else 0.0,
        "items_sharing_id": int(sizes[sizes > 1].sum()),
        "largest_group": int(sizes.max(initial=0)),
        "level_sizes": [int(size) for size in level_sizes],
        "codes_used": used,
        "perplexity": perplexity,
    }
