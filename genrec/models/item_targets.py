"""Targets of a batch for the item-token model, and their loss.

Shape legend: B = rows of a batch, S = history items, M = targets of a batch, L = levels, C =
children of a prefix.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from genrec.data.schemas import SequenceBatch
from genrec.decoding.trie import PrefixIndex, TrieStep

__all__ = ["Targets", "children", "mean_loss", "padding_bias"]


@dataclass(frozen=True)
class Targets:
    """The targets that exist, without padding.

    Attributes:
        items: The items to predict, shape ``(M,)``, int64.
        rows: Row of the batch of each, shape ``(M,)``, int64, rising.
        last: Position of the newest item that each may know, shape ``(M,)``, int64.
        live: Which of the batch's targets they are, ``(M,)``; None for all, in order.
        batch: Where they come from.
    """

    items: Tensor
    rows: Tensor
    last: Tensor
    live: Tensor | None
    batch: SequenceBatch

    @classmethod
    def of_batch(cls, batch: SequenceBatch) -> Targets:
        """Find the targets of a batch, packed or not."""
        history = batch.history
        if not batch.packed:
            rows = torch.arange(len(history), device=history.device)
            last = (history >= 0).sum(dim=1) - 1
            return cls(batch.targets[:, 0], rows, last, None, batch)
        live, size = batch.live, history.shape[1]
        if live is None:
            live = (batch.targets.flatten() >= 0).nonzero().squeeze(1)
        rows, last = live.div(size, rounding_mode="floor"), live % size
        some = live if len(live) < history.numel() else None
        return cls(batch.targets[rows, last], rows, last, some, batch)

    def hidden(self, num_levels: int, memory: Tensor) -> Tensor | None:
        """Hide from the decoder what targets must not know.

        Args:
            num_levels: Positions of a target ``L``.
            memory: The encoder's output, of whose dtype the bias is.

        Returns:
            Broadcastable to ``(B, 1, G * L, S)``, with ``G`` targets a row; None for nothing.
        """
        if not self.batch.packed:
            return padding_bias(self.batch.history, memory) if self.batch.padded else None
        items = torch.arange(memory.shape[1], device=memory.device)
        later = items > items.repeat_interleave(num_levels).unsqueeze(1)  # (S * L, S)
        return memory.new_zeros(later.shape).masked_fill(later, -torch.inf)[None, None]


def padding_bias(history: Tensor, memory: Tensor) -> Tensor:
    """Hide padding from the decoder, ``(B, 1, 1, S)`` in the dtype of ``memory``."""
    bias = torch.zeros(history.shape, dtype=memory.dtype, device=memory.device)
    return bias.masked_fill(history < 0, -torch.inf)[:, None, None]


def children(index: PrefixIndex, parents: Tensor, level: int) -> TrieStep:
    """List the children of states, ``(M, C)``; those of the root once for all."""
    if level == 0:
        step = index.step(parents.new_zeros(1, 1), 0)
        shape = (len(parents), -1)
        return TrieStep(*(part[0].expand(shape) for part in (step.codes, step.states, step.legal)))
    step = index.step(parents.unsqueeze(1), level)
    return TrieStep(step.codes[:, 0], step.states[:, 0], step.legal[:, 0])


def mean_loss(log_probs: Tensor, column: Tensor, smoothing: float) -> Tensor:
    """Average the negative log-probabilities of the targets, ``(M, C)`` to a scalar."""
    own = log_probs.gather(1, column.unsqueeze(1)).squeeze(1)
    if smoothing:
        exists = log_probs > -torch.inf
        spread = log_probs.where(exists, 0.0).sum(dim=1) / exists.sum(dim=1)
        own = (1 - smoothing) * own + smoothing * spread
    return -own.mean()
