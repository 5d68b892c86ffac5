from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genrec.data import tables
from genrec.data.tables import (
    Interactions,
    encode_keys,
    k_core,
    order_rule,
    ordered,
    without_duplicates,
    without_repeats,
)
from genrec.errors import DataError


def interactions(rows, *, timed=True):
    users, items, times = (np.array(column) for column in zip(*rows, strict=True))
    return Interactions(
        users.astype(np.int32), items.astype(np.int32), times.astype(np.int64) if timed else None
    )


def as_rows(rows):
    return list(zip(rows.users.tolist(), rows.items.tolist(), rows.times.tolist(), strict=True))


ROWS = st.lists(
    st.tuples(st.integers(0, 9), st.integers(0, 9), st.integers(-5, 5)), min_size=1, max_size=60
)


@pytest.mark.parametrize(
    ("keys", "distinct"),
    [
        (["10", "9", "10", "2"], ["2", "9", "10"]),  # numbers by value
        (["10", "9", "a"], ["10", "9", "a"]),  # otherwise by bytes
        (["10", "010", "9"], ["010", "10", "9"]),  # "010" is no plain number: two items
        (["-1", "0", "-10"], ["-10", "-1", "0"]),
        ([30, 10, 20, 10], [10, 20, 30]),
        ([2_000_000_000, -5], [-5, 2_000_000_000]),  # too wide a range for a table
        ([], []),
    ],
)
def test_keys_are_numbered_by_their_order(keys, distinct):
    series = pl.Series(keys, dtype=pl.String if not keys or isinstance(keys[0], str) else pl.Int64)
    ids, table = encode_keys(series)
    assert table.to_list() == distinct
    assert [table[int(i)] for i in ids] == keys
    assert ids.dtype == np.int32


def test_keys_by_a_given_order():
    ids, table = encode_keys(pl.Series(["b", "a", "b"]), pl.Series(["c", "b", "a"]))
    assert ids.tolist() == [1, 2, 1]
    assert table.to_list() == ["c", "b", "a"]
    with pytest.raises(DataError, match="among the 1 known ones, got 'z'"):
        encode_keys(pl.Series(["a", "z"]), pl.Series(["a"]))


@settings(max_examples=100, deadline=None)
@given(rows=ROWS, min_user=st.integers(0, 4), min_item=st.integers(0, 4))
def test_k_core_equals_dropping_one_by_one(rows, min_user, min_item):
    left = list(rows)
    changed = True
    while changed:
        users = [user for user, _, _ in left]
        items = [item for _, item, _ in left]
        keep = [
            row for row in left
            if users.count(row[0]) >= min_user and items.count(row[1]) >= min_item
        ]  # fmt: skip
        changed = len(keep) < len(left)
        left = keep
    result, _ = k_core(interactions(rows), min_user=min_user, min_item=min_item)
    assert as_rows(result) == left


def test_k_core_counts_rounds():
    # Item 9 goes; then user 1 has too few; then item 1 has.
    rows = [(0, 0, 0), (0, 2, 0), (2, 0, 0), (2, 2, 0), (1, 1, 0), (1, 9, 0), (2, 1, 0)]
    result, rounds = k_core(interactions(rows), min_user=2, min_item=2)
    assert as_rows(result) == rows[:4]
    assert rounds == 3


@settings(max_examples=100, deadline=None)
@given(rows=ROWS, part_rows=st.sampled_from([1, 8, 1 << 19]))
def test_order_by_user_time_and_item(rows, part_rows):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tables, "_PART_ROWS", part_rows)
        result = ordered(interactions(rows), "item")
    assert as_rows(result) == sorted(rows, key=lambda row: (row[0], row[2], row[1]))


@pytest.mark.parametrize(
    ("num_users", "num_items", "latest"),
    [
        (3, 4, 5),
        (1, 1, 1),
        (1 << 20, 1 << 17, 1 << 30),  # 67 bits: sorted in parts
        (1 << 26, 1 << 20, 1 << 40),  # 87 bits: too many parts, the plain way
        (70_000, 9, 1 << 50),
        (5, 5, 1 << 62),
    ],
)
@pytest.mark.parametrize("grouped", [True, False])
def test_order_at_any_width(num_users, num_items, latest, grouped):
    rng = np.random.default_rng(0)
    users = rng.integers(0, num_users, 5_000).astype(np.int32)
    rows = Interactions(
        np.sort(users) if grouped else users,
        rng.integers(0, num_items, 5_000).astype(np.int32),
        rng.integers(-latest, latest, 5_000),
    )
    expected = rows.take(np.lexsort((rows.items, rows.times, rows.users)))
    result = ordered(rows, "item")
    for name in ("users", "items", "times"):
        assert np.array_equal(getattr(result, name), getattr(expected, name)), name
        assert getattr(result, name).dtype == getattr(rows, name).dtype


def test_times_finer_than_they_need_to_be_are_ordered_as_fast(monkeypatch):
    """Days kept as nanoseconds fit beside user and item once what all have in common is gone."""
    rng = np.random.default_rng(0)
    days = rng.integers(0, 1_000, 500) * 86_400 * 10**9
    rows = Interactions(
        rng.integers(0, 1 << 20, 500).astype(np.int32),
        rng.integers(0, 1 << 20, 500).astype(np.int32),
        1_709_287_200 * 10**9 + days,
    )
    expected = as_rows(rows.take(np.lexsort((rows.items, rows.times, rows.users))))
    monkeypatch.setattr(tables.np, "lexsort", None)  # the slow way
    assert as_rows(ordered(rows, "item")) == expected


def test_ties_in_the_order_of_the_file():
    rows = [(1, 5, 0), (0, 3, 7), (0, 9, 7), (0, 1, 7), (0, 4, 2)]
    assert as_rows(ordered(interactions(rows), "file")) == [
        (0, 4, 2), (0, 3, 7), (0, 9, 7), (0, 1, 7), (1, 5, 0),
    ]  # fmt: skip
    assert as_rows(ordered(interactions(rows), "item"))[1:4] == [(0, 1, 7), (0, 3, 7), (0, 9, 7)]


def test_without_time_the_file_decides():
    result = ordered(
        interactions([(1, 5, 0), (0, 3, 0), (1, 2, 0), (0, 1, 0)], timed=False), "item"
    )
    assert result.users.tolist() == [0, 0, 1, 1]
    assert result.items.tolist() == [3, 1, 5, 2]
    assert result.times is None


@settings(max_examples=100, deadline=None)
@given(rows=ROWS, ties=st.sampled_from(["item", "file"]))
def test_duplicates_go_and_nothing_else(rows, ties):
    result = without_duplicates(ordered(interactions(rows), ties), ties)
    assert sorted(as_rows(result)) == sorted(set(rows))


def test_without_time_nothing_is_a_duplicate():
    rows = interactions([(0, 1, 0), (0, 1, 0)], timed=False)
    assert len(without_duplicates(rows, "item")) == 2


def test_repeats():
    rows = interactions([(0, 1, 0), (0, 2, 1), (0, 1, 2), (1, 1, 3)])
    assert as_rows(without_repeats(rows, "all")) == as_rows(rows)
    assert as_rows(without_repeats(rows, "first")) == [(0, 1, 0), (0, 2, 1), (1, 1, 3)]
    assert as_rows(without_repeats(rows, "last")) == [(0, 2, 1), (0, 1, 2), (1, 1, 3)]


def test_rules_in_words():
    assert order_rule(has_time=True, ties="item") == "by time; at the same time by item id"
    assert "order of the file" in order_rule(has_time=True, ties="file")
    assert "no time" in order_rule(has_time=False, ties="item")
