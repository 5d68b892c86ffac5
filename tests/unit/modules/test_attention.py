"""Attention to the encoder, plain and with the projections multiplied in."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from genrec.modules.attention import CrossAttention

WIDTH, HEADS, HEAD_WIDTH = 6, 2, 3


def make() -> CrossAttention:
    torch.manual_seed(0)
    return CrossAttention(WIDTH, HEADS * HEAD_WIDTH, HEADS, 0.0).double().eval()


def naive(cross: CrossAttention, x: Tensor, memory: Tensor, visible: Tensor) -> np.ndarray:
    """One query, one head at a time."""
    query, kv, out = (w.weight.detach().numpy() for w in (cross.query, cross.kv, cross.out))
    inner = HEADS * HEAD_WIDTH
    found = np.zeros(x.shape)
    for row, (states, seen) in enumerate(zip(x.numpy(), memory.numpy(), strict=True)):
        seen = seen[visible[row].numpy()]
        keys, values = seen @ kv[:inner].T, seen @ kv[inner:].T
        for column, state in enumerate(states):
            mixed = np.zeros(inner)
            for head in range(HEADS):
                part = slice(head * HEAD_WIDTH, (head + 1) * HEAD_WIDTH)
                scores = keys[:, part] @ (query @ state)[part]
                weights = np.exp(scores - scores.max())
                mixed[part] = weights / weights.sum() @ values[:, part]
            found[row, column] = out @ mixed
    return found


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("num_queries", [1, 1000])
def test_both_forms_are_attention(batch: int, padded: bool, num_queries: int) -> None:
    cross = make()
    x = torch.randn(batch, 4, WIDTH, dtype=torch.float64)
    memory = torch.randn(batch, 3, WIDTH, dtype=torch.float64)
    visible = torch.ones(batch, 3, dtype=torch.bool)
    bias = None
    if padded:
        visible[-1, 2:] = False
        bias = torch.zeros(batch, 1, 1, 3, dtype=torch.float64)
        bias = bias.masked_fill(~visible[:, None, None], -math.inf)
    with torch.no_grad():
        for known in (None, cross.absorb()):
            remembered = cross.remember(memory, num_queries, known)
            assert remembered.absorbed == (num_queries == 1000 and known is not None)
            found = cross(x, remembered, bias)
            np.testing.assert_allclose(found, naive(cross, x, memory, visible), atol=1e-12)
        torch.testing.assert_close(found, cross(x, cross.keys_values(memory), bias))


@pytest.mark.parametrize(
    ("length", "num_queries", "absorbed"),
    [(24, 61, True), (24, 31, False), (24, 151, True), (80, 61, False), (4, 4, False)],
)
@pytest.mark.parametrize("batch", [1, 32])
def test_projections_are_multiplied_in_where_that_saves_work(
    batch: int, length: int, num_queries: int, absorbed: bool
) -> None:
    cross = CrossAttention(128, 384, 6, 0.0).eval()
    with torch.no_grad():
        remembered = cross.remember(torch.zeros(batch, length, 128), num_queries, cross.absorb())
    assert remembered.absorbed == absorbed
    shape = (batch, 6 * length, 128) if absorbed else (batch, 6, length, 64)
    assert remembered.keys.shape == shape
