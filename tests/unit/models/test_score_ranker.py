"""Top items against a plain sort: ties, rules and lists longer than the catalogue."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from genrec.data.schemas import Rules
from genrec.models.score_ranker import top_items

N = 7

score = st.sampled_from([-torch.inf, -2.5, -1.0, -0.0, 0.0, 1e-30, 3.0])
rows = st.lists(st.integers(-1, N - 1), min_size=4, max_size=4)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.lists(score, min_size=N, max_size=N), min_size=1, max_size=3),
    st.integers(1, N + 2),
    st.data(),
)
def test_equals_a_plain_sort(table, k, data):
    users = len(table)
    lists = {
        name: data.draw(st.none() | st.lists(rows, min_size=users, max_size=users))
        for name in ("exclude", "allow")
    }
    mask = data.draw(st.none() | st.lists(st.booleans(), min_size=N, max_size=N))
    rules = Rules(
        **{name: None if value is None else torch.tensor(value) for name, value in lists.items()},
        mask=None if mask is None else torch.tensor(mask),
    )
    found = top_items(torch.tensor(table), k, rules)
    assert found.items.shape == found.scores.shape == (users, k)
    for user in range(users):
        allowed = [
            item
            for item in range(N)
            if (lists["allow"] is None or item in lists["allow"][user])
            and (lists["exclude"] is None or item not in lists["exclude"][user])
            and (mask is None or mask[item])
            and table[user][item] != -torch.inf
        ]
        best = sorted(allowed, key=lambda item, row=table[user]: (-row[item], item))[:k]
        assert found.items[user].tolist() == best + [-1] * (k - len(best))
        scores = [table[user][item] for item in best] + [-torch.inf] * (k - len(best))
        assert found.scores[user].tolist() == torch.tensor(scores).tolist()


def test_half_precision_is_taken_as_it_is():
    scores = torch.tensor([[1.0, 2.0, 3.0]], dtype=torch.bfloat16)
    found = top_items(scores, 2)
    assert (found.items.tolist(), found.scores.dtype) == ([[2, 1]], torch.float32)
