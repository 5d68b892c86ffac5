"""The prefix index against sets of Python tuples."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from genrec.decoding.trie import PrefixIndex
from genrec.errors import DataError


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_steps_list_exactly_the_children(data: st.DataObject) -> None:
    sizes = tuple(data.draw(st.lists(st.sampled_from([1, 3, 300, 40_000]), min_size=1, max_size=5)))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**16)))
    num_items = data.draw(st.integers(1, 50))
    ids = np.stack([rng.integers(0, min(size, 5), num_items) for size in sizes], axis=1)
    ids += np.array([max(0, size - 5) for size in sizes])  # high codes, to test the types
    index = PrefixIndex.from_ids(ids, sizes)
    prefixes = {(): 0}
    for level in range(len(sizes)):
        states = torch.tensor([list(prefixes.values())])
        step = index.step(states, level)
        children = {}
        for column, prefix in enumerate(prefixes):
            legal = step.legal[0, column]
            codes = step.codes[0, column][legal].tolist()
            expected = {int(row[level]) for row in ids if tuple(row[:level]) == prefix}
            assert codes == sorted(expected)
            for code, state in zip(codes, step.states[0, column][legal].tolist(), strict=True):
                children[(*prefix, code)] = state
        assert sorted(children.values()) == list(range(index.num_states[level + 1]))
        assert list(children) == sorted(children)  # states are ranks in lexicographic order
        prefixes = children
    leaves = index.leaf_of_items(torch.arange(num_items))
    assert leaves.tolist() == [prefixes[tuple(row)] for row in ids.tolist()]
    assert index.verify(torch.from_numpy(ids)).all()


def test_verify_prefixes_of_any_length() -> None:
    index = PrefixIndex.from_ids([[0, 1, 2], [0, 1, 3], [2, 2, 2]], (4, 4, 4))
    assert index.verify(torch.tensor([[0, 1], [0, 2], [2, 2], [3, 0]])).tolist() == [1, 0, 1, 0]
    assert index.verify(torch.tensor([[0, 1, 3], [2, 2, 3]])).tolist() == [1, 0]
    assert index.verify(torch.zeros(3, 0, dtype=torch.long)).tolist() == [1, 1, 1]
    assert index.find(torch.tensor([[0, 0, 9]])).tolist() == [-1]


def test_dead_beams_have_no_children() -> None:
    index = PrefixIndex.from_ids([[0, 1], [1, 1]], (2, 2))
    step = index.step(torch.tensor([[-1, 0]]), 1)
    assert step.legal.tolist() == [[[False], [True]]]


@pytest.mark.parametrize(
    ("states", "at_least", "width"),
    [
        ([[1]], 1, 1),
        ([[1, 2]], 1, 2),
        ([[0, 1]], 1, 3),
        ([[1]], 2, 2),
        ([[1]], 9, 3),
        ([[-1, -1]], 1, 1),
        ([], 2, 2),
    ],
)
def test_a_window_is_as_wide_as_its_states_need(states, at_least, width) -> None:
    index = PrefixIndex.from_ids([[0, 0], [0, 1], [0, 2], [1, 0], [2, 0], [2, 1]], (3, 3))
    beams = torch.tensor(states, dtype=torch.long) if states else torch.zeros(0, 1).long()
    step = index.step(beams, 1, at_least=at_least)
    assert step.legal.shape == (*beams.shape, width)
    assert step.codes.shape == step.states.shape == step.legal.shape
    if at_least == 1:
        plain = index.step(beams, 1)
        assert torch.equal(plain.codes, step.codes)
        assert plain.legal.shape == step.legal.shape


def test_long_ids_beyond_one_integer() -> None:
    rng = np.random.default_rng(0)
    ids = rng.integers(0, 3, (30, 8)) + 60_000
    index = PrefixIndex.from_ids(ids, (65_536,) * 8)
    assert index.verify(torch.from_numpy(ids)).all()
    assert not index.verify(torch.from_numpy(ids[:, ::-1].copy() - 1)).any()


def test_codes_outside_their_level_are_refused() -> None:
    for ids, sizes in ([[2]], (2,)), ([[1, -1]], (2, 2)), ([[0, 1]], (2,)), ([[0, 1]], (2, 2, 2)):
        with pytest.raises(DataError, match=r"codes must lie below the level sizes \(2,"):
            PrefixIndex.from_ids(ids, sizes)


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (3,), (2, 2, 2)])
def test_ids_of_another_shape_are_refused(shape) -> None:
    with pytest.raises(DataError, match=r"ids must have shape \(N, L\) with N, L >= 1, got \("):
        PrefixIndex.from_ids(np.zeros(shape, dtype=int))


def test_without_sizes_the_largest_codes_give_them() -> None:
    for ids in (np.array([[0, 4], [2, 1]]), torch.tensor([[0, 4], [2, 1]])):
        index = PrefixIndex.from_ids(ids)
        assert (index.level_sizes, index.num_levels, index.num_items) == ((3, 5), 2, 2)
        assert index.codes_of_items(torch.tensor([1, 0])).tolist() == [[2, 1], [0, 4]]


def test_codes_are_held_in_the_smallest_type() -> None:
    sizes = (1, 256, 257, 2**15, 2**15 + 1)
    index = PrefixIndex.from_ids([[0, 255, 256, 2**15 - 1, 2**15]], sizes)
    assert [codes.dtype for codes in index.child_codes] == [
        torch.uint8,
        torch.uint8,
        torch.int16,
        torch.int16,
        torch.int32,
    ]
    assert index.codes_of_items(torch.tensor(0)).tolist() == [size - 1 for size in sizes]


def test_bytes_by_hand() -> None:
    # Two levels of 1 + 1 and 2 + 1 bounds, 2 and 3 codes, 3 items; masks of one width, 3 x 2.
    index = PrefixIndex.from_ids([[0, 1], [0, 2], [3, 1]], (4, 4))
    assert (index.num_states, index.max_children) == ([1, 2, 3], [2, 2])
    assert index.num_bytes == 4 * (2 + 3) + (2 + 3) + 4 * 3 + 3 * 2
    # Items 0 and 1 share an ID: 1 + 1 and 1 + 1 bounds, a code and 2, 3 items, 2 + 1 offsets.
    shared = PrefixIndex.from_ids([[0, 1], [0, 1], [0, 300]], (4, 400))
    assert shared.num_bytes == 4 * (2 + 2) + (1 + 2 * 2) + 4 * 3 + (2 * 1 + 3 * 2) + 4 * 3


def test_tables_are_made_once() -> None:
    index = PrefixIndex.from_ids([[0, 1], [0, 1], [1, 1]], (2, 2))
    assert index.paths is index.paths
    assert index.prefix_hashes is index.prefix_hashes
    index.leaf_of_items(torch.tensor([0]))
    table = index._leaf_of_item
    assert table is not None
    assert index.leaf_of_items(torch.tensor([[2, -1], [0, 1]])).tolist() == [[1, -1], [0, 0]]
    assert index._leaf_of_item is table


@pytest.mark.parametrize("ids", [[[0, 1], [0, 2], [3, 1]], [[0, 1], [0, 1], [3, 1]]])
def test_a_copy_for_another_device(ids) -> None:
    index = PrefixIndex.from_ids(ids, (4, 4))
    assert index.to("cpu") is index
    copy = index.to("cpu:0")  # which torch takes for another one
    assert copy is not index
    assert (copy.level_sizes, copy.num_bytes) == (index.level_sizes, index.num_bytes)
    items = torch.arange(3)
    assert torch.equal(copy.codes_of_items(items), index.codes_of_items(items))
    assert torch.equal(copy.leaf_of_items(items), index.leaf_of_items(items))


def test_what_does_not_exist_is_some_other_that_does() -> None:
    index = PrefixIndex.from_ids([[0, 0], [0, 1], [0, 2], [1, 3]], (2, 4))
    step = index.step(torch.tensor([[1, 0]]), 1)
    assert step.legal.tolist() == [[[True, False, False], [True, True, True]]]
    assert step.states[step.legal].tolist() == [3, 0, 1, 2]
    assert ((step.states >= 0) & (step.states < index.num_states[2])).all()
    assert (step.codes < 4).all()


@pytest.mark.parametrize("shape", [(3,), (2, 3), (1, 1, 1)])
def test_prefixes_of_another_shape_are_refused(shape) -> None:
    index = PrefixIndex.from_ids([[0, 1]], (2, 2))
    with pytest.raises(DataError, match=r"prefixes must have shape \(B, l\) with l <= 2, got \("):
        index.find(torch.zeros(shape, dtype=torch.long))


def test_a_mask_of_another_shape_or_type_is_refused() -> None:
    index = PrefixIndex.from_ids([[0, 1], [1, 1]], (2, 2))
    for mask in (
        torch.ones(3, dtype=torch.bool),
        torch.ones(2),
        torch.ones(1, 2, dtype=torch.bool),
    ):
        with pytest.raises(DataError, match=r"must be a bool mask of shape \(2,\), got torch"):
            index.allow(mask)


@pytest.mark.parametrize("ids", [[[0], [1], [2]], [[0], [0], [1]]])
def test_leaves_become_items_cut_or_padded(ids) -> None:
    index = PrefixIndex.from_ids(ids, (3,))
    leaves = torch.tensor([[1, -1, 0], [-1, -1, -1]])
    first = [1, 0] if index.leaf_offsets is None else [2, 0, 1]
    beams = [0, 2] if index.leaf_offsets is None else [0, 2, 2]
    for width in (1, 2, 5):
        items, columns = index.items(leaves, width)
        pad = [-1] * width
        assert items.tolist() == [(first + pad)[:width], pad]
        assert columns.tolist() == [(beams + pad)[:width], pad]
        nothing = index.exclude_per_user(torch.arange(3).expand(2, -1))
        gone, _ = index.items(torch.full((2, 3), -1), width, nothing)
        assert gone.tolist() == [pad, pad]


def test_the_index_is_small() -> None:
    ids = np.random.default_rng(0).integers(0, 256, (1_000_000, 4), dtype=np.int32)
    index = PrefixIndex.from_ids(ids, (256,) * 4)
    assert index.num_bytes / len(ids) <= 16
