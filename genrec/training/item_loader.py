"""Items to train a tokenizer on, checked, and batches of them that lie on the device.

A batch is an index into what lies there already: nothing is copied from the host.

Shape legend: N = items, B = batch of one process, P = processes, A = batches of a
step, X = features.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from genrec.errors import ConfigError, DataError
from genrec.training.seeding import mix_seed

__all__ = ["ItemLoader", "ItemRows", "feature_scale", "load_items"]


class ItemRows(NamedTuple):
    """A batch of items.

    Attributes:
        x: Embeddings, shape ``(B, X)``, float32.
        rows: Where they stand in the loader's items, shape ``(B,)``, int64.
    """

    x: Tensor
    rows: Tensor


class ItemLoader:
    """Shuffled batches of item embeddings, all of the same size.

    The order depends on seed and epoch alone. The last batch is filled up from the beginning of
    the same epoch's order, so that shapes never change and processes stay in step.

    Args:
        items: Shape ``(N, X)``, any floating dtype, on the device to train on.
        batch_size: Items of a batch on each process, >= 1.
        seed: With the epoch, it gives the order of the items.
        process_index: Which process this is.
        num_processes: How many processes P share a batch of ``P * batch_size`` items.
        accumulate: Batches A that make one step, >= 1: an epoch holds whole steps. A step of
            ``A * P`` shards holds the same items whoever takes them.

    Raises:
        ConfigError: If the batch size is below 1.
        DataError: If there is no item.
    """

    def __init__(
        self,
        items: Tensor,
        *,
        batch_size: int,
        seed: int = 0,
        process_index: int = 0,
        num_processes: int = 1,
        accumulate: int = 1,
    ) -> None:
        if len(items) == 0:
            raise DataError("training needs at least one item, got none; check the data set")
        if batch_size < 1:
            raise ConfigError(f"batch_size must be >= 1, got {batch_size}; try 256")
        self.items = items
        self.seed, self.process_index, self.num_processes = seed, process_index, num_processes
        self.accumulate = accumulate
        self.batch_size = min(batch_size, math.ceil(len(items) / num_processes / accumulate))  # B

    def __len__(self) -> int:
        step = self.batch_size * self.num_processes * self.accumulate
        return self.accumulate * math.ceil(len(self.items) / step)

    def batches(self, epoch: int, start: int = 0) -> Iterator[ItemRows]:
        """Yield this process's batches of an epoch, from 0, ``start`` of them left out."""
        generator = torch.Generator().manual_seed(mix_seed(self.seed, epoch))
        order = torch.randperm(len(self.items), generator=generator)  # (N,)
        together = self.batch_size * self.num_processes
        order = order.repeat(math.ceil(len(self) * together / len(order)))[: len(self) * together]
        own = order.view(len(self), self.num_processes, self.batch_size)[:, self.process_index]
        for rows in own.to(self.items.device)[start:]:
            yield ItemRows(self.items.index_select(0, rows).float(), rows)


def load_items(
    embeddings: npt.NDArray[Any], *, num_categorical: int = 0, replace_non_finite: bool = False
) -> tuple[Tensor, int]:
    """Read a catalogue's embeddings into memory and check them.

    Args:
        embeddings: Shape ``(N, X)``, an array or a memory map.
        num_categorical: Features at the end that must be 0 or 1.
        replace_non_finite: Put 0 where a value is NaN or Inf.

    Returns:
        ``(items (N, X) in their dtype, number of values replaced)``.

    Raises:
        DataError: If a value is not finite and is not to be replaced, or a categorical feature
            is neither 0 nor 1.
    """
    items = torch.from_numpy(np.array(embeddings))
    finite = items.isfinite()
    num_bad = int(finite.numel() - finite.sum())
    if num_bad:
        rows = int((~finite).any(dim=1).sum())
        if not replace_non_finite:
            raise DataError(
                f"embeddings must be finite, got {num_bad} values NaN or Inf in {rows} of "
                f"{len(items)} items; repair them, or set train.replace_non_finite=True for 0"
            )
        items = torch.where(finite, items, torch.zeros((), dtype=items.dtype))
    tail = items[:, items.shape[1] - num_categorical :]
    if not ((tail == 0) | (tail == 1)).all():
        raise DataError(
            f"the last vae_n_cat_feats = {num_categorical} features must be 0 or 1, got others; "
            "put the multi-hot features at the end, or set train.vae_n_cat_feats=0"
        )
    return items, num_bad


def feature_scale(items: Tensor, *, num_categorical: int = 0) -> float:
    """Compute the factor, to four digits, that brings dense features to a root mean square of 1.

    Args:
        items: Shape ``(N, X)``, finite. Of unit length, they give the square root of X.
        num_categorical: Features at the end that do not count.
    """
    dense = items[:, : items.shape[1] - num_categorical]
    total = sum(float(rows.double().square().sum()) for rows in dense.split(65_536))
    size = math.sqrt(total / max(1, dense.numel()))
    return float(f"{1 / size:.4g}") if size > 0 else 1.0
