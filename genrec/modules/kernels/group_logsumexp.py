"""Log-sums of exponentials over groups of a large table's scores, never all in memory at once.

Equals ``torch.stack([(x @ table.T + extra)[:, of_rows == g].logsumexp(1) for g in range(G)], 1)``.
Shown by: tests/unit/modules/kernels/test_group_logsumexp.py.
Shape legend: M = states, N = rows of the table, D = width, G = groups, P = listed pairs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional as F

from genrec.modules.exporting import is_exporting
from genrec.modules.kernels.linear_cross_entropy import ListedPairs, block_size

__all__ = ["RowGroups", "linear_group_logsumexp"]

#: States of each part, and their listed pairs.
Blocks: TypeAlias = list[tuple[slice, slice]]

#: So many exponentials are kept for the gradient; of more they are made again.
_KEPT = 2**25
#: A group so far below the best score of its state counts as this much, not as nothing.
_LEAST = 1e-37
#: Scores this near 0 have exponentials, and sums of them, that float32 holds as they are.
_NEAR = 60.0


@dataclass(frozen=True)
class RowGroups:
    """Which group each row of a table belongs to, and the rows of each.

    Attributes:
        of_rows: Group of each row, shape ``(N,)``, integer, in ``[0, G)``.
        order: The rows, group by group, shape ``(N,)``, integer.
        starts: Where each group begins there, shape ``(G + 1,)``, of the dtype of ``order``.
    """

    of_rows: Tensor
    order: Tensor
    starts: Tensor

    @classmethod
    def of(cls, of_rows: Tensor, order: Tensor, counts: Tensor) -> RowGroups:
        """Put groups together, given how many rows each of them has, ``(G,)``, at least one."""
        return cls(of_rows, order, F.pad(counts.cumsum(0, dtype=order.dtype), (1, 0)))

    @classmethod
    def alike(cls, num_groups: int, size: int, device: torch.device) -> RowGroups:
        """Put ``size`` neighbouring rows into each group."""
        order = torch.arange(num_groups * size, device=device)
        starts = torch.arange(0, num_groups * size + 1, size, device=device)
        return cls(order.div(size, rounding_mode="floor"), order, starts)

    def sums(self, lines: Tensor) -> Tensor:
        """Add up the lines of each group, ``(N, X)`` to ``(G, X)``."""
        return F.embedding_bag(self.order, lines, self.starts, mode="sum", include_last_offset=True)


@torch.compiler.disable
def linear_group_logsumexp(
    x: Tensor,
    table: Tensor,
    groups: RowGroups,
    pairs: ListedPairs | None = None,
    *,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Score all rows of a table for each state and add the exponentials up by groups of rows.

    Scores are made a few states at a time, and where they would take more than 128 MiB, once more
    for the gradient, so that memory stays bounded. They lie row by row of the table: a group is
    then a sum of whole lines.

    Args:
        x: States, shape ``(M, D)``.
        table: Shape ``(N, D)``.
        groups: Of the rows; each has one.
        pairs: What is added to some scores; None for nothing.
        dtype: Of the products; sums are kept in float32.

    Returns:
        Shape ``(M, G)``, float32; a group more than 85 below the best score of its state counts as
        that much, and has no gradient. Else the gradient reaches ``x``, ``table`` and ``extra``.
    """
    pairs = pairs or ListedPairs.none(x)
    found: Tensor = _GroupLogSumExp.apply(
        x.float(),
        table.float(),
        groups,
        pairs.states,
        pairs.rows,
        pairs.extra.float(),
        _blocks(x, table, pairs),
        dtype,
    )
    return found


class _GroupLogSumExp(torch.autograd.Function):
    """Keeps exponentials for the gradient where they are few, else makes them again."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        table: Tensor,
        groups: RowGroups,
        states: Tensor,
        rows: Tensor,
        extra: Tensor,
        blocks: Blocks,
        dtype: torch.dtype,
    ) -> Tensor:
        found, tops = x.new_empty(len(x), len(groups.starts) - 1), x.new_empty(len(x))
        keep = any(ctx.needs_input_grad) and len(x) * len(table) <= _KEPT
        kept = []
        rough_x, rough_table = x.to(dtype), table.to(dtype)
        near = _all_near(x, table, extra)
        with torch.autocast(x.device.type, enabled=False):
            for part, listed in blocks:
                at = (rows[listed], states[listed] - part.start)
                scores = _scores(rough_table, rough_x[part], at, extra[listed])
                top = tops[part] = x.new_zeros(scores.shape[1]) if near else scores.amax(dim=0)
                powers = scores.exp_() if near else scores.sub_(top).exp_()
                sums = groups.sums(powers)
                found[part] = (sums.clamp_(min=_LEAST).log_() + top).t()
                if keep:
                    kept.append(powers)
        ctx.save_for_backward(x, table, states, rows, extra, found, tops)
        ctx.groups, ctx.blocks, ctx.dtype, ctx.kept = groups, blocks, dtype, kept
        return found

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, of_found: Tensor) -> tuple[Tensor | None, ...]:
        x, table, states, rows, extra, found, tops = ctx.saved_tensors
        to_x, to_table, to_extra = (torch.zeros_like(tensor) for tensor in (x, table, extra))
        rough_x, rough_table = x.to(ctx.dtype), table.to(ctx.dtype)
        kept, ctx.kept = ctx.kept, []
        with torch.autocast(x.device.type, enabled=False):
            for number, (part, listed) in enumerate(ctx.blocks):
                at = (rows[listed], states[listed] - part.start)
                top = tops[part]
                if kept:
                    powers = kept[number]
                else:
                    scores = _scores(rough_table, rough_x[part], at, extra[listed])
                    powers = scores.sub_(top).exp_()
                # A row's share of its group, times the group's gradient.
                weights = of_found[part] * (top.unsqueeze(1) - found[part]).exp_()  # (m, G)
                lines = weights.t().contiguous().index_select(0, ctx.groups.of_rows)
                grads = lines.mul_(powers)
                to_extra[listed] = grads[at]
                rough = grads.to(ctx.dtype)
                to_x[part] = rough.t() @ rough_table
                to_table += rough @ rough_x[part]
        return to_x, to_table, None, None, None, to_extra, None, None


def _all_near(x: Tensor, table: Tensor, extra: Tensor) -> bool:
    """Tell whether no score needs the largest of its state taken off; a GPU is not asked."""
    if x.device.type != "cpu" or is_exporting() or not len(x):
        return False
    longest = (
        torch.linalg.vector_norm(x, dim=1).amax() * torch.linalg.vector_norm(table, dim=1).amax()
    )
    if len(extra):  # what is left out altogether needs no number
        longest = longest + extra.where(extra > -torch.inf, 0.0).abs().amax()
    return bool(longest < _NEAR)


def _blocks(x: Tensor, table: Tensor, pairs: ListedPairs) -> Blocks:
    """Cut the states into parts, each with its listed pairs."""
    size = block_size(x.device, len(table), torch.float32)
    bounds = pairs.bounds(len(x), size)
    return [
        (slice(begin, begin + size), slice(bounds[number], bounds[number + 1]))
        for number, begin in enumerate(range(0, len(x), size))
    ]


def _scores(table: Tensor, x: Tensor, at: tuple[Tensor, Tensor], extra: Tensor) -> Tensor:
    """Score all rows of the table for some states, ``(N, m)``, float32."""
    scores = F.linear(table, x).float()
    return scores.index_put_(at, extra, accumulate=True)
