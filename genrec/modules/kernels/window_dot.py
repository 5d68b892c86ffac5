"""Dot products of states with windows of a large table, without copying rows of the table.

Equals ``(x[:, None] * table[columns]).sum(-1) * wanted``.
Shown by: tests/unit/modules/kernels/test_window_dot.py.
Shape legend: M = rows, C = columns of a window, V = rows of the table, D = width.
"""

from __future__ import annotations

import functools
import warnings
from typing import Any

import torch
from torch import Tensor

from genrec.modules.exporting import is_exporting

__all__ = ["window_dot"]


def window_dot(x: Tensor, table: Tensor, columns: Tensor, wanted: Tensor) -> Tensor:
    """Multiply each state with some rows of a table.

    A GPU copies the rows, as does a graph that is exported. A CPU reads each row of the table
    where it lies: on a window of 50 of 7,700 rows of 64 numbers that takes a fiftieth of the
    time of copying them.

    Args:
        x: States, shape ``(M, D)``, floating point.
        table: Shape ``(V, D)``, the dtype of ``x``.
        columns: Rows of the table for each state, shape ``(M, C)``, integer, in ``[0, V)`` where
            wanted.
        wanted: Which of them to compute, shape ``(M, C)``, bool.

    Returns:
        Products, shape ``(M, C)``; 0 where not wanted. The gradient of the table is dense.
    """
    sparse = x.device.type == "cpu" and x.dtype == torch.float32 and not is_exporting()
    if not sparse or columns.shape[1] > len(table):  # sparse products take no fuller a matrix
        rows, places = wanted.nonzero(as_tuple=True)
        picked = table[columns[rows, places].long()]  # (E, D)
        products = (x[rows] * picked).sum(dim=-1)
        return x.new_zeros(wanted.shape, dtype=products.dtype).index_put((rows, places), products)
    _accept_sparse_layout()
    products_cpu: Tensor = _WindowDot.apply(x, table, columns, wanted)
    return products_cpu


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
        ends = wanted.sum(dim=1).cumsum(dim=0)
        starts = torch.nn.functional.pad(ends, (1, 0))  # (M + 1,)
        picked = columns.masked_select(wanted).long()  # (E,)
        out = x.new_zeros(wanted.shape)
        if len(picked):
            pattern = _matrix(starts, picked, x.new_zeros(len(picked)), len(table))
            products = torch.sparse.sampled_addmm(pattern, x, table.t(), beta=0.0).values()
            out.masked_scatter_(wanted, products)
        ctx.save_for_backward(x, table, starts, picked, wanted)
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, of_out: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        x, table, starts, picked, wanted = ctx.saved_tensors
        values = of_out.masked_select(wanted)
        if not len(values):
            return torch.zeros_like(x), torch.zeros_like(table), None, None
        to_x = to_table = None
        if ctx.needs_input_grad[0]:
            to_x = _matrix(starts, picked, values, len(table)) @ table
        if ctx.needs_input_grad[1]:
            rows = torch.repeat_interleave(starts.diff())
            to_table = torch.zeros_like(table)
            # Sorted, each row of the table gathers its states in one piece.
            order = picked.argsort(stable=True)
            touched, counts = picked[order].unique_consecutive(return_counts=True)
            bags = torch.nn.functional.pad(counts.cumsum(0)[:-1], (1, 0))
            sums = torch.nn.functional.embedding_bag(
                rows[order], x, bags, mode="sum", per_sample_weights=values[order]
            )
            to_table[touched] = sums
        return to_x, to_table, None, None


def _matrix(starts: Tensor, picked: Tensor, values: Tensor, num_columns: int) -> Tensor:
    """Assemble a sparse matrix in compressed rows, ``(M, num_columns)``."""
    shape = (len(starts) - 1, num_columns)
    return torch.sparse_csr_tensor(starts, picked, values, shape, check_invariants=False)
