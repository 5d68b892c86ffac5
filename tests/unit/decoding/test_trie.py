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


def test_long_ids_beyond_one_integer() -> None:
    rng = np.random.default_rng(0)
    ids = rng.integers(0, 3, (30, 8)) + 60_000
    index = PrefixIndex.from_ids(ids, (65_536,) * 8)
    assert index.verify(torch.from_numpy(ids)).all()
    assert not index.verify(torch.from_numpy(ids[:, ::-1].copy() - 1)).any()


def test_codes_outside_their_level_are_refused() -> None:
    with pytest.raises(DataError, match=r"codes must lie below the level sizes \(2,\)"):
        PrefixIndex.from_ids([[2]], (2,))
    with pytest.raises(DataError, match="ids must have shape"):
        PrefixIndex.from_ids(np.zeros((0, 3), dtype=int))


def test_the_index_is_small() -> None:
    ids = np.random.default_rng(0).integers(0, 256, (1_000_000, 4), dtype=np.int32)
    index = PrefixIndex.from_ids(ids, (256,) * 4)
    assert index.num_bytes / len(ids) <= 16
