from __future__ import annotations

import numpy as np
import pytest

from genrec.data import splits
from genrec.data.splits import count_repeats, global_time, leave_one_out
from genrec.errors import ConfigError, DataError


def test_leave_one_out_by_hand():
    # Users with 5, 3, 2, 1 and 0 interactions.
    offsets = np.array([0, 5, 8, 10, 11, 11])
    train_ends, valid_ends = leave_one_out(offsets)
    assert train_ends.tolist() == [3, 6, 10, 11, 11]
    assert valid_ends.tolist() == [4, 7, 10, 11, 11]
    assert train_ends.dtype == valid_ends.dtype == np.int64


def test_global_time_cuts_all_users_at_the_same_moments():
    rng = np.random.default_rng(0)
    lengths = rng.integers(0, 9, size=50)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    times = np.concatenate([np.sort(rng.integers(0, 1_000, n)) for n in lengths])
    train_ends, valid_ends = global_time(offsets, times, valid_share=0.2, test_share=0.1)
    part = np.empty(len(times), dtype=int)
    for user in range(50):
        part[offsets[user] : train_ends[user]] = 0
        part[train_ends[user] : valid_ends[user]] = 1
        part[valid_ends[user] : offsets[user + 1]] = 2
    latest = [times[part == p].max() for p in range(3)]
    earliest = [times[part == p].min() for p in range(3)]
    assert latest[0] < earliest[1]
    assert latest[1] < earliest[2]
    assert np.bincount(part) / len(times) == pytest.approx([0.7, 0.2, 0.1], abs=0.02)


def test_global_time_keeps_ties_of_a_cut_on_one_side():
    train_ends, valid_ends = global_time(
        np.array([0, 4, 8]), np.array([1, 5, 5, 9, 2, 5, 5, 9]), valid_share=0.25, test_share=0.25
    )
    assert train_ends.tolist() == [1, 5]
    assert valid_ends.tolist() == [3, 7]


def test_global_time_of_nothing():
    train_ends, valid_ends = global_time(np.array([0]), np.array([], dtype=np.int64))
    assert len(train_ends) == len(valid_ends) == 0


@pytest.mark.parametrize(("valid", "test"), [(0, 0.1), (0.1, 0), (0.5, 0.5), (-0.1, 0.2)])
def test_global_time_refuses_shares(valid, test):
    with pytest.raises(ConfigError, match=r"positive and sum to less than 1, got"):
        global_time(np.array([0, 2]), np.array([1, 2]), valid_share=valid, test_share=test)


def test_global_time_refuses_disorder_but_not_between_users():
    global_time(np.array([0, 2, 4]), np.array([5, 6, 1, 2]))
    with pytest.raises(DataError, match="times must rise inside each user's run"):
        global_time(np.array([0, 2, 4]), np.array([6, 5, 1, 2]))


def test_repeats_by_hand():
    items, offsets = np.array([7, 7, 7, 1, 1, 2, 3, 4]), np.array([0, 4, 8])
    assert count_repeats(items, offsets, np.array([3, 7])) == (2, 4)
    assert count_repeats(items[::-1], offsets, np.array([3, 7])) == (1, 4)
    assert count_repeats(items, offsets, np.array([0, 5])) == (0, 0)


@pytest.mark.parametrize("seed", range(1, 5))
def test_repeats_are_counted_in_the_training_part_alone(seed):
    rng = np.random.default_rng(seed)
    lengths = rng.integers(0, 9, size=60)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    items = rng.integers(0, 6, size=offsets[-1]).astype(np.int32)
    ends = offsets[:-1] + rng.integers(0, lengths + 1)
    repeats = targets = 0
    for begin, end in zip(offsets[:-1], ends, strict=True):
        for place in range(begin + 1, end):
            targets += 1
            repeats += items[place] in items[begin:place]
    assert repeats > 20
    assert count_repeats(items, offsets, ends) == (repeats, targets)
    assert count_repeats(items[:0], np.array([0, 0]), np.array([0])) == (0, 0)


@pytest.mark.parametrize(
    ("offsets", "times"),
    [([0, 2, 4], [5, 6, 2, 1]), ([0, 1, 3], [5, 2, 1]), ([0, 2, 2], [6, 5]), ([0, 0, 2], [6, 5])],
)
def test_global_time_sees_every_fall(offsets, times):
    with pytest.raises(DataError, match="times must rise inside each user's run"):
        global_time(np.array(offsets), np.array(times))


@pytest.mark.parametrize(
    ("offsets", "times"),
    [([0, 1], [5]), ([0, 2, 2], [5, 5]), ([0, 0, 2], [5, 6]), ([0, 1, 3], [9, 1, 2])],
)
def test_global_time_takes_users_with_one_interaction_or_none(offsets, times):
    train_ends, valid_ends = global_time(np.array(offsets), np.array(times))
    assert (train_ends <= valid_ends).all()
    assert (np.array(offsets[:-1]) <= train_ends).all()
    assert (valid_ends <= np.array(offsets[1:])).all()


def test_shares_too_small_for_one_interaction_leave_one_to_test():
    train_ends, valid_ends = global_time(
        np.array([0, 10]), np.arange(10), valid_share=0.01, test_share=0.01
    )
    assert (train_ends.tolist(), valid_ends.tolist()) == ([9], [9])


def test_each_rule_is_said_in_words() -> None:
    assert [rule.partition(": ")[0] for rule in splits.SPLIT_RULES.values()] == [
        "leave-one-out",
        "global-time",
    ]
