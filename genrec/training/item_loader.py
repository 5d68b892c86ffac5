"""Batches of items that lie on the device: an index is drawn, and nothing is copied from the host.

Shape legend: N = items, B = batch of one process, P = processes, X = features.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from genrec.errors import ConfigError, DataError
from genrec.training.seeding import mix_seed

__all__ = ["ItemLoader", "ItemRows"]


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
        batch_size: Items of a batch on each process, or on all of them with ``split_batches``.
        seed: Of the order.
        process_index: Which process this is.
        num_processes: P.
        split_batches: Share ``batch_size`` out between the processes.

    Raises:
        ConfigError: If the batch size does not fit the processes.
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
        split_batches: bool = False,
    ) -> None:
        if len(items) == 0:
            raise DataError("training needs at least one item, got none; check the data set")
        if batch_size < 1 or (split_batches and batch_size % num_processes):
            raise ConfigError(
                f"batch_size must be >= 1 and with split_batches a multiple of the processes, "
                f"{num_processes}, got {batch_size}; set train.batch_size={num_processes * 64}"
            )
        self.items = items
        self.seed, self.process_index, self.num_processes = seed, process_index, num_processes
        own = batch_size // num_processes if split_batches else batch_size
        self.batch_size = min(own, math.ceil(len(items) / num_processes))  # B

    def __len__(self) -> int:
        return math.ceil(len(self.items) / (self.batch_size * self.num_processes))

    def batches(self, epoch: int, start: int = 0) -> Iterator[ItemRows]:
        """Yield this process's batches of an epoch.

        Args:
            epoch: From 0.
            start: Batches to leave out.

        Yields:
            Batches of ``B`` items.
        """
        generator = torch.Generator().manual_seed(mix_seed(self.seed, epoch))
        order = torch.randperm(len(self.items), generator=generator)  # (N,)
        together = self.batch_size * self.num_processes
        order = order.repeat(math.ceil(len(self) * together / len(order)))[: len(self) * together]
        own = order.view(len(self), self.num_processes, self.batch_size)[:, self.process_index]
        for rows in own.to(self.items.device)[start:]:
            yield ItemRows(self.items.index_select(0, rows).float(), rows)
