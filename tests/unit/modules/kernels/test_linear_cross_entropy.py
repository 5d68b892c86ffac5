"""The large softmax in pieces against the plain one."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from genrec.modules.kernels import linear_cross_entropy as module
from genrec.modules.kernels.linear_cross_entropy import ListedPairs, linear_cross_entropy


@pytest.mark.parametrize("rows_at_once", [1, 3, 100])
@pytest.mark.parametrize("listed", [False, True])
def test_loss_and_gradients(
    monkeypatch: pytest.MonkeyPatch, rows_at_once: int, listed: bool
) -> None:
    monkeypatch.setattr(module, "_CPU_BYTES", rows_at_once * 11 * 4)
    torch.manual_seed(0)
    x, table = torch.randn(8, 4, requires_grad=True), torch.randn(11, 4, requires_grad=True)
    targets = torch.randint(0, 11, (8,))
    extra = torch.tensor([3.0, -2.0, -torch.inf], requires_grad=True)
    states, rows = torch.tensor([0, 0, 6]), torch.tensor([4, int(targets[0]), 5])
    rows[0] = (rows[1] + 1) % 11
    rows[2] = (targets[6] + 1) % 11
    pairs = ListedPairs(states, rows, extra) if listed else None
    found = 2 * linear_cross_entropy(x, table, targets, pairs)
    scores = x @ table.t()
    if listed:
        scores = scores.index_put((states, rows), extra, accumulate=True)
    expected = 2 * F.cross_entropy(scores, targets)
    torch.testing.assert_close(found, expected)
    inputs = (x, table, extra) if listed else (x, table)
    for gradient, reference in zip(
        torch.autograd.grad(found, inputs), torch.autograd.grad(expected, inputs), strict=True
    ):
        torch.testing.assert_close(gradient, reference)


def test_bfloat16_is_close() -> None:
    torch.manual_seed(0)
    x, table = torch.randn(64, 16, requires_grad=True), torch.randn(300, 16, requires_grad=True)
    targets = torch.randint(0, 300, (64,))
    exact = linear_cross_entropy(x, table, targets)
    rough = linear_cross_entropy(x, table, targets, dtype=torch.bfloat16)
    assert rough.dtype == torch.float32
    torch.testing.assert_close(rough, exact, rtol=1e-2, atol=0)
    for a, b in zip(
        torch.autograd.grad(rough, (x, table)), torch.autograd.grad(exact, (x, table)), strict=True
    ):
        assert float((a - b).norm() / b.norm()) < 0.03


@pytest.mark.parametrize("size", [1, 3, 100])
def test_bounds_of_equal_shares_need_no_look(size: int) -> None:
    states = torch.arange(8).repeat_interleave(2)
    rows, extra = torch.zeros(16, dtype=torch.long), torch.zeros(16)
    known = ListedPairs(states, rows, extra, each=2).bounds(8, size)
    assert known == ListedPairs(states, rows, extra).bounds(8, size)


@pytest.mark.parametrize("behind", [100.0, 200.0, 1e4])
def test_a_target_far_behind_has_a_finite_loss(behind: float) -> None:
    x = torch.tensor([[1.0]], requires_grad=True)
    table = torch.tensor([[behind], [0.0]], requires_grad=True)
    found = linear_cross_entropy(x, table, torch.tensor([1]))
    expected = F.cross_entropy(x @ table.t(), torch.tensor([1]))
    torch.testing.assert_close(found, expected)
    for gradient, reference in zip(
        torch.autograd.grad(found, (x, table)),
        torch.autograd.grad(expected, (x, table)),
        strict=True,
    ):
        torch.testing.assert_close(gradient, reference)
