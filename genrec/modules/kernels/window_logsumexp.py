"""Log-sums of exponentials over groups of neighbouring rows, of which each state has its own.

Equals ``(x[m] @ table[rows].T + extra).logsumexp(0)`` over the rows of each group of each state.
Shown by: tests/unit/modules/kernels/test_window_logsumexp.py.
Shape legend: M = states, V = rows of the table, D = width, C = groups of a state, E = rows in the
windows of all states together.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from genrec.modules.kernels.window_dot import sampled_products, sampled_products_backward

__all__ = ["Windows", "window_logsumexp"]

#: A group so far below the best score of its state counts as this much, not as nothing.
_LEAST = 1e-37


@dataclass(frozen=True)
class Windows:
    """Windows of unequal length side by side, without padding.

    Attributes:
        firsts: Place at which each window begins, shape ``(M,)``, int32.
        counts: How long it is, shape ``(M,)``, int32; 0 for none.
        starts: Where it begins among the entries of all, shape ``(M + 1,)``, int32.
        places: Place of each entry, shape ``(E,)``, int32.
    """

    firsts: Tensor
    counts: Tensor
    starts: Tensor
    places: Tensor

    @classmethod
    def of(cls, firsts: Tensor, counts: Tensor) -> Windows:
        """List the entries of windows, given where they begin and how long they are."""
        starts = F.pad(counts.cumsum(0, dtype=torch.int32), (1, 0))
        total = int(starts[-1])
        places = (firsts - starts[:-1]).repeat_interleave(counts, output_size=total)
        places += torch.arange(total, dtype=torch.int32)
        return cls(firsts, counts, starts, places)

    def spread(self, values: Tensor) -> Tensor:
        """Give every entry what its state has, ``(M,)`` to ``(E,)``."""
        return values.repeat_interleave(self.counts, output_size=len(self.places))

    def mark(self, places: Tensor, wanted: Tensor) -> Tensor:
        """Tell which entries are at some places.

        Args:
            places: Some for each state, shape ``(M, S)``, int32, inside its window or not.
            wanted: Which of them count, shape ``(M, S)``, bool.

        Returns:
            Shape ``(E,)``, float32, 1 where one is.
        """
        ranks = places - self.firsts.unsqueeze(1)
        inside = wanted & (ranks >= 0) & (ranks < self.counts.unsqueeze(1))
        entries = (ranks + self.starts[:-1].unsqueeze(1)).masked_select(inside)
        return torch.zeros(len(self.places)).index_fill_(0, entries.long(), 1.0)


@torch.compiler.disable
def window_logsumexp(
    x: Tensor,
    table: Tensor,
    rows: Tensor,
    windows: Windows,
    cells: Tensor,
    num_groups: int,
    extra: Tensor | None = None,
) -> Tensor:
    """Score a window of rows for each state and add the exponentials up by groups.

    Work follows the rows that are there, however unequal the windows are. For a CPU: the host has
    to know how many rows there are in all.

    Args:
        x: States, shape ``(M, D)``, floating point.
        table: Shape ``(V, D)``, floating point.
        rows: Row of the table of each entry, shape ``(E,)``, integer, in ``[0, V)``.
        windows: Which entries belong to which state.
        cells: Number that each entry adds to, those of ``(M, C)`` counted row by row, shape
            ``(E,)``, integer.
        num_groups: C.
        extra: What is added to the scores, shape ``(E,)``, float32, or None.

    Returns:
        Shape ``(M, C)``, float64 where the table is, else float32; of groups without a row 0
        where the state has no window, else a number far below the others'. Its gradient reaches
        ``x``, ``table`` and ``extra``.
    """
    dtype = torch.promote_types(table.dtype, torch.float32)
    extra = None if extra is None else extra.to(dtype)
    found: Tensor = _WindowLogSumExp.apply(
        x.to(dtype), table.to(dtype), rows.int(), windows, cells, num_groups, extra
    )
    return found


class _WindowLogSumExp(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        table: Tensor,
        rows: Tensor,
        windows: Windows,
        cells: Tensor,
        num_groups: int,
        extra: Tensor | None,
    ) -> Tensor:
        starts = windows.starts
        scores = sampled_products(x, table, starts, rows)
        if extra is not None:
            scores += extra
        tops = torch.segment_reduce(scores, "max", offsets=starts.long(), initial=-1e30)
        tops = torch.where(windows.counts > 0, tops, 0.0)
        powers = scores.sub_(windows.spread(tops)).exp_()
        sums = x.new_zeros(len(x) * num_groups).index_add_(0, cells, powers)
        found = sums.view(len(x), num_groups).clamp_(min=_LEAST).log_().add_(tops.unsqueeze(1))
        found.masked_fill_((windows.counts == 0).unsqueeze(1), 0.0)
        ctx.save_for_backward(x, table, rows, starts, cells, powers, found, tops)
        return found

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, of_found: Tensor) -> tuple[Tensor | None, ...]:
        x, table, rows, starts, cells, powers, found, tops = ctx.saved_tensors
        # An entry's share of its group, times the group's gradient.
        weights = of_found * (tops.unsqueeze(1) - found).exp_()
        grads = weights.reshape(-1).index_select(0, cells).mul_(powers)
        to_x, to_table = sampled_products_backward(
            x, table, starts, rows, grads, ctx.needs_input_grad[:2]
        )
        to_extra = grads if ctx.needs_input_grad[6] else None
        return to_x, to_table, None, None, None, None, to_extra
