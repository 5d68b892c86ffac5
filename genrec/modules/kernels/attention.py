"""Attention over few keys, and with the projections multiplied into keys and values.

Equals ``softmax(q @ k.T + bias) @ v`` for each head, between the projections of its module.
Shown by: tests/unit/modules/test_attention.py, tests/numerics/test_retrieval_t5.py.
Shape legend: B = sequences, T = queries, S = keys, D = model width, H = heads, E = head width,
W = beams.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from genrec.modules.exporting import is_exporting
from genrec.modules.kernels.dropout import dropout

__all__ = ["absorb", "absorbed_attention", "absorbing_pays", "attend", "attend_step"]

#: Up to so many scores of a head (queries x keys) fit a core's cache.
_FEW_SCORES = 128 * 128
_SHORT_ROW = 16


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, dropout_p: float) -> Tensor:
    """Mix values ``(B, H, S, E)`` by unscaled attention of ``(B, H, T, E)``: ``(B, T, H * E)``."""
    if bias is not None:
        bias = bias.to(q.dtype)
    # A graph that is written for elsewhere has no shapes to choose by.
    few = is_exporting() or q.shape[-2] * k.shape[-2] <= _FEW_SCORES
    if q.device.type == "cpu" and (few or torch.is_grad_enabled()):
        # Short histories: two batches of matrix products beat the fused kernel. And a bias that
        # learns keeps that kernel out, whose substitute guards against rows without a visible
        # key, which do not occur here.
        if not is_exporting() and k.shape[-2] < _SHORT_ROW:
            # A softmax over rows that do not fill a vector register takes ten times as long.
            scores = k @ q.transpose(-2, -1)  # (B, H, S, T)
            if bias is not None:
                scores = scores + bias.transpose(-2, -1)
            weights = scores.softmax(dim=-2).transpose(-2, -1)
        else:
            scores = q @ k.transpose(-2, -1)
            if bias is not None:
                scores = scores + bias
            weights = scores.softmax(dim=-1)
        mixed = dropout(weights, dropout_p, dropout_p > 0.0) @ v
    else:
        mixed = F.scaled_dot_product_attention(
            q, k, v, attn_mask=bias, dropout_p=dropout_p, scale=1.0
        )
    return mixed.transpose(1, 2).flatten(2)


def attend_step(q: Tensor, seen: Sequence[Tensor], bias: Tensor, num_heads: int) -> Tensor:
    """Attend from one new position of every beam to itself and the few before it.

    Args:
        q: Queries of the new position, shape ``(B, W, H * E)``.
        seen: Keys and values of each position, the new one last, ``(B, W, 2 * H * E)``, or
            ``(B, 1, 2 * H * E)`` where the beams of a user share it.
        bias: Shape ``(1, H, 1, T)``.
        num_heads: Heads H that share the width.

    Returns:
        Mixed values, shape ``(B, W, H * E)``.
    """
    inner = q.shape[-1]
    heads = (*q.shape[:2], num_heads, -1)
    # Up to six keys a query: products and sums beat a batch of tiny matrix products, and
    # positions first, a softmax over whole vectors one over tiny rows.
    scores = torch.stack([(q * k[..., :inner]).view(heads).sum(-1) for k in seen])
    scores += bias[0, :, 0].T[:, None, None]
    weights = scores.softmax(dim=0).unsqueeze(-1)  # (T, B, W, H, 1)
    values = [v[..., inner:].unflatten(-1, (num_heads, -1)) for v in seen]
    mixed = values[0] * weights[0]
    for value, weight in zip(values[1:], weights[1:], strict=True):
        mixed.addcmul_(value, weight)
    return mixed.flatten(2)


def absorb(query: Tensor, kv: Tensor, out: Tensor, num_heads: int) -> tuple[Tensor, Tensor]:
    """Multiply the query matrix into the keys', and the output matrix into the values'.

    Args:
        query: Weight of the queries, shape ``(H * E, D)``.
        kv: Weight of keys and values, shape ``(2 * H * E, D)``.
        out: Weight of the output, shape ``(D, H * E)``.
        num_heads: Heads H that share the width.

    Returns:
        Two matrices, each ``(H * D, D)``.

    Source:
        The weight absorption of DeepSeek-V2, https://arxiv.org/abs/2405.04434, section 2.1.2, for
        another reason: not a smaller cache, but fewer operations.
    """
    query = query.unflatten(0, (num_heads, -1)).transpose(1, 2)  # (H, D, E)
    out = out.unflatten(1, (num_heads, -1)).transpose(0, 1)  # (H, D, E)
    key, value = kv.unflatten(0, (2, num_heads, -1))  # (H, E, D) each
    return (query @ key).flatten(0, 1), (out @ value).flatten(0, 1)


def absorbing_pays(width: int, inner: int, num_heads: int, *, keys: int, queries: int) -> bool:
    """Tell whether ``queries`` and ``keys`` of a sequence need fewer operations when absorbed."""
    # Multiplications of a sequence: of all keys, and of all queries.
    plain = 2 * width * inner * keys + 2 * (width + keys) * inner * queries
    other = 2 * width * keys * num_heads * (width + queries)
    # Writing the larger keys takes its time, too.
    return 1.2 * other < plain


def absorbed_attention(
    x: Tensor, keys: Tensor, values: Tensor, bias: Tensor | None, num_heads: int
) -> Tensor:
    """Attend with projections multiplied in; nothing is left to project.

    Args:
        x: The model's states, shape ``(B, T, D)``.
        keys: Shape ``(B, H * S, D)``.
        values: The same shape.
        bias: Broadcastable to ``(B, H, T, S)``, or None where all is visible.
        num_heads: Heads H that share the width.

    Returns:
        Shape ``(B, T, D)``.
    """
    scores = x @ keys.transpose(-2, -1)  # (B, T, H * S)
    by_head = scores.unflatten(-1, (num_heads, -1))
    if bias is not None:
        by_head = by_head + bias.transpose(1, 2)
    return by_head.softmax(dim=-1).flatten(-2) @ values
