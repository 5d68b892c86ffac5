"""Taking a picked code off a residual, with both quantisation losses, in one autograd node.

The gradients are known in closed form, and all of them are made of what is left of the residual.
Written with tensors' own operations they cost a quarter of the whole quantiser.
Equals ``codes[ids]``, ``residual - codes[ids].detach()`` and
:func:`~genrec.modules.losses.quantization_losses`.
Shown by: tests/numerics/test_quantize_kernels.py.
Shape legend: B = items in the batch, K = codes in one codebook, D = width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from genrec.modules.kernels.squares import mean_square

__all__ = ["subtract_code"]


def subtract_code(
    residual: Tensor, codes: Tensor, ids: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Subtract the code of each item as a constant, and measure what is left.

    Args:
        residual: Shape ``(B, D)``, B >= 1.
        codes: Shape ``(K, D)``.
        ids: Code of each item, shape ``(B,)``, int64, in ``[0, K)``.

    Returns:
        ``(code, rest, codebook_loss, commitment_loss)``: the picked codes ``(B, D)``, without
        gradient; ``residual - code``, ``(B, D)``, whose gradient goes to the residual; and, twice,
        the mean over items of ``||rest||^2``, scalar: once with a gradient in ``codes`` only, once
        with one in ``residual`` only. The same as
        :func:`~genrec.modules.losses.quantization_losses` of residual and code.

    Source:
        van den Oord et al. 2017, equation 3, https://arxiv.org/abs/1711.00937.
    """
    parts: tuple[Tensor, Tensor, Tensor, Tensor] = _SubtractCode.apply(residual, codes, ids)
    return parts


class _SubtractCode(torch.autograd.Function):
    """See :func:`subtract_code`."""

    @staticmethod
    def forward(
        ctx: Any, residual: Tensor, codes: Tensor, ids: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        code = codes.index_select(0, ids)
        rest = residual - code
        loss = mean_square(rest)
        ctx.save_for_backward(rest, ids)
        ctx.num_codes = len(codes)
        ctx.mark_non_differentiable(code)
        ctx.set_materialize_grads(False)
        return code, rest, loss, loss.clone()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(
        ctx: Any,
        _: None,
        of_rest: Tensor | None,
        of_codebook: Tensor | None,
        of_commitment: Tensor | None,
    ) -> tuple[Tensor | None, Tensor | None, None]:
        rest, ids = ctx.saved_tensors
        to_residual, to_codes = of_rest, None
        if of_commitment is not None and ctx.needs_input_grad[0]:
            scale = of_commitment * (2 / len(rest))
            to_residual = rest * scale if of_rest is None else of_rest.addcmul(rest, scale)
        if of_codebook is not None and ctx.needs_input_grad[1]:
            sums = _sums_by_code(rest, ids, ctx.num_codes)
            to_codes = sums * (of_codebook * (-2 / len(rest)))
        return to_residual, to_codes, None


def _sums_by_code(rest: Tensor, ids: Tensor, num_codes: int) -> Tensor:
    """Sum the rows of each code, ``(K, D)``, in the same order every time."""
    if rest.device.type == "cpu":  # twice as fast there; on other devices the order is chance
        return rest.new_zeros(num_codes, rest.shape[1]).index_add_(0, ids, rest)
    return torch.ops.aten.embedding_dense_backward(rest, ids, num_codes, -1, False)
