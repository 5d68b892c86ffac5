"""Popularity and co-occurrence by hand and against plain Python; the held-out parts stay unseen."""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from genrec.data.schemas import Rules
from genrec.rankers import (
    Cooccurrence,
    OwnHistory,
    Popularity,
    baselines,
    newest_items,
)


def ask(ranker, k: int, histories: list[list[int]]) -> list[list[int]]:
    width = max(len(history) for history in histories)
    rows = [history + [-1] * (width - len(history)) for history in histories]
    return ranker.rank(torch.tensor(rows), k).items.tolist()


def test_popularity_counts_training_only_and_breaks_ties_by_id(tiny_data):
    # Training parts: [2, 1], [2, 3], [0]; items 4 and 5 are only ever held out.
    data = tiny_data([[2, 1, 4, 5], [2, 3, 4, 5], [0, 4, 5]], 6)
    assert ask(Popularity.fit(data), 4, [[0], [5]]) == [[2, 0, 1, 3]] * 2


def test_cooccurrence_by_hand(tiny_data):
    # Training pairs: 0>1 twice, 0>2 once, 1>0, 2>0; nothing crosses from user to user.
    data = tiny_data([[0, 1, 0, 2, 9, 9], [0, 1, 9, 9], [3, 9, 9]], 10)
    ranker = Cooccurrence.fit(data)
    # After 0: 1 (twice), 2, then the most popular one not yet there, 0 itself.
    assert ask(ranker, 3, [[3, 0], [1], [2], [3], [9]]) == [
        [1, 2, 0],
        [0, 1, 2],
        [0, 1, 2],
        [0, 1, 2],
        [0, 1, 2],
    ]


def test_scores_are_counts(tiny_data):
    data = tiny_data([[0, 1, 0, 2, 9, 9], [0, 1, 9, 9], [3, 9, 9]], 10)
    history = torch.tensor([[3, 0], [1, -1]])
    assert Popularity.fit(data).rank(history, 3).scores.tolist() == [[3, 2, 1]] * 2
    # Pairs count whole, popularity adds less than one.
    found = Cooccurrence.fit(data).rank(history, 3).scores
    torch.testing.assert_close(found, torch.tensor([[2.5, 1.25, 0.75], [1.75, 0.5, 0.25]]))


def test_the_newest_item_is_found_behind_padding():
    history = torch.tensor([[4, 5, -1], [6, -1, -1], [7, 8, 9]])
    assert newest_items(history).tolist() == [5, 6, 9]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.lists(st.integers(0, 7), min_size=1, max_size=9), min_size=1, max_size=8))
def test_both_equal_plain_python(tiny_data, sequences):
    data = tiny_data(sequences, 8)
    trained = [s[:-2] if len(s) >= 3 else s for s in sequences]
    counts = Counter(item for sequence in trained for item in sequence)
    popular = sorted(range(8), key=lambda item: (-counts[item], item))
    assert ask(Popularity.fit(data), 5, [[0]]) == [popular[:5]]
    pairs = Counter(pair for s in trained for pair in itertools.pairwise(s))
    ranker = Cooccurrence.fit(data)
    for last in range(8):
        followers = [item for item in popular if pairs[last, item]]
        followers.sort(key=lambda item: (-pairs[last, item], popular.index(item)))
        expected = followers + [item for item in popular if item not in followers]
        assert ask(ranker, 5, [[last]]) == [expected[:5]]


@pytest.mark.parametrize("baseline", [Popularity, Cooccurrence])
def test_held_out_items_change_nothing(tiny_data, baseline):
    rng = np.random.default_rng(0)
    sequences = [rng.integers(0, 9, 8).tolist() for _ in range(30)]
    others = [s[:-2] + rng.integers(0, 9, 2).tolist() for s in sequences]
    assert sequences != others
    asked = [[item] for item in range(9)]
    answers = [ask(baseline.fit(tiny_data(s, 9)), 9, asked) for s in (sequences, others)]
    assert answers[0] == answers[1]


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.integers(0, 7), min_size=1, max_size=9),
    st.sets(st.integers(0, 7), max_size=3),
    st.lists(st.integers(0, 7), min_size=1, max_size=6, unique=True) | st.none(),
)
def test_own_history_equals_plain_python(tiny_data, history, excluded, allowed):
    data = tiny_data([[2, 1, 2, 4, 5], [2, 3, 3, 4, 5], [0, 4, 5]], 8)
    counts = Counter([2, 1, 2, 2, 3, 3, 0])
    popular = sorted(range(8), key=lambda item: (-counts[item], item))
    own = Counter(history)
    newest = {item: place for place, item in enumerate(history)}
    mine = sorted(own, key=lambda item: (-own[item], -newest[item]))
    expected = mine + [item for item in popular if item not in own]
    expected = [item for item in expected if item not in excluded]
    rules = Rules()
    if excluded:
        rules = replace(rules, exclude=torch.tensor([sorted(excluded)]))
    if allowed is not None:
        rules = replace(rules, allow=torch.tensor([allowed]))
        expected = [item for item in expected if item in allowed]
    rows = torch.tensor([[*history, -1, -1]])
    found = OwnHistory.fit(data).rank(rows, 5, rules=rules)
    wanted = expected[:5]
    assert found.items[0].tolist() == wanted + [-1] * (5 - len(wanted))
    scores = found.scores[0, : len(wanted)].tolist()
    assert scores == sorted(scores, reverse=True)
    assert [score >= 1 for score in scores] == [item in own for item in wanted]


def test_own_history_stands_beside_the_others_where_people_come_back(tiny_data):
    back = tiny_data([[0, 1, 0, 1, 2, 3]] * 3, 4)
    never = tiny_data([[0, 1, 2, 3]] * 3, 4)
    assert "own history" in baselines(back)
    assert list(baselines(never)) == ["popularity", "co-occurrence"]
