"""Sums over groups of windows of unequal length against plain ones, in float64."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from genrec.modules.kernels.window_logsumexp import Windows, window_logsumexp


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(st.integers(0, 4), min_size=3, max_size=3), min_size=1, max_size=6),
    st.integers(0, 2**16),
    st.booleans(),
    st.sampled_from([1.0, 40.0]),
    st.sampled_from([torch.float32, torch.float64]),
    st.sampled_from([3, 20]),
)
def test_values_and_gradients(
    sizes: list[list[int]],
    seed: int,
    with_extra: bool,
    scale: float,
    dtype: torch.dtype,
    num_rows: int,
) -> None:
    """Also in float64, and of tables that a window is longer than."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(len(sizes), 5, generator=generator, dtype=dtype, requires_grad=True)
    table = torch.randn(num_rows, 5, generator=generator, dtype=dtype, requires_grad=True)
    order = torch.randperm(20, generator=generator).int() % num_rows
    below = torch.tensor(sizes)  # rows of each group of each state
    firsts = torch.tensor([(7 * number) % 8 for number in range(len(sizes))], dtype=torch.int32)
    windows = Windows.of(firsts, below.sum(dim=1, dtype=torch.int32))
    cells = torch.arange(below.numel()).repeat_interleave(below.flatten())
    rows = order[windows.places]
    extra = scale * torch.randn(len(rows), generator=generator)
    extra.requires_grad_(with_extra)
    found = window_logsumexp(x, table, rows, windows, cells, 3, extra if with_extra else None)
    entry = 0
    expected, live = [], below > 0
    for state, groups in enumerate(sizes):
        place = int(firsts[state])
        for size in groups:
            picked = table[order[place : place + size].long()].double()
            scores = picked @ x[state].double()
            if with_extra:
                scores = scores + extra[entry : entry + size].double()
            expected.append(scores.logsumexp(dim=0))
            place, entry = place + size, entry + size
    plain = torch.stack(expected).view(-1, 3)
    # A group that lies too far below the best of its state is small, and no more is said of it.
    live = live & (plain > plain.amax(dim=1, keepdim=True) - 80)
    assert bool(torch.isfinite(found).all())
    assert found[below.sum(dim=1) == 0].eq(0).all()
    torch.testing.assert_close(found[live].double(), plain[live], atol=1e-4, rtol=1e-5)
    assert found.dtype == dtype
    weights = torch.randn(found.shape, generator=generator) * live
    inputs = (x, table, extra) if with_extra else (x, table)
    transposed = (found.t().contiguous() * weights.t()).sum()
    gradients = torch.autograd.grad(transposed, inputs)
    references = torch.autograd.grad((plain[live] * weights[live]).sum(), inputs, allow_unused=True)
    for gradient, reference in zip(gradients, references, strict=True):
        wanted = torch.zeros_like(gradient) if reference is None else reference.to(gradient.dtype)
        torch.testing.assert_close(gradient, wanted, atol=1e-4, rtol=1e-3)


def test_places_are_marked_inside_their_own_window_alone() -> None:
    windows = Windows.of(
        torch.tensor([4, 0, 9], dtype=torch.int32), torch.tensor([3, 0, 2], dtype=torch.int32)
    )
    assert windows.places.tolist() == [4, 5, 6, 9, 10]
    places = torch.tensor([[6, 4, 9], [0, 0, 0], [10, 10, 11]], dtype=torch.int32)
    wanted = torch.tensor([[True, False, True], [True] * 3, [True] * 3])
    assert windows.mark(places, wanted).tolist() == [0, 0, 1, 0, 1]


def test_no_entry_at_all() -> None:
    x, table = torch.randn(2, 4, requires_grad=True), torch.randn(5, 4, requires_grad=True)
    none = torch.zeros(2, dtype=torch.int32)
    windows = Windows.of(none, none)
    found = window_logsumexp(x, table, windows.places, windows, windows.places, 3)
    assert found.tolist() == [[0.0] * 3] * 2
    for gradient in torch.autograd.grad(found.sum(), (x, table)):
        assert gradient.eq(0).all()
