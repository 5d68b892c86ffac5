"""Examples by hand and by property: every training target once, held-out items never.

Where items are numbered by their place in the data, an item id says which interaction it is.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from genrec.data.prepared import StringArray
from genrec.data.sequence_dataset import SeqData, gather_windows, hash_users, user_buckets
from genrec.errors import ConfigError

LENGTHS = st.lists(st.integers(1, 40), min_size=1, max_size=8)


def numbered(tiny_data, lengths: list[int]):
    """Users of the given lengths, whose items are numbered through."""
    items = iter(range(sum(lengths)))
    return tiny_data([[next(items) for _ in range(length)] for length in lengths])


def packed_examples(data: SeqData) -> list[tuple[int, int, list[int]]]:
    """Unroll the packed windows into (user, target, history)."""
    batch = gather_windows(
        torch.from_numpy(np.asarray(data.data.sequence_items)), *data.packed_windows()
    )
    assert batch.packed
    assert batch.history.shape == batch.targets.shape
    found = []
    for user, history, targets in zip(
        batch.user_ids.tolist(), batch.history.tolist(), batch.targets.tolist(), strict=True
    ):
        for place, target in enumerate(targets):
            if target >= 0:
                found.append((user, target, history[: place + 1]))
    return found


def plain_examples(data: SeqData) -> list[tuple[int, int, list[int]]]:
    found = []
    for index in range(len(data)):
        batch = data[index]
        assert batch.history.shape == (1, data.lengths[index])
        found.append((int(batch.user_ids), int(batch.targets), batch.history[0].tolist()))
    return found


def test_examples_by_hand(tiny_data):
    data = tiny_data([[10, 11, 12, 13], [14, 15, 16], [17, 18], [19]])
    assert plain_examples(SeqData(data, "train")) == [(0, 11, [10]), (2, 18, [17])]
    assert plain_examples(SeqData(data, "valid")) == [(0, 12, [10, 11]), (1, 15, [14])]
    assert plain_examples(SeqData(data, "test")) == [(0, 13, [10, 11, 12]), (1, 16, [14, 15])]
    assert SeqData(data, "test").targets.tolist() == [13, 16]


def test_only_the_newest_items_of_a_history_are_kept(tiny_data):
    data = tiny_data([list(range(8))])
    assert plain_examples(SeqData(data, "test", max_history=3)) == [(0, 7, [4, 5, 6])]
    assert plain_examples(SeqData(data, "train", max_history=2))[-1] == (0, 5, [3, 4])


def test_a_batch_is_padded_at_the_end_and_says_so(tiny_data):
    data = SeqData(tiny_data([[0, 1, 2, 3], [4, 5, 6]]), "test")
    batch = data.gather(np.array([1, 0]))
    assert batch.history.tolist() == [[4, 5, -1], [0, 1, 2]]
    assert batch.targets.tolist() == [[6], [3]]
    assert batch.user_ids.tolist() == [1, 0]
    assert batch.padded
    assert not data.gather(np.array([0, 0])).padded
    assert batch.history.dtype == batch.targets.dtype == torch.int64


@settings(max_examples=150, deadline=None)
@given(LENGTHS, st.integers(1, 12))
def test_every_training_target_once_and_no_held_out_item_anywhere(tiny_data, lengths, width):
    data = numbered(tiny_data, lengths)
    train = SeqData(data, "train", max_history=width)
    examples = plain_examples(train)
    starts = np.cumsum([0, *lengths])
    ends = [s + (n - 2 if n >= 3 else n) for s, n in zip(starts, lengths, strict=False)]
    expected = [
        (user, target, list(range(max(start, target - width), target)))
        for user, (start, end) in enumerate(zip(starts, ends, strict=False))
        for target in range(start + 1, end)
    ]
    assert examples == expected
    held_out = set(SeqData(data, "valid").targets) | set(SeqData(data, "test").targets)
    assert len(held_out) == 2 * sum(n >= 3 for n in lengths)
    seen = {target for _, target, _ in examples} | {i for _, _, h in examples for i in h}
    assert not seen & held_out


@settings(max_examples=200, deadline=None)
@given(LENGTHS, st.integers(1, 12))
def test_packed_windows_hold_every_training_target_once(tiny_data, lengths, width):
    data = SeqData(numbered(tiny_data, lengths), "train", max_history=width)
    examples = packed_examples(data)
    wanted = [(user, target) for user, target, _ in plain_examples(data)]
    assert sorted((user, target) for user, target, _ in examples) == wanted
    starts = np.cumsum([0, *lengths])
    for user, target, history in examples:
        assert history == list(range(target - len(history), target))
        assert history[0] >= starts[user]
        # Half a window at least, wherever the user has that many items.
        assert len(history) >= min(target - starts[user], (width + 1) // 2)
        assert len(history) <= width


def bucketed(keys, num_buckets: int) -> torch.Tensor:
    return user_buckets(torch.from_numpy(hash_users(StringArray.from_strings(keys))), num_buckets)


@given(st.lists(st.text(max_size=8), min_size=1, max_size=6), st.integers(1, 5000))
@settings(deadline=None)
def test_hash_equals_its_definition(keys, buckets):
    def reference(key: str) -> int:
        raw, mask = key.encode(), 2**64 - 1
        mixed = (sum((c + 1) * 0x100000001B3**i for i, c in enumerate(raw)) + len(raw)) & mask
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
            mixed = ((mixed ^ (mixed >> shift)) * factor) & mask
        return (mixed ^ (mixed >> 31)) % buckets

    found = bucketed(keys, buckets)
    assert found.tolist() == [reference(key) for key in keys]


def test_recorded_hashes():
    """A change here gives every user of every saved model another token."""
    keys = ["A1YJEY40YUW4SE", "A60XNB876KYML", "1", "2", "", "Ünï"]
    assert bucketed(keys, 2000).tolist() == RECORDED


RECORDED = [767, 1275, 441, 1767, 0, 1224]


def test_hashes_spread_evenly():
    counts = np.bincount(bucketed((str(i) for i in range(50_000)), 100), minlength=100)
    # 500 a bucket with a standard deviation of 22; six of them leave one chance in a million.
    assert counts.min() > 500 - 6 * 22
    assert counts.max() < 500 + 6 * 22


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "tset"}, r"split must be known, got 'tset'; did you mean test\?"),
        ({"max_history": 0}, "max_seq_len must be >= 1, got 0"),
    ],
)
def test_bad_settings_are_refused(tiny_data, options, message):
    with pytest.raises(ConfigError, match=message):
        SeqData(tiny_data([[0, 1, 2]]), **options)


def test_examples_beyond_the_last_are_an_index_error(tiny_data):
    data = SeqData(tiny_data([[0, 1, 2]]), "test")
    with pytest.raises(IndexError):
        data[1]
    assert int(data[-1].targets) == 2
