"""Sums over groups in pieces against the plain ones, in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from genrec.modules.kernels import group_logsumexp as kernel
from genrec.modules.kernels import linear_cross_entropy as sizes
from genrec.modules.kernels.group_logsumexp import RowGroups, linear_group_logsumexp
from genrec.modules.kernels.linear_cross_entropy import ListedPairs


def grouped(of_rows: Tensor) -> RowGroups:
    return RowGroups.of(of_rows, of_rows.argsort(), torch.bincount(of_rows))


def plain(x: Tensor, table: Tensor, groups: Tensor, pairs: ListedPairs | None) -> Tensor:
    scores = x.double() @ table.double().t()
    if pairs is not None:
        at = (pairs.states, pairs.rows)
        scores = scores.index_put(at, pairs.extra.double(), accumulate=True)
    parts = [scores[:, groups == group].logsumexp(dim=1) for group in range(int(groups.max()) + 1)]
    return torch.stack(parts, dim=1)


@pytest.mark.parametrize("kept", [0, 2**25])
@pytest.mark.parametrize("rows_at_once", [1, 3, 100])
@pytest.mark.parametrize("listed", [False, True])
@pytest.mark.parametrize("states", [1, 8])
def test_sums_and_gradients(
    monkeypatch: pytest.MonkeyPatch, rows_at_once: int, listed: bool, states: int, kept: int
) -> None:
    monkeypatch.setattr(kernel, "_KEPT", kept)
    monkeypatch.setattr(sizes, "_CPU_BYTES", rows_at_once * 11 * 4)
    torch.manual_seed(0)
    x, table = torch.randn(states, 4, requires_grad=True), torch.randn(11, 4, requires_grad=True)
    groups = torch.tensor([2, 0, 1, 2, 2, 0, 3, 1, 1, 0, 2])
    extra = torch.tensor([3.0, -2.0, -5.0], requires_grad=True)
    pairs = None
    if listed:
        pairs = ListedPairs(torch.tensor([0, 0, states - 1]), torch.tensor([4, 7, 6]), extra)
    found = linear_group_logsumexp(x, table, grouped(groups), pairs)
    expected = plain(x, table, groups, pairs)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), expected, atol=1e-5, rtol=1e-5)
    weights = torch.randn(states, 4)
    inputs = (x, table, extra) if listed else (x, table)
    of_found = torch.autograd.grad((found * weights).sum(), inputs)
    of_expected = torch.autograd.grad((expected * weights).sum(), inputs)
    for gradient, reference in zip(of_found, of_expected, strict=True):
        torch.testing.assert_close(gradient, reference, atol=1e-5, rtol=1e-4)


def test_a_group_far_below_the_best_is_small_and_finite() -> None:
    x, table = torch.tensor([[1.0]], requires_grad=True), torch.tensor([[300.0], [0.0], [299.0]])
    found = linear_group_logsumexp(x, table, grouped(torch.tensor([0, 1, 0])))
    assert found[0, 0].item() == pytest.approx(300.31, abs=0.01)
    assert 200 < found[0, 1].item() < 220  # a bound: 85 nats below the best
    (gradient,) = torch.autograd.grad(found.sum(), x)
    assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("extra", [-200.0, 200.0, -torch.inf])
def test_extras_that_move_all_of_a_state(extra: float) -> None:
    """A state whose every row has one, however small the scores are."""
    x, table = torch.ones(1, 1), torch.zeros(2, 1)
    at, rows = torch.zeros(2, dtype=torch.long), torch.arange(2)
    pairs = ListedPairs(at, rows, torch.tensor([extra, min(extra, 0.0)]))
    found = linear_group_logsumexp(x, table, grouped(torch.tensor([0, 1])), pairs)
    if extra > -torch.inf:
        assert found.tolist() == [[pytest.approx(extra), pytest.approx(min(extra, 115.0), abs=200)]]
        assert found[0, 0].item() == pytest.approx(extra)


def test_bfloat16_is_close() -> None:
    torch.manual_seed(0)
    x, table = torch.randn(64, 16, requires_grad=True), torch.randn(300, 16, requires_grad=True)
    groups = torch.arange(300) % 7
    exact = linear_group_logsumexp(x, table, grouped(groups))
    rough = linear_group_logsumexp(x, table, grouped(groups), dtype=torch.bfloat16)
    torch.testing.assert_close(rough, exact, rtol=2e-2, atol=2e-2)
