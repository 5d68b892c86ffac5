"""Dropout with cheap draws does what torch's does."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from genrec.modules.kernels.dropout import dropout


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_it_zeroes_the_share_and_scales_the_rest(p: float) -> None:
    torch.manual_seed(0)
    x = torch.ones(1000, 201, dtype=torch.float64)
    found, expected = dropout(x, p, True), F.dropout(x, p)
    for out in (found, expected):
        # Four standard errors of a share of 201,000 draws.
        assert float((out == 0).double().mean()) == pytest.approx(p, abs=0.005)
    torch.testing.assert_close(found.max(), expected.max(), rtol=1e-3, atol=0)
    kept = (found != 0).double()
    apart = (kept[:, 1:] * kept[:, :-1]).mean()  # neighbours come from one random word
    assert float(apart) == pytest.approx((1 - p) ** 2, abs=0.01)


def test_it_rests_where_nothing_is_to_be_done() -> None:
    x = torch.randn(1, 5)
    assert dropout(x, 0.5, False) is x
    assert dropout(x, 0.0, True) is x
    assert dropout(torch.empty(0, 3), 0.5, True).shape == (0, 3)


def test_nearly_all_may_be_dropped() -> None:
    dropped = dropout(torch.ones(1000), 0.999999, training=True)
    assert torch.isfinite(dropped).all()
