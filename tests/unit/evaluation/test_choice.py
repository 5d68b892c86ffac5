"""Choosing between ways of ranking: the best, unless it may be luck."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from genrec.evaluation.choice import choose

RANKS = st.lists(st.integers(-1, 12), min_size=2, max_size=40)


def test_a_clear_winner_is_taken_and_a_lucky_one_is_not() -> None:
    usual = np.array([0, -1] * 200)
    lucky, clear = usual.copy(), usual.copy()
    lucky[:4] = [1, 3, 0, 0]  # better for two users, worse for one
    clear[1:60:2] = 0
    assert choose([lucky, usual], "ndcg@10") == 0
    assert choose([lucky, usual], "ndcg@10", usual=1) == 1
    assert choose([lucky, usual, clear], "ndcg@10", usual=1) == 2


@given(RANKS, st.data())
def test_what_is_chosen_is_the_usual_or_the_best_and_better_by_an_error(
    first: list[int], data: st.DataObject
) -> None:
    size = len(first)
    second = data.draw(st.lists(st.integers(-1, 12), min_size=size, max_size=size))
    ranks = [np.array(first), np.array(second)]
    hits = [(of_way >= 0) & (of_way < 5) for of_way in ranks]
    gained = hits[1].astype(float) - hits[0]
    error = np.sqrt(gained.var(ddof=1) / size)
    assume(abs(gained.mean() - error) > 1e-9)  # where the two are equal, rounding decides
    expected = 1 if gained.mean() > error else 0
    assert choose(ranks, "recall@5", usual=0) == expected
    assert choose(ranks, "recall@5") == int(hits[1].sum() > hits[0].sum())


def test_one_example_proves_nothing() -> None:
    assert choose([np.array([-1]), np.array([0])], "mrr", usual=0) == 0
    assert choose([np.array([-1]), np.array([0])], "mrr") == 1


@pytest.mark.parametrize("usual", [None, 0])
def test_of_equals_the_first(usual: int | None) -> None:
    assert choose([np.array([1, 2]), np.array([1, 2])], "mrr", usual=usual) == 0
