"""Multi-head attention with T5's relative position bias.

Shape legend: B = sequences, T = queries, S = keys, D = model width, H = heads, E = head width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from genrec.modules.dropout import dropout

__all__ = ["CrossAttention", "CrossMemory", "RelativePositionBias", "SelfAttention"]


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

    def buckets(self, distance: Tensor) -> Tensor:
        """Sort distances into buckets.

        Args:
            distance: Key position minus query position, any shape, int64.

        Returns:
            Bucket of each, the same shape, int64.
        """
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
        """Compute the bias.

        Args:
            num_queries: Number of queries ``T``.
            num_keys: Number of keys ``S``.
            offset: Position of the first query among the keys.

        Returns:
            Shape ``(1, H, T, S)``.
        """
        device = self.weight.device
        queries = torch.arange(offset, offset + num_queries, device=device)
        keys = torch.arange(num_keys, device=device)
        buckets = self.buckets(keys - queries.unsqueeze(1))  # (T, S)
        bias = F.embedding(buckets, self.weight)  # (T, S, H)
        return bias.permute(2, 0, 1).unsqueeze(0)


#: Up to so many scores of a head (queries x keys) fit a core's cache.
_FEW_SCORES = 128 * 128


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
        """Attend.

        Args:
            x: Shape ``(B, T, D)``.
            bias: Added to the scores, broadcastable to ``(B, H, T, T)``; ``-inf`` where a query
                must not see a key.

        Returns:
            Shape ``(B, T, D)``.
        """
        q, k, v = _by_head(self.qkv(x), 3, self.num_heads)
        return self.out(_attend(q, k, v, bias, self.dropout if self.training else 0.0))

    def project(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Compute queries, and keys with values, apart: what is remembered stays on its own.

        Args:
            x: Shape ``(..., D)``.

        Returns:
            Shapes ``(..., H * E)`` and ``(..., 2 * H * E)``.
        """
        inner = self.out.in_features
        weight = self.qkv.weight
        return F.linear(x, weight[:inner]), F.linear(x, weight[inner:])

    def step(self, q: Tensor, seen: Sequence[Tensor], bias: Tensor) -> Tensor:
        """Attend from one new position of every beam to itself and the ones before it.

        Args:
            q: Queries of the new position, shape ``(B, W, H * E)``.
            seen: Keys and values of each position, the new one last, ``(B, W, 2 * H * E)``, or
                ``(B, 1, 2 * H * E)`` where the beams of a user share it.
            bias: Shape ``(1, H, 1, T)``.

        Returns:
            Shape ``(B, W, D)``.
        """
        inner = self.out.in_features
        heads = (*q.shape[:2], self.num_heads, -1)
        # Up to six keys a query: products and sums beat a batch of tiny matrix products, and
        # positions first, a softmax over whole vectors one over tiny rows.
        scores = torch.stack([(q * k[..., :inner]).view(heads).sum(-1) for k in seen])
        scores += bias[0, :, 0].T[:, None, None]
        weights = scores.softmax(dim=0).unsqueeze(-1)  # (T, B, W, H, 1)
        values = [v[..., inner:].unflatten(-1, (self.num_heads, -1)) for v in seen]
        mixed = values[0] * weights[0]
        for value, weight in zip(values[1:], weights[1:], strict=True):
            mixed.addcmul_(value, weight)
        return self.out(mixed.flatten(2))


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
        """Project the encoder's output for one call.

        Args:
            memory: Shape ``(B, S, D)``.

        Returns:
            What :meth:`forward` looks at.
        """
        keys, values = _by_head(self.kv(memory), 2, self.num_heads)
        return CrossMemory(keys, values, absorbed=False)

    def absorb(self) -> tuple[Tensor, Tensor]:
        """Multiply the query matrix into the keys', and the output matrix into the values'.

        Returns:
            Two matrices, each ``(H * D, D)``.
        """
        heads = self.num_heads
        query = self.query.weight.unflatten(0, (heads, -1)).transpose(1, 2)  # (H, D, E)
        out = self.out.weight.unflatten(1, (heads, -1)).transpose(0, 1)  # (H, D, E)
        key, value = self.kv.weight.unflatten(0, (2, heads, -1))  # (H, E, D) each
        return (query @ key).flatten(0, 1), (out @ value).flatten(0, 1)

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

        Source:
            The second form is the weight absorption of DeepSeek-V2,
            https://arxiv.org/abs/2405.04434, section 2.1.2, for another reason.
        """
        (_, length, width), inner = memory.shape, self.out.in_features
        # Multiplications of a sequence: of all keys, and of all queries.
        plain = 2 * width * inner * length + 2 * (width + length) * inner * num_queries
        other = 2 * width * length * self.num_heads * (width + num_queries)
        # Writing the larger keys takes its time, too.
        if absorbed is not None and 1.2 * other < plain:
            keys, values = (
                _by_head(F.linear(memory, weight), 1, self.num_heads)[0].flatten(
                    1, 2
                )  # (B, H * S, D)
                for weight in absorbed
            )
            return CrossMemory(keys, values, absorbed=True)
        keys, values, _ = self.keys_values(memory)
        if memory.device.type == "cpu":  # the order of its matrix products
            keys = keys.transpose(-2, -1).contiguous().transpose(-2, -1)
            values = values.contiguous()
        return CrossMemory(keys, values, absorbed=False)

    def forward(self, x: Tensor, memory: CrossMemory, bias: Tensor | None) -> Tensor:
        """Attend.

        Args:
            x: Shape ``(B, T, D)``; all beams or targets of a user lie in one row of ``B``.
            memory: From :meth:`keys_values` or :meth:`remember`.
            bias: Broadcastable to ``(B, H, T, S)``, or None where all is visible.

        Returns:
            Shape ``(B, T, D)``.
        """
        if memory.absorbed:
            scores = x @ memory.keys.transpose(-2, -1)  # (B, T, H * S)
            by_head = scores.unflatten(-1, (self.num_heads, -1))
            if bias is not None:
                by_head = by_head + bias.transpose(1, 2)
            return by_head.softmax(dim=-1).flatten(-2) @ memory.values
        (q,) = _by_head(self.query(x), 1, self.num_heads)
        dropout_p = self.dropout if self.training else 0.0
        return self.out(_attend(q, memory.keys, memory.values, bias, dropout_p))


def _by_head(x: Tensor, parts: int, num_heads: int) -> Tensor:
    """Split ``(B, T, parts * H * E)`` into parts and heads, ``(parts, B, H, T, E)``."""
    return x.unflatten(-1, (parts, num_heads, -1)).permute(2, 0, 3, 1, 4)


def _attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, p: float) -> Tensor:
    """Mix values by unscaled attention; return shape ``(B, T, H * E)``."""
    if bias is not None:
        bias = bias.to(q.dtype)
    few = q.shape[-2] * k.shape[-2] <= _FEW_SCORES
    if q.device.type == "cpu" and (few or torch.is_grad_enabled()):
        # Short histories: two batches of matrix products beat the fused kernel. And a bias that
        # learns keeps that kernel out, whose substitute guards against rows without a visible
        # key, which do not occur here.
        scores = q @ k.transpose(-2, -1)
        if bias is not None:
            scores = scores + bias
        mixed = dropout(scores.softmax(dim=-1), p, p > 0.0) @ v
    else:
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, dropout_p=p, scale=1.0)
    return mixed.transpose(1, 2).flatten(2)
