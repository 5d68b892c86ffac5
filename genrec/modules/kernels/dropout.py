"""Dropout whose random numbers do not dominate training on a CPU.

torch draws a Bernoulli number for each element there, which takes longer than the matrix
product before it. Here one 64-bit number serves four elements.

Equals ``torch.nn.functional.dropout``, with other draws.
Shown by: tests/unit/modules/kernels/test_dropout.py.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["dropout"]

_LEVELS = 2**16


def dropout(x: Tensor, p: float, training: bool) -> Tensor:
    """Set elements to zero at random and scale up the rest.

    Args:
        x: Any shape, floating point.
        p: Probability of zero, in ``[0, 1)``; on a CPU rounded to a multiple of 2^-16.
        training: Whether to do anything.

    Returns:
        The same shape; the expectation is ``x`` exactly.
    """
    if not training or p == 0.0:
        return x
    if x.device.type != "cpu":
        return F.dropout(x, p)
    dropped = min(round(p * _LEVELS), _LEVELS - 1)
    words = torch.empty((x.numel() + 3) // 4, dtype=torch.int64)
    words.random_(-(2**63), None)  # None: up to and with the largest, all 64 bits
    draws = words.view(torch.int16)[: x.numel()].view(x.shape)
    kept = torch.empty_like(x, memory_format=torch.contiguous_format, requires_grad=False)
    torch.ge(draws, dropped - _LEVELS // 2, out=kept)  # numbers at once, in one pass
    return x * kept.mul_(_LEVELS / (_LEVELS - dropped))
