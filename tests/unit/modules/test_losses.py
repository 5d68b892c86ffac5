from __future__ import annotations

import numpy as np
import pytest
import torch

from genrec.errors import ConfigError
from genrec.modules.losses import LossSettings, reconstruction_losses


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("num_categorical", [0, 2])
@pytest.mark.parametrize("kind", ["l2", "l1"])
@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_reconstruction_equals_reference(
    batch: int, num_categorical: int, kind: str, reduction: str
) -> None:
    rng = np.random.default_rng(0)
    x_hat, x = rng.normal(size=(batch, 5)), rng.normal(size=(batch, 5))
    dense = 5 - num_categorical
    x[:, dense:] = rng.integers(0, 2, size=(batch, num_categorical))
    difference = x_hat[:, :dense] - x[:, :dense]
    error = np.abs(difference) if kind == "l1" else difference**2
    reduce = getattr(np, reduction)
    expected = reduce(error, axis=1)
    if num_categorical:
        p = 1 / (1 + np.exp(-x_hat[:, dense:]))
        y = x[:, dense:]
        expected = expected - reduce(y * np.log(p) + (1 - y) * np.log(1 - p), axis=1)
    found = reconstruction_losses(
        torch.from_numpy(x_hat),
        torch.from_numpy(x),
        num_categorical=num_categorical,
        settings=LossSettings(recon_kind=kind, recon_reduction=reduction),
    )
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5)


@pytest.mark.parametrize("reduction", ["sum", "mean"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_gradients_of_squared_errors(reduction: str, dtype: torch.dtype) -> None:
    """Against the formula, zero errors included, on both sides."""
    generator = torch.Generator().manual_seed(0)
    x_hat = torch.randn(3, 4, generator=generator).to(dtype)
    x = torch.randn(3, 4, generator=generator)
    x_hat[0] = 0.5
    x[0] = 0.5
    weights = torch.tensor([1.0, -2.0, 0.5])
    settings = LossSettings(recon_reduction=reduction)
    leaves = x_hat.requires_grad_(), x.requires_grad_()
    found = reconstruction_losses(*leaves, num_categorical=0, settings=settings)
    gradients = torch.autograd.grad((found * weights).sum(), leaves)
    expected = 2 * weights[:, None] * (x_hat.float() - x).detach()
    if reduction == "mean":
        expected = expected / 4
    torch.testing.assert_close(gradients[0], expected.to(dtype))
    torch.testing.assert_close(gradients[1], -expected)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"recon_weight": -1}, "recon_weight must be >= 0, got -1"),
        ({"separation_weight": float("nan")}, "separation_weight must be >= 0, got nan"),
        ({"recon_kind": "l3"}, "recon_kind must be known, got 'l3'; did you mean l2, l1"),
        ({"level_reduction": "max"}, "level_reduction must be known, got 'max'"),
    ],
)
def test_wrong_settings_are_named(settings: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        LossSettings(**settings)
