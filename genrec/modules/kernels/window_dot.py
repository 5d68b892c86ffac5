"""Dot products of states with windows of a large table, without copying rows of the table.

Equals ``(x[:, None] * table[columns]).sum(-1) * wanted``.
Shown by: tests/unit/modules/kernels/test_window_dot.py.
Shape legend: M = rows, C = columns of a window, V = rows of the table, D = width.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from genrec.modules.exporting import is_exporting

__all__ = ["sampled_products", "sampled_products_backward", "window_dot"]

#: Bytes of rows that are copied at a time.
_COPIED = 2**28


@torch.compiler.disable
def window_dot(x: Tensor, table: Tensor, columns: Tensor, wanted: Tensor) -> Tensor:
    """Multiply each state with some rows of a table.

    A CPU reads each row of the table where it lies: on a window of 50 of 7,700 rows of 64 numbers
    that takes a fiftieth of the time of copying them. Elsewhere they are copied, a part of the
    states at a time and once more for the gradient; a graph that is exported copies all that is
    wanted.

    Args:
        x: States, shape ``(M, D)``, floating point.
        table: Shape ``(V, D)``, the dtype of ``x``.
        columns: Rows of the table for each state, shape ``(M, C)``, integer, in ``[0, V)`` where
            wanted.
        wanted: Which of them to compute, shape ``(M, C)``, bool.

    Returns:
        Products, shape ``(M, C)``; 0 where not wanted. The gradient of the table is dense.
    """
    if is_exporting():
        rows, places = wanted.nonzero(as_tuple=True)
        picked = table[columns[rows, places].long()]  # (E, D)
        products = (x[rows] * picked).sum(dim=-1)
        return x.new_zeros(wanted.shape, dtype=products.dtype).index_put((rows, places), products)
    sparse = x.device.type == "cpu" and x.dtype == torch.float32
    found: Tensor
    if sparse and columns.shape[1] <= len(table):  # sparse products take no fuller a matrix
        found = _WindowDot.apply(x, table, columns, wanted)
    else:
        found = _CopiedWindowDot.apply(x.to(table.dtype), table, columns, wanted)
    return found


def sampled_products(x: Tensor, table: Tensor, starts: Tensor, picked: Tensor) -> Tensor:
    """Multiply each state with the rows of a table that are listed for it, on a CPU.

    Args:
        x: States, shape ``(M, D)``, floating point.
        table: Shape ``(V, D)``, the dtype of ``x``.
        starts: Where each state's rows begin in the list, shape ``(M + 1,)``, int32.
        picked: The rows, shape ``(E,)``, int32.

    Returns:
        Products in the order of the list, shape ``(E,)``; without gradient.
    """
    values = x.new_zeros(len(picked))
    if not len(picked):
        return values
    counts = starts.diff()
    if x.dtype != torch.float32 or int(counts.max()) > len(table):
        # Sparse products know one dtype, and no fuller rows than the table is long.
        states = torch.repeat_interleave(counts, output_size=len(picked))
        size = max(1, _COPIED // (table.shape[1] * table.element_size()))
        for part in (slice(begin, begin + size) for begin in range(0, len(picked), size)):
            rows = table.index_select(0, picked[part])
            values[part] = (x.index_select(0, states[part]) * rows).sum(dim=1)
        return values
    _accept_sparse_layout()
    pattern = torch.sparse_csr_tensor(
        starts, picked, values, (len(x), len(table)), check_invariants=False
    )
    found: Tensor = torch.sparse.sampled_addmm(pattern, x, table.t(), beta=0.0).values()
    return found


def sampled_products_backward(
    x: Tensor, table: Tensor, starts: Tensor, picked: Tensor, of_out: Tensor, wants: Sequence[bool]
) -> tuple[Tensor | None, Tensor | None]:
    """Compute what :func:`sampled_products` would pass on to the states and to the table.

    Takes its arguments, the gradient of what it returns, and which of the two are wanted.
    """
    if not len(picked):
        return torch.zeros_like(x), torch.zeros_like(table)
    to_x = to_table = None
    if wants[0]:
        to_x = _weighted_sums(table, picked, starts, of_out)
    if wants[1]:
        rows = torch.arange(len(x), dtype=torch.int32, device=x.device)
        rows = rows.repeat_interleave(starts.diff(), output_size=len(picked))
        # Sorted, each row of the table gathers its states in one piece.
        order = picked.argsort(stable=True)
        ends = torch.bincount(picked, minlength=len(table)).cumsum(0, dtype=torch.int32)
        to_table = _weighted_sums(
            x,
            rows.index_select(0, order),
            torch.nn.functional.pad(ends, (1, 0)),
            of_out.index_select(0, order),
        )
    return to_x, to_table


@functools.cache
def _accept_sparse_layout() -> None:
    """Let PyTorch say once, unheard, that its sparse layout is in beta."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.sparse_csr_tensor(torch.tensor([0, 0]), torch.tensor([], dtype=torch.long), [])


class _WindowDot(torch.autograd.Function):
    """The wanted products as the values of a sparse matrix of shape ``(M, V)``."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, table: Tensor, columns: Tensor, wanted: Tensor) -> Tensor:
        ctx.save_for_backward(x, table, columns, wanted)
        # Rows of one prefix read the same rows of the table, the second time from the cache.
        order = columns[:, 0].argsort()
        wanted = wanted.index_select(0, order)
        starts, picked = _picked(columns.index_select(0, order), wanted)
        values = sampled_products(x.index_select(0, order), table, starts, picked)
        if len(values) < wanted.numel():
            values = x.new_zeros(wanted.shape).masked_scatter_(wanted, values)
        return (
            torch.empty_like(values)
            .view(wanted.shape)
            .index_copy_(0, order, values.view(wanted.shape))
        )

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, of_out: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        x, table, columns, wanted = ctx.saved_tensors
        starts, picked = _picked(columns, wanted)
        values = of_out.contiguous().view(-1)
        if len(picked) < len(values):
            values = of_out.masked_select(wanted)
        wants = ctx.needs_input_grad[:2]
        return *sampled_products_backward(x, table, starts, picked, values, wants), None, None


class _CopiedWindowDot(torch.autograd.Function):
    """The same from copies of the rows; the host waits for nothing, and memory is bounded."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, table: Tensor, columns: Tensor, wanted: Tensor) -> Tensor:
        columns = columns.long().where(wanted, 0)
        ctx.save_for_backward(x, table, columns, wanted)
        parts = []
        with torch.autocast(x.device.type, enabled=False):
            for part in _parts(columns, table):
                windows = table[columns[part]]  # (m, C, D)
                parts.append((windows @ x[part].unsqueeze(2)).squeeze(2))
        found = torch.cat(parts) if parts else x.new_zeros(wanted.shape)
        return found.masked_fill_(~wanted, 0.0)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, of_out: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        x, table, columns, wanted = ctx.saved_tensors
        to_x = torch.zeros_like(x) if ctx.needs_input_grad[0] else None
        to_table = torch.zeros_like(table) if ctx.needs_input_grad[1] else None
        weights = of_out.masked_fill(~wanted, 0.0)
        with torch.autocast(x.device.type, enabled=False):
            for part in _parts(columns, table):
                of_part, rows = weights[part], columns[part]
                if to_x is not None:
                    to_x[part] = (of_part.unsqueeze(1) @ table[rows]).squeeze(1)
                if to_table is not None:
                    shares = of_part.unsqueeze(2) * x[part].unsqueeze(1)  # (m, C, D)
                    to_table.index_add_(0, rows.flatten(), shares.flatten(0, 1))
        return to_x, to_table, None, None


def _parts(columns: Tensor, table: Tensor) -> list[slice]:
    """Cut the states so that copies of the rows of one part take no more than a bound."""
    row = max(1, columns.shape[1]) * table.shape[1] * table.element_size()
    size = max(1, _COPIED // row)
    return [slice(begin, begin + size) for begin in range(0, len(columns), size)]


def _picked(columns: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """List what is wanted in compressed rows: where each begins, ``(M + 1,)``, and the columns."""
    ends = wanted.sum(dim=1, dtype=torch.int32).cumsum(dim=0, dtype=torch.int32)
    columns = columns.int()
    every = int(ends[-1]) == wanted.numel() if len(ends) else True
    picked = columns.flatten() if every else columns.masked_select(wanted)
    return torch.nn.functional.pad(ends, (1, 0)), picked


def _weighted_sums(table: Tensor, rows: Tensor, starts: Tensor, weights: Tensor) -> Tensor:
    """Add up weighted rows of a table, from each start to the next."""
    return torch.nn.functional.embedding_bag(
        rows,
        table.detach(),  # else it keeps what its own gradient would need
        starts,
        mode="sum",
        per_sample_weights=weights,
        include_last_offset=True,
    )
