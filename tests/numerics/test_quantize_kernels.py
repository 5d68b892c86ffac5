"""Estimators, Sinkhorn and EMA against slow float64 references."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from genrec.modules.kernels.hard_code import subtract_code
from genrec.modules.kernels.nearest import nearest
from genrec.modules.losses import quantization_losses
from genrec.modules.quantize.ema import ema_update
from genrec.modules.quantize.estimators import (
    gumbel_noise,
    gumbel_softmax,
    rotation_trick,
    straight_through,
)
from genrec.modules.quantize.sinkhorn import balanced_codes, sinkhorn_assign


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def naive_rotation(x: np.ndarray, code: np.ndarray) -> np.ndarray:
    """The matrix that turns x into code, scale included, from the paper's reflections."""
    u, v = x / np.linalg.norm(x), code / np.linalg.norm(code)
    w = (u + v) / np.linalg.norm(u + v)
    rotation = np.eye(len(x)) - 2 * np.outer(w, w) + 2 * np.outer(v, u)
    return np.linalg.norm(code) / np.linalg.norm(x) * rotation


@pytest.mark.parametrize("batch", [1, 5])
def test_rotation_trick_is_the_rotation(batch: int) -> None:
    x, code = random(batch, 6), random(batch, 6, seed=1)
    jacobian = torch.autograd.functional.jacobian(lambda z: rotation_trick(z, code), x)
    for i in range(batch):
        expected = naive_rotation(x[i].numpy(), code[i].numpy())
        np.testing.assert_allclose(expected @ x[i].numpy(), code[i].numpy(), atol=1e-12)
        np.testing.assert_allclose(jacobian[i, :, i].numpy(), expected, atol=1e-12)
        others = [j for j in range(batch) if j != i]
        assert not jacobian[i][:, others].any()
    assert torch.equal(rotation_trick(x, code), code)
    assert rotation_trick(x[:1], code[:1]).shape == (1, 6)


@pytest.mark.parametrize(
    ("x", "code"),
    [([[0.0, 0.0]], [[1.0, 0.0]]), ([[1.0, 0.0]], [[0.0, 0.0]]), ([[1.0, 0.0]], [[-1.0, 0.0]])],
    ids=["zero latent", "zero code", "opposite"],
)
def test_rotation_trick_survives_vanishing_directions(x: list, code: list) -> None:
    latent = torch.tensor(x, requires_grad=True)
    out = rotation_trick(latent, torch.tensor(code))
    (gradient,) = torch.autograd.grad(out.sum(), latent)
    assert out.tolist() == code
    assert gradient.isfinite().all()
    assert gradient.norm() == pytest.approx(math.sqrt(2), rel=1e-5)  # neither lost nor blown up


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_straight_through_is_exact_in_value_and_identity_in_gradient(dtype: torch.dtype) -> None:
    x = (random(7, 3, dtype=dtype) * 1e4).requires_grad_()
    code = random(7, 3, seed=1, dtype=dtype).requires_grad_()
    out = straight_through(x, code)
    assert torch.equal(out, code)
    gradient = torch.autograd.grad(out.sum(), [x, code], allow_unused=True)
    assert torch.equal(gradient[0], torch.ones_like(x))
    assert gradient[1] is None


@pytest.mark.parametrize("batch", [1, 4])
def test_gumbel_softmax_equals_reference(batch: int) -> None:
    logits, noise = random(batch, 5), random(batch, 5, seed=1)
    found = gumbel_softmax(logits, temperature=0.3, noise=noise).numpy()
    scores = np.exp((logits.numpy() + noise.numpy()) / 0.3)
    np.testing.assert_allclose(found, scores / scores.sum(axis=1, keepdims=True), rtol=1e-12)


def test_gumbel_noise_has_gumbel_moments() -> None:
    torch.manual_seed(0)
    noise = gumbel_noise(torch.empty(200_000))
    assert noise.isfinite().all()
    assert noise.mean() == pytest.approx(0.5772, abs=0.01)  # Euler's constant
    assert noise.var() == pytest.approx(math.pi**2 / 6, rel=0.02)


def naive_sinkhorn(cost: np.ndarray, epsilon: float, num_iters: int) -> np.ndarray:
    plan = np.exp(-cost / epsilon)
    for _ in range(num_iters):
        plan = plan / plan.sum(axis=1, keepdims=True) / len(plan)
        plan = plan / plan.sum(axis=0, keepdims=True) / plan.shape[1]
    return plan


@pytest.mark.parametrize("shape", [(1, 4), (6, 3), (3, 6)])
def test_sinkhorn_equals_reference(shape: tuple[int, int]) -> None:
    cost = random(*shape).abs()
    found = sinkhorn_assign(cost, epsilon=0.1, num_iters=30)
    np.testing.assert_allclose(found.numpy(), naive_sinkhorn(cost.numpy(), 0.1, 30), rtol=1e-9)
    assert found.sum(dim=0).tolist() == pytest.approx([1 / shape[1]] * shape[1])
    single = sinkhorn_assign(cost.float(), epsilon=0.1, num_iters=30)
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), found, rtol=1e-3, atol=1e-6)


def test_sinkhorn_holds_where_the_plain_kernel_is_zero() -> None:
    cost = random(32, 8, dtype=torch.float32).abs() * 100  # exp(-cost / epsilon) underflows
    plan = sinkhorn_assign(cost, epsilon=0.05, num_iters=200)
    assert plan.isfinite().all()
    assert plan.sum(dim=0).tolist() == pytest.approx([1 / 8] * 8, rel=1e-4)


def test_sinkhorn_refuses_what_it_cannot_balance() -> None:
    with pytest.raises(ValueError, match=r"cost must have shape \(B, K\), got \(3,\)"):
        sinkhorn_assign(torch.zeros(3))
    with pytest.raises(ValueError, match="epsilon must be > 0, got 0"):
        sinkhorn_assign(torch.zeros(2, 2), epsilon=0)
    with pytest.raises(ValueError, match="num_iters must be >= 1, got 0"):
        sinkhorn_assign(torch.zeros(2, 2), num_iters=0)
    with pytest.raises(ValueError, match="cost must be finite"):
        sinkhorn_assign(torch.tensor([[0.0, math.nan]]))


def test_balanced_codes_spread_a_crowd() -> None:
    crowd = random(512, 2, dtype=torch.float32) * 0.1
    codes = random(16, 2, seed=1, dtype=torch.float32) * 3
    cost = torch.cdist(crowd, codes).square()
    nearest = cost.argmin(dim=1).bincount(minlength=16)
    balanced = balanced_codes(cost, epsilon=0.02, num_iters=200).bincount(minlength=16)
    assert int(nearest.max()) > 300  # the crowd sits at one code
    assert int(balanced.min()) > 0
    assert int(balanced.max()) < 2.5 * 512 / 16
    # Neither the scale nor a constant of a row changes the choice.
    again = balanced_codes(cost * 1e3 + 7, epsilon=0.02, num_iters=200)
    assert (again == balanced_codes(cost, epsilon=0.02, num_iters=200)).float().mean() > 0.99


@pytest.mark.parametrize("batch", [1, 3])
def test_balanced_codes_of_a_small_batch_are_the_nearest(batch: int) -> None:
    cost = random(batch, 5, dtype=torch.float32)
    assert torch.equal(balanced_codes(cost, epsilon=0.05, num_iters=10), cost.argmin(dim=1))


def test_ema_equals_reference() -> None:
    rng = np.random.default_rng(0)
    num_codes, decay, epsilon = 4, 0.9, 1e-5
    shares, sums = np.full(num_codes, 0.25), rng.normal(size=(num_codes, 3))
    state = [torch.from_numpy(shares.copy()), torch.from_numpy(sums.copy())]
    for _ in range(5):
        items, ids = rng.normal(size=(7, 3)), rng.integers(0, 3, size=7)  # code 3 stays idle
        counts = np.bincount(ids, minlength=num_codes).astype(float)
        totals = np.zeros((num_codes, 3))
        for item, code in zip(items, ids, strict=True):
            totals[code] += item
        *state, codebook = ema_update(
            *state,
            torch.from_numpy(counts),
            torch.from_numpy(totals),
            decay=decay,
            epsilon=epsilon,
        )
        for code in range(num_codes):
            shares[code] = decay * shares[code] + (1 - decay) * counts[code] / 7
            sums[code] = decay * sums[code] + (1 - decay) * totals[code] / 7
    mass = shares.sum()
    smoothed = (shares + epsilon) / (mass + num_codes * epsilon) * mass
    np.testing.assert_allclose(codebook.numpy(), sums / smoothed[:, None], rtol=1e-12)
    assert torch.isfinite(codebook).all()


@pytest.mark.parametrize("batch", [1, 7])
def test_subtract_code_is_the_plain_losses(batch: int) -> None:
    """Values and gradients, each output weighed on its own, against tensors' own operations."""
    residual, codes = random(batch, 6).requires_grad_(), random(5, 6, seed=1).requires_grad_()
    ids = torch.randint(0, 4, (batch,), generator=torch.Generator().manual_seed(2))
    direction = random(batch, 6, seed=3)

    def plain() -> tuple[Tensor, Tensor, Tensor, Tensor]:
        code = codes[ids]
        return code, residual - code.detach(), *quantization_losses(residual, code, code)

    fused, expected = subtract_code(residual, codes, ids), plain()
    for found, wanted in zip(fused, expected, strict=True):
        torch.testing.assert_close(found, wanted.detach(), check_layout=True)
    assert not fused[0].requires_grad
    for weights in ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0), (2.0, -3.0, 0.5)):

        def gradients(parts: tuple[Tensor, ...], weights: tuple = weights) -> tuple[Tensor, ...]:
            terms = ((parts[1] * direction).sum(), parts[2], parts[3])
            loss = sum(weight * term for weight, term in zip(weights, terms, strict=True))
            assert isinstance(loss, Tensor)
            return torch.autograd.grad(loss, (residual, codes), retain_graph=True)

        for found, wanted in zip(gradients(fused), gradients(expected), strict=True):
            torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("used", [1, 2, 3], ids=["rest", "codebook", "commitment"])
def test_subtract_code_where_only_one_output_is_used(used: int) -> None:
    residual, codes = random(3, 2).requires_grad_(), random(4, 2, seed=1).requires_grad_()
    ids = torch.tensor([0, 3, 3])
    found = torch.autograd.grad(
        subtract_code(residual, codes, ids)[used].sum(), (residual, codes), allow_unused=True
    )
    assert (found[0] is None) == (used == 2)
    assert (found[1] is None) == (used != 2)


@given(st.integers(1, 6), st.integers(1, 9), st.integers(0, 2**32 - 1), st.sampled_from([2, 1000]))
def test_nearest_is_argmin(rows: int, columns: int, seed: int, values: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    cost = torch.randint(0, values, (rows, columns), generator=generator).float() - values / 2
    for dtype in (torch.float32, torch.float64):
        wanted = cost.to(dtype).numpy().argmin(axis=1)  # numpy promises the first of equals
        np.testing.assert_array_equal(nearest(cost.to(dtype, copy=True)).numpy(), wanted)


def test_nearest_tells_tiny_differences_apart_and_survives_what_is_not_finite() -> None:
    tiny = torch.finfo(torch.float32).tiny
    inf, nan = float("inf"), float("nan")
    cost = torch.tensor([[2 * tiny, tiny, 3 * tiny], [inf, inf, 1.0], [nan, 1.0, 0.0], [inf] * 3])
    assert nearest(cost).tolist() == [1, 2, 0, 0]
