"""Counting and telling apart items of equal codes: by hand, and against plain Python."""

from __future__ import annotations

import itertools
import math
import tracemalloc
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genrec.tokenizer.collisions import (
    append_dedup_digit,
    collision_statistics,
    group_ids,
    pack_ids,
    unpack_ids,
)

IDS = np.array([[1, 2], [0, 1], [1, 2], [0, 0], [1, 2], [0, 1]], dtype=np.int32)


def test_keys_sort_like_rows_and_come_back():
    sizes = (3, 2, 4)
    rows = np.array(list(itertools.product(*map(range, sizes))), dtype=np.int32)
    keys = pack_ids(rows, sizes)
    assert keys.dtype == np.int64
    assert keys.tolist() == list(range(24))
    back = unpack_ids(keys, sizes)
    assert back.dtype == np.int32
    assert np.array_equal(back, rows)


def test_the_product_of_the_sizes_fits_in_63_bits():
    row = np.array([[2**31 - 1, 2**32 - 2]], dtype=np.int64)
    assert pack_ids(row, (2**31, 2**32 - 1)).tolist() == [2**31 * (2**32 - 1) - 1]
    for sizes in ((2**31, 2**32), (2**62, 2), (2**21, 2**21, 2**21)):
        with pytest.raises(ValueError, match=r"below 2\^63, got .*; use fewer levels"):
            pack_ids(np.zeros((1, len(sizes)), dtype=np.int64), sizes)
    assert pack_ids(np.zeros((1, 3), dtype=np.int64), (2**21, 2**21, 2**20)).tolist() == [0]


def test_groups_by_hand():
    groups = group_ids(IDS, (2, 3))
    assert groups.order.tolist() == [3, 1, 5, 0, 2, 4]
    assert groups.starts.tolist() == [0, 1, 3]
    assert groups.sizes.tolist() == [1, 2, 3]
    assert groups.ranks().tolist() == [0, 0, 1, 0, 2, 1]


def test_the_digit_by_hand():
    ids, size = append_dedup_digit(IDS, (2, 3))
    assert ids.dtype == np.int32
    assert ids.tolist() == [[1, 2, 0], [0, 1, 0], [1, 2, 1], [0, 0, 0], [1, 2, 2], [0, 1, 1]]
    assert size == 3
    assert append_dedup_digit(IDS[:0], (2, 3))[1] == 1
    assert append_dedup_digit(IDS[:2], (2, 3))[1] == 1


def test_statistics_by_hand():
    found = collision_statistics(IDS, (2, 4))
    assert found.pop("perplexity") == [2.0, round(math.exp(-sum(
        share * math.log(share) for share in (1 / 6, 2 / 6, 3 / 6)
    )), 3)]  # fmt: skip
    assert found == {
        "num_items": 6,
        "distinct_ids": 3,
        "collision_rate": 0.5,
        "items_sharing_id": 5,
        "largest_group": 3,
        "level_sizes": [2, 4],
        "codes_used": [2, 3],
    }


def test_rare_codes_of_huge_levels_are_counted_in_little_memory():
    ids = np.array([[2**27 - 1, 1], [3, 1], [3, 0]], dtype=np.int32)
    tracemalloc.start()
    try:
        found = collision_statistics(ids, (2**27, 2))
        assert tracemalloc.get_traced_memory()[1] < 2**20  # an entry for each code takes 2^30
    finally:
        tracemalloc.stop()
    assert found["codes_used"] == [2, 2]
    assert found["perplexity"][0] == found["perplexity"][1] == pytest.approx(1.89, abs=0.001)


def test_statistics_of_one_item_and_of_none():
    one = collision_statistics(IDS[:1], (2, 3))
    assert (one["collision_rate"], one["items_sharing_id"], one["largest_group"]) == (0.0, 0, 1)
    assert (one["codes_used"], one["perplexity"]) == ([1, 1], [1.0, 1.0])
    none = collision_statistics(IDS[:0], (2, 3))
    assert (none["num_items"], none["distinct_ids"], none["collision_rate"]) == (0, 0, 0.0)
    assert (none["largest_group"], none["codes_used"], none["perplexity"]) == (
        0,
        [0, 0],
        [1.0, 1.0],
    )


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 3)), min_size=1, max_size=20))
def test_everything_equals_plain_python(rows):
    ids = np.array(rows, dtype=np.int32)
    counts = Counter(rows)
    found = collision_statistics(ids, (3, 4))
    assert found["distinct_ids"] == len(counts)
    assert found["collision_rate"] == pytest.approx(1 - len(counts) / len(rows))
    assert found["items_sharing_id"] == sum(n for n in counts.values() if n > 1)
    assert found["largest_group"] == max(counts.values())
    assert found["codes_used"] == [len({row[level] for row in rows}) for level in (0, 1)]
    whole, size = append_dedup_digit(ids, (3, 4))
    assert len({tuple(row) for row in whole.tolist()}) == len(rows)
    assert size == max(counts.values())
    seen: Counter[tuple[int, int]] = Counter()
    for row, digit in zip(rows, whole[:, 2].tolist(), strict=True):
        assert digit == seen[row]
        seen[row] += 1
