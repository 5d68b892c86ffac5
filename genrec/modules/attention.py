"""Multi-head attention with T5's relative position bias.

Shape legend: B = sequences, T = queries, S = keys, D = model width, H = heads, E = head width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from genrec.modules.exporting import is_exporting
from genrec.modules.kernels.attention import (
    absorb,
    absorbed_attention,
    absorbing_pays,
    attend,
    attend_step,
)

__all__ = ["CrossAttention", "CrossMemory", "RelativePositionBias", "SelfAttention"]

#: Distances of larger shapes, which an encoder has many of, are not kept.
_FEW_BUCKETS = 64


class RelativePositionBias(nn.Module):
    """A learned bias for each head and bucket of distance, shared by the layers of a stack.

    Distances below half the buckets have a bucket each, longer ones share logarithmically.

    Args:
        num_heads: Number of heads ``H``.
        bidirectional: Whether keys may lie after the query, as in an encoder.
        num_buckets: Number of buckets, even.
        max_distance: Distances from here on share the last bucket.

    Source:
        T5, https://arxiv.org/abs/1910.10683, section 2.1, with the buckets of its reference
        implementation.
    """

    def __init__(
        self,
        num_heads: int,
        *,
        bidirectional: bool,
        num_buckets: int = 32,
        max_distance: int = 128,
    ) -> None:
        super().__init__()
        self.bidirectional = bidirectional
        self.num_buckets = num_buckets
        self.max_distance = max_distance
        self.weight = nn.Parameter(torch.zeros(num_buckets, num_heads))
        self._known: dict[tuple[Any, ...], Tensor] = {}  # twenty small steps for each new code

    def buckets(self, distance: Tensor) -> Tensor:
        """Sort distances, key less query position, into buckets of the same shape, int64."""
        count = self.num_buckets
        first = torch.zeros_like(distance)
        if self.bidirectional:
            count //= 2
            first = (distance > 0).long() * count
            distance = distance.abs()
        else:
            distance = (-distance).clamp(min=0)
        exact = count // 2
        far = torch.log(distance.clamp(min=1).float() / exact) / math.log(self.max_distance / exact)
        shared = (exact + (far * (count - exact)).long()).clamp(max=count - 1)
        return first + torch.where(distance < exact, distance, shared)

    def forward(self, num_queries: int, num_keys: int, offset: int = 0) -> Tensor:
        """Compute the bias ``(1, H, T, S)`` of T queries, the first at ``offset`` of S keys."""
        bias = F.embedding(self._buckets_of(num_queries, num_keys, offset), self.weight)
        return bias.permute(2, 0, 1).unsqueeze(0)  # of (T, S, H)

    def _buckets_of(self, num_queries: int, num_keys: int, offset: int) -> Tensor:
        """Sort the distances of T queries, the first at ``offset``, and S keys: ``(T, S)``."""
        shape = (num_queries, num_keys, offset, self.weight.device)
        traced = is_exporting() or torch.compiler.is_compiling()  # which shall keep no shape
        known = None if traced else self._known.get(shape)
        if known is None:
            with torch.inference_mode(False):  # what is kept may meet a gradient later
                queries = torch.arange(offset, offset + num_queries, device=self.weight.device)
                keys = torch.arange(num_keys, device=self.weight.device)
                known = self.buckets(keys - queries.unsqueeze(1))
            if not traced and type(known) is Tensor and known.numel() <= _FEW_BUCKETS:
                self._known[shape] = known
        return known


class SelfAttention(nn.Module):
    """Attention of a sequence to itself, projections in one matrix, T5's unscaled scores.

    Args:
        width: Model width ``D``.
        inner_width: Width of all heads, ``H * E``.
        num_heads: Number of heads ``H``.
        dropout: On the attention weights.
    """

    def __init__(self, width: int, inner_width: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.dropout = dropout
        self.qkv = nn.Linear(width, 3 * inner_width, bias=False)
        self.out = nn.Linear(inner_width, width, bias=False)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        """Mix the rows of ``(B, T, D)`` by what they hold; ``bias`` hides keys where it is -inf.

        ``bias`` is added to the scores and broadcastable to ``(B, H, T, T)``.
        """
        q, k, v = _by_head(self.qkv(x), 3, self.num_heads)
        return self.out(attend(q, k, v, bias, self.dropout if self.training else 0.0))

    def project(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Map ``(..., D)`` to queries, ``(..., H * E)``, and to keys with values, twice as wide."""
        inner = self.out.in_features
        weight = self.qkv.weight
        return F.linear(x, weight[:inner]), F.linear(x, weight[inner:])

    def step(self, q: Tensor, seen: Sequence[Tensor], bias: Tensor) -> Tensor:
        """Map queries ``(B, W, H * E)`` of a position to ``(B, W, D)``; see :func:`attend_step`."""
        return self.out(attend_step(q, seen, bias, self.num_heads))


class CrossMemory(NamedTuple):
    """What queries look at.

    Attributes:
        keys: Shape ``(B, H, S, E)``; absorbed ``(B, H * S, D)``.
        values: The same shape.
        absorbed: Whether keys hold the query matrix and values the output matrix, so that the
            model's states take the place of queries and nothing is left to project.
    """

    keys: Tensor
    values: Tensor
    absorbed: bool


class CrossAttention(nn.Module):
    """Attention of the decoder to the encoder; keys and values are computed once a user.

    Args:
        width: Model width ``D``.
        inner_width: Width of all heads, ``H * E``.
        num_heads: Number of heads ``H``.
        dropout: On the attention weights.
    """

    def __init__(self, width: int, inner_width: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.dropout = dropout
        self.query = nn.Linear(width, inner_width, bias=False)
        self.kv = nn.Linear(width, 2 * inner_width, bias=False)
        self.out = nn.Linear(inner_width, width, bias=False)

    def keys_values(self, memory: Tensor) -> CrossMemory:
        """Project the encoder's output, ``(B, S, D)``, for one call of :meth:`forward`."""
        keys, values = _by_head(self.kv(memory), 2, self.num_heads)
        return CrossMemory(keys, values, absorbed=False)

    def absorb(self) -> tuple[Tensor, Tensor]:
        """Multiply projections into each other, see :func:`absorb`: two ``(H * D, D)``."""
        weights = self.query.weight, self.kv.weight, self.out.weight
        return absorb(*weights, self.num_heads)

    def remember(
        self, memory: Tensor, num_queries: int, absorbed: tuple[Tensor, Tensor] | None = None
    ) -> CrossMemory:
        """Project the encoder's output for many calls without dropout.

        Args:
            memory: Shape ``(B, S, D)``.
            num_queries: How many queries of each sequence will look at it, all calls together.
            absorbed: From :meth:`absorb`, where it is at hand; else the plain form is taken.

        Returns:
            What :meth:`forward` looks at, in the form that takes fewer operations: keys and
            values as they are, or, for many queries and few keys, with the query and output
            matrices multiplied in.
        """
        (_, length, width), inner = memory.shape, self.out.in_features
        pays = absorbing_pays(width, inner, self.num_heads, keys=length, queries=num_queries)
        if absorbed is not None and pays:
            keys, values = (
                _by_head(F.linear(memory, weight), 1, self.num_heads)[0].flatten(1, 2)
                for weight in absorbed  # (B, H * S, D) each
            )
            return CrossMemory(keys, values, absorbed=True)
        keys, values, _ = self.keys_values(memory)
        if memory.device.type == "cpu":  # the order of its matrix products
            keys = keys.transpose(-2, -1).contiguous().transpose(-2, -1)
            values = values.contiguous()
        return CrossMemory(keys, values, absorbed=False)

    def forward(self, x: Tensor, memory: CrossMemory, bias: Tensor | None) -> Tensor:
        """Mix what the encoder said into each row of ``(B, T, D)``.

        Args:
            x: All beams or targets of a user lie in one row of ``B``.
            memory: From :meth:`keys_values` or :meth:`remember`.
            bias: Broadcastable to ``(B, H, T, S)``, or None where all is visible.
        """
        if memory.absorbed:
            return absorbed_attention(x, memory.keys, memory.values, bias, self.num_heads)
        (q,) = _by_head(self.query(x), 1, self.num_heads)
        dropout_p = self.dropout if self.training else 0.0
        return self.out(attend(q, memory.keys, memory.values, bias, dropout_p))


def _by_head(x: Tensor, parts: int, num_heads: int) -> Tensor:
    """Split ``(B, T, parts * H * E)`` into parts and heads, ``(parts, B, H, T, E)``."""
    return x.unflatten(-1, (parts, num_heads, -1)).permute(2, 0, 3, 1, 4)
