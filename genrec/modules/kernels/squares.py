"""Squared lengths and distances of rows, in fewer passes over memory.

Equals ``difference.square().sum(-1).mean()`` and ``(x_hat - x).square().sum(-1)``.
Shown by: tests/numerics/test_quantize_kernels.py, tests/unit/modules/test_losses.py.
Shape legend: B = batch, X = features, D = width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

__all__ = ["mean_square", "squared_errors"]


def mean_square(difference: Tensor) -> Tensor:
    """Average the squared lengths of the rows of ``(B, D)``, B >= 1; a scalar."""
    # A dot product makes one pass where a sum makes two.
    flat = difference.flatten()
    return torch.dot(flat, flat) / len(difference)


def squared_errors(x_hat: Tensor, x: Tensor) -> Tensor:
    """Measure the squared distance of each row of ``(B, X)`` to its target: ``(B,)``, float32."""
    errors: Tensor = _SquaredErrors.apply(x_hat, x)
    return errors


class _SquaredErrors(torch.autograd.Function):
    """Two passes over memory forward and one backward; plain operations make twice as many."""

    @staticmethod
    def forward(ctx: Any, x_hat: Tensor, x: Tensor) -> Tensor:
        error = x_hat.float() - x.float()  # (B, X)
        ctx.save_for_backward(error)
        ctx.dtypes = x_hat.dtype, x.dtype
        return torch.linalg.vector_norm(error, dim=-1).square()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, of_errors: Tensor) -> tuple[Tensor, Tensor | None]:
        (error,) = ctx.saved_tensors
        gradient = error * (2 * of_errors)[:, None]  # (B, X)
        to_x = (-gradient).to(ctx.dtypes[1]) if ctx.needs_input_grad[1] else None
        return gradient.to(ctx.dtypes[0]), to_x
