"""Items as a data set: one memory-mapped array of embeddings, whole or a share of it.

Shape legend: N = items of the catalogue, n = items of this part, D = width of the embeddings.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset

from genrec.data.prepared import PreparedDataset
from genrec.errors import ConfigError, DataError

__all__ = ["ItemData", "ItemPart"]

#: Which items: all of them, or the two sides of a held-out share.
ItemPart = Literal["all", "train", "eval"]


class ItemData(Dataset[Tensor]):
    """The items' embeddings, read from disk row by row or batch by batch.

    Args:
        source: A prepared data set, the folder of one, or an array of shape ``(N, D)``.
        train_test_split: ``"all"`` items; or ``"train"`` and ``"eval"``, which share the items
            out between them, each item always on the same side for the same seed.
        val_ratio: Share of the items in ``"eval"``, in (0, 1); not used by ``"all"``.
        seed: Chooses the items of ``"eval"``.

    Attributes:
        item_ids: Item id of each row, shape ``(n,)``, int64, rising.
        dim: Width ``D`` of the embeddings.

    Raises:
        ConfigError: If an argument is out of range.
        DataError: If the array does not have two dimensions.

    Example:
        >>> items = ItemData(np.eye(4), train_test_split="eval", val_ratio=0.25)
        >>> len(items), tuple(items[0].shape)
        (1, (4,))
    """

    def __init__(
        self,
        source: PreparedDataset | npt.NDArray[Any] | str | os.PathLike[str],
        *,
        train_test_split: ItemPart = "all",
        val_ratio: float = 0.05,
        seed: int = 0,
    ) -> None:
        if train_test_split not in ("all", "train", "eval"):
            raise ConfigError(
                f"train_test_split must be all, train or eval, got {train_test_split!r}; "
                "all is the default"
            )
        if isinstance(source, (str, os.PathLike)):
            source = PreparedDataset.load(source)
        if isinstance(source, PreparedDataset):
            source = source.item_embeddings
        if source.ndim != 2:
            raise DataError(
                f"item embeddings must have shape (items, dim), got {source.shape}; "
                "give one row an item"
            )
        self._rows = source  # (N, D)
        self.item_ids = _part(len(source), train_test_split, val_ratio, seed)
        self.dim = int(source.shape[1])

    def __len__(self) -> int:
        return len(self.item_ids)

    def __getitem__(self, index: int) -> Tensor:
        row = self._rows[self.item_ids[index]]
        return torch.from_numpy(np.array(row, dtype=np.float32))  # (D,)

    def gather(self, indices: Tensor | npt.NDArray[np.integer[Any]] | Sequence[int]) -> Tensor:
        """Read rows of this part, ``(B,)`` in ``[0, n)``, as ``(B, D)``, float32, a copy."""
        rows = self.item_ids[np.asarray(indices)]
        return torch.from_numpy(np.asarray(self._rows[rows]).astype(np.float32, copy=False))

    def tensor(self) -> Tensor:
        """Read all rows of this part, shape ``(n, D)``, float32, a copy."""
        return self.gather(np.arange(len(self)))


def _part(count: int, part: ItemPart, val_ratio: float, seed: int) -> npt.NDArray[np.int64]:
    """List the items of a part."""
    if part == "all":
        return np.arange(count, dtype=np.int64)
    if not 0 < val_ratio < 1:
        raise ConfigError(
            f"val_ratio must lie between 0 and 1, got {val_ratio}; 0.05 holds one item in twenty "
            "out, train_test_split='all' holds none out"
        )
    if count < 2:
        raise DataError(f"items must be at least 2 to hold some out, got {count}; use 'all'")
    held_out = np.zeros(count, dtype=bool)
    size = min(max(1, round(count * val_ratio)), count - 1)
    held_out[np.random.default_rng(seed).permutation(count)[:size]] = True
    return np.flatnonzero(held_out if part == "eval" else ~held_out).astype(np.int64)
