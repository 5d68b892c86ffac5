"""Ranking metrics against values worked out by hand and against plain Python."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from genrec.errors import DataError
from genrec.evaluation.metrics import (
    coverage,
    hit_ranks,
    ndcg_at_k,
    ranking_metrics,
    recall_at_k,
    reciprocal_rank,
)


def test_ranks_count_from_zero_and_the_first_match_wins():
    results = torch.tensor([[5, 3, 9], [5, 3, 9], [7, 7, 2], [1, -1, -1]])
    targets = torch.tensor([5, 4, 7, 2])
    assert hit_ranks(results, targets).tolist() == [0, -1, 0, -1]
    assert hit_ranks(torch.tensor([[5, 3, 9]]), torch.tensor([9])).tolist() == [2]


def test_metrics_by_hand():
    ranks = torch.tensor([0, 2, -1, 9])
    assert recall_at_k(ranks, 1) == 0.25
    assert recall_at_k(ranks, 3) == 0.5
    assert recall_at_k(ranks, 9) == 0.5
    assert recall_at_k(ranks, 10) == 0.75
    assert ndcg_at_k(ranks, 1) == 0.25
    assert ndcg_at_k(ranks, 5) == pytest.approx((1 + 1 / math.log2(4)) / 4)
    assert ndcg_at_k(ranks, 10) == pytest.approx((1 + 0.5 + 1 / math.log2(11)) / 4)
    assert reciprocal_rank(ranks) == pytest.approx((1 + 1 / 3 + 1 / 10) / 4)


def test_coverage_is_a_share_of_the_catalogue():
    assert coverage(torch.tensor([True, False, False, True])) == 0.5


def test_no_user_is_an_error_and_not_a_nan():
    with pytest.raises(DataError, match="need at least one user, got none"):
        ranking_metrics(torch.tensor([], dtype=torch.long), [10])


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_everything_equals_plain_python(data):
    users, width = data.draw(st.integers(1, 8)), data.draw(st.integers(1, 6))
    item = st.integers(0, 9)
    rows = [
        data.draw(st.lists(item, min_size=width, max_size=width, unique=True)) for _ in range(users)
    ]
    for row in rows:  # fewer results than asked for
        kept = data.draw(st.integers(0, width))
        row[kept:] = [-1] * (width - kept)
    targets = data.draw(st.lists(item, min_size=users, max_size=users))
    ranks = hit_ranks(torch.tensor(rows), torch.tensor(targets))
    expected = [row.index(t) if t in row else None for row, t in zip(rows, targets, strict=True)]
    assert ranks.tolist() == [-1 if rank is None else rank for rank in expected]
    found = ranking_metrics(ranks, [1, 3, 6])
    for k in (1, 3, 6):
        hits = [rank for rank in expected if rank is not None and rank < k]
        assert found[f"recall@{k}"] == pytest.approx(len(hits) / users)
        gains = sum(1 / math.log2(rank + 2) for rank in hits)
        assert found[f"ndcg@{k}"] == pytest.approx(gains / users)
        assert found[f"ndcg@{k}"] <= found[f"recall@{k}"] + 1e-12
    mrr = sum(1 / (rank + 1) for rank in expected if rank is not None) / users
    assert found["mrr"] == pytest.approx(mrr)
