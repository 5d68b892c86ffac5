"""Cross-entropy over a large table, whose scores never lie in memory all at once.

Shape legend: M = states, N = rows of the table, D = width, P = listed pairs.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

__all__ = ["linear_cross_entropy"]

#: Scores that are worked on together: on a CPU as many as its caches hold.
_CPU_SCORES, _GPU_SCORES = 2**20, 2**26


def linear_cross_entropy(
    x: Tensor,
    table: Tensor,
    targets: Tensor,
    pairs: tuple[Tensor, Tensor, Tensor] | None = None,
) -> Tensor:
    """Score all rows of a table for each state and take the mean cross-entropy of the targets.

    Equals ``F.cross_entropy(x @ table.T + extra, targets)``. Scores are made, turned into
    gradients and forgotten a few states at a time, which more than halves the time on a CPU and
    bounds the memory.

    Args:
        x: States, shape ``(M, D)``, M >= 1.
        table: Shape ``(N, D)``.
        targets: Row of the table for each state, shape ``(M,)``, int64.
        pairs: ``(states, rows, extra)``, each of shape ``(P,)``: ``extra`` is added to the score
            of that row for that state; ``states`` rise and no pair is listed twice. None for
            none.

    Returns:
        Scalar, float32; its gradient reaches ``x``, ``table`` and ``extra``.

    Source:
        The fused head of Liger, https://arxiv.org/abs/2410.10989, section 3.2. Differs: scores
        of some pairs can be changed.
    """
    if pairs is None:
        none = targets.new_zeros(0)
        pairs = (none, none, x.new_zeros(0))
    states, rows, extra = pairs
    loss: Tensor = _LinearCrossEntropy.apply(
        x.float(), table.float(), targets, states, rows, extra.float()
    )
    return loss


class _LinearCrossEntropy(torch.autograd.Function):
    """The gradient is made together with the loss, which it is a multiple of."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        table: Tensor,
        targets: Tensor,
        states: Tensor,
        rows: Tensor,
        extra: Tensor,
    ) -> Tensor:
        limit = _CPU_SCORES if x.device.type == "cpu" else _GPU_SCORES
        size = max(1, limit // len(table))
        starts = torch.arange(0, len(x) + size, size, device=x.device)
        bounds = torch.searchsorted(states, starts).tolist()
        to_x, to_table = torch.empty_like(x), torch.zeros_like(table)
        to_extra = torch.empty_like(extra)
        losses = x.new_empty(len(x))
        with torch.autocast(x.device.type, enabled=False):
            for number, begin in enumerate(range(0, len(x), size)):
                part = slice(begin, begin + size)
                listed = slice(bounds[number], bounds[number + 1])
                at = (states[listed] - begin, rows[listed])
                scores = x[part] @ table.t()  # (m, N)
                scores.index_put_(at, extra[listed], accumulate=True)
                wanted = targets[part].unsqueeze(1)
                own = scores.gather(1, wanted)
                largest = scores.amax(dim=1, keepdim=True)
                scores.sub_(largest).exp_()
                total = scores.sum(dim=1, keepdim=True)
                losses[part] = (total.log() + largest - own).squeeze(1)
                scores.div_(total).scatter_add_(1, wanted, -torch.ones_like(own))
                to_extra[listed] = scores[at]
                torch.mm(scores, table, out=to_x[part])
                to_table.addmm_(scores.t(), x[part])
        ctx.save_for_backward(to_x, to_table, to_extra)
        return losses.mean()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, of_loss: Tensor) -> tuple[Tensor | None, ...]:
        to_x, to_table, to_extra = ctx.saved_tensors
        share = of_loss / len(to_x)
        return to_x * share, to_table * share, None, None, None, to_extra * share
