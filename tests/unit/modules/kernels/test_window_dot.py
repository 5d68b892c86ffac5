"""Products with windows of a table against copies of its rows."""

from __future__ import annotations

from unittest import mock

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from genrec.modules.kernels import window_dot as kernel
from genrec.modules.kernels.window_dot import window_dot


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 9),
    st.integers(1, 7),
    st.integers(1, 12),
    st.integers(0, 2**16),
    st.sampled_from([0.0, 0.5, 1.0]),
    st.sampled_from([torch.float32, torch.float64]),
    st.sampled_from([1, 200, 2**28]),
)
def test_values_and_gradients(
    num_rows: int, width: int, size: int, seed: int, share: float, dtype: torch.dtype, copied: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(num_rows, 5, generator=generator, dtype=dtype, requires_grad=True)
    table = torch.randn(size, 5, generator=generator, dtype=dtype, requires_grad=True)
    columns = torch.randint(0, size, (num_rows, width), generator=generator, dtype=torch.int32)
    wanted = torch.rand(num_rows, width, generator=generator) < share
    upstream = torch.randn(num_rows, width, generator=generator, dtype=dtype)
    with mock.patch.object(kernel, "_COPIED", copied):
        found = window_dot(x, table, columns, wanted)
    expected = (x[:, None] * table[columns.long()]).sum(-1) * wanted
    torch.testing.assert_close(found, expected)
    with mock.patch.object(kernel, "_COPIED", copied):
        gradients = torch.autograd.grad(found, (x, table), upstream)
    references = torch.autograd.grad(expected, (x, table), upstream)
    for gradient, reference in zip(gradients, references, strict=True):
        torch.testing.assert_close(gradient, reference, atol=1e-5, rtol=1e-5)


def test_columns_that_are_not_wanted_may_lie_anywhere() -> None:
    columns = torch.tensor([[0, 99]], dtype=torch.int32)
    wanted = torch.tensor([[True, False]])
    found = window_dot(torch.ones(1, 2), torch.ones(3, 2), columns, wanted)
    assert found.tolist() == [[2.0, 0.0]]
