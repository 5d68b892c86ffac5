"""Popularity and co-occurrence by hand and against plain Python; the held-out parts stay unseen."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest
import torch
from genrec.evaluation.baselines import cooccurrence, last_items, popularity
from hypothesis import given, settings
from hypothesis import strategies as st

from genrec.data.schemas import SequenceBatch


def ask(predict, histories: list[list[int]]) -> list[list[int]]:
    width = max(len(history) for history in histories)
    rows = [history + [-1] * (width - len(history)) for history in histories]
    history = torch.tensor(rows)
    batch = SequenceBatch(history, torch.zeros(len(rows), 1), torch.arange(len(rows)))
    return predict(batch).tolist()


def test_popularity_counts_training_only_and_breaks_ties_by_id(tiny_data):
    # Training parts: [2, 1], [2, 3], [0]; items 4 and 5 are only ever held out.
    data = tiny_data([[2, 1, 4, 5], [2, 3, 4, 5], [0, 4, 5]], 6)
    assert ask(popularity(data, 4), [[0], [5]]) == [[2, 0, 1, 3]] * 2


def test_cooccurrence_by_hand(tiny_data):
    # Training pairs: 0>1 twice, 0>2 once, 1>0, 2>0; nothing crosses from user to user.
    data = tiny_data([[0, 1, 0, 2, 9, 9], [0, 1, 9, 9], [3, 9, 9]], 10)
    predict = cooccurrence(data, 3)
    # After 0: 1 (twice), 2, then the most popular one not yet there, 0 itself.
    assert ask(predict, [[3, 0], [1], [2], [3], [9]]) == [
        [1, 2, 0],
        [0, 1, 2],
        [0, 1, 2],
        [0, 1, 2],
        [0, 1, 2],
    ]


def test_the_newest_item_is_found_behind_padding():
    batch = SequenceBatch(
        torch.tensor([[4, 5, -1], [6, -1, -1], [7, 8, 9]]), torch.zeros(3, 1), torch.zeros(3)
    )
    assert last_items(batch).tolist() == [5, 6, 9]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.lists(st.integers(0, 7), min_size=1, max_size=9), min_size=1, max_size=8))
def test_both_equal_plain_python(tiny_data, sequences):
    data = tiny_data(sequences, 8)
    trained = [s[:-2] if len(s) >= 3 else s for s in sequences]
    counts = Counter(item for sequence in trained for item in sequence)
    popular = sorted(range(8), key=lambda item: (-counts[item], item))
    assert ask(popularity(data, 5), [[0]]) == [popular[:5]]
    pairs = Counter(pair for s in trained for pair in itertools.pairwise(s))
    predict = cooccurrence(data, 5)
    for last in range(8):
        followers = [item for item in popular if pairs[last, item]]
        followers.sort(key=lambda item: (-pairs[last, item], popular.index(item)))
        expected = followers + [item for item in popular if item not in followers]
        assert ask(predict, [[last]]) == [expected[:5]]


@pytest.mark.parametrize("baseline", [popularity, cooccurrence])
def test_held_out_items_change_nothing(tiny_data, baseline):
    rng = np.random.default_rng(0)
    sequences = [rng.integers(0, 9, 8).tolist() for _ in range(30)]
    others = [s[:-2] + rng.integers(0, 9, 2).tolist() for s in sequences]
    assert sequences != others
    asked = [[item] for item in range(9)]
    answers = [ask(baseline(tiny_data(s, 9), 9), asked) for s in (sequences, others)]
    assert answers[0] == answers[1]


@pytest.mark.parametrize("baseline", [popularity, cooccurrence])
def test_a_catalogue_smaller_than_the_list(tiny_data, baseline):
    data = tiny_data([[0, 1, 0, 1, 0]], 2)
    (row,) = ask(baseline(data, 5), [[0]])
    assert sorted(item for item in row if item >= 0) == [0, 1]
