"""Item-KNN and EASE against plain loops in float64; the held-out parts stay unseen."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from genrec import rankers_linear
from genrec.errors import ConfigError, DataError
from genrec.evaluation.compare import compare
from genrec.evaluation.settings import EvaluationSettings
from genrec.rankers import Ranker
from genrec.rankers_linear import Ease, ItemKnn

N = 8
SEQUENCES = st.lists(st.lists(st.integers(0, N - 1), max_size=9), min_size=1, max_size=8)
HISTORIES = st.lists(
    st.lists(st.integers(0, N - 1), min_size=1, max_size=5), min_size=1, max_size=4
)
BOTH = pytest.mark.parametrize("ranker", [ItemKnn, Ease])


def padded(histories):
    width = max(map(len, histories))
    return torch.tensor([h + [-1] * (width - len(h)) for h in histories])


def naive_taken(sequences):
    taken = np.zeros((len(sequences), N))
    for user, items in enumerate(sequences):
        taken[user, items[:-2] if len(items) >= 3 else items] = 1
    return taken


def naive_knn(sequences, width, shrinkage):
    taken = naive_taken(sequences)
    counts = taken.T @ taken
    similar = np.zeros((N, N))
    for i in range(N):
        for j in range(N):
            if i != j and counts[i, j]:
                lengths = np.sqrt(counts[i, i] * counts[j, j])
                similar[i, j] = counts[i, j] / (lengths + shrinkage)
        weakest = sorted(range(N), key=lambda j: (-similar[i, j], j))[width:]
        similar[i, weakest] = 0
    return similar


def naive_ease(sequences, ridge):
    taken = naive_taken(sequences)
    inverse = np.linalg.inv(taken.T @ taken + ridge * np.eye(N))
    weights = -inverse / np.diagonal(inverse)
    np.fill_diagonal(weights, 0)
    return weights


def naive_scores(weights, histories, decay):
    scores = np.zeros((len(histories), N))
    for user, items in enumerate(histories):
        for age, item in enumerate(reversed(items)):
            scores[user] += decay**age * weights[item]
    return scores


def assert_ranked(ranking, scores):
    """Compare with all scores; items of nearly equal scores may stand in any order."""
    found = np.take_along_axis(scores, ranking.items.numpy(), axis=1)
    np.testing.assert_allclose(ranking.scores.numpy(), found, atol=1e-5)
    np.testing.assert_allclose(found, -np.sort(-scores, axis=1)[:, : found.shape[1]], atol=1e-5)


@settings(max_examples=100, deadline=None)
@given(SEQUENCES, HISTORIES, st.integers(1, N), st.floats(0, 5), st.floats(0.1, 1), st.booleans())
def test_knn_equals_plain_loops(tiny_data, sequences, histories, width, shrinkage, decay, blocks):
    with pytest.MonkeyPatch.context() as patch:
        if blocks:
            patch.setattr(rankers_linear, "_BLOCK", 5)
        ranker = ItemKnn.fit(
            tiny_data(sequences, N), num_neighbours=width, shrinkage=shrinkage, decay=decay
        )
    similar = naive_knn(sequences, width, shrinkage)
    assert_ranked(ranker.rank(padded(histories), N), naive_scores(similar, histories, decay))


@settings(max_examples=100, deadline=None)
@given(SEQUENCES, HISTORIES, st.floats(0.1, 50), st.floats(0.1, 1), st.booleans())
def test_ease_equals_plain_loops(tiny_data, sequences, histories, ridge, decay, blocks):
    with pytest.MonkeyPatch.context() as patch:
        if blocks:
            patch.setattr(rankers_linear, "_BLOCK", 5)
        ranker = Ease.fit(tiny_data(sequences, N), ridge=ridge, decay=decay)
    weights = naive_ease(sequences, ridge)
    assert_ranked(ranker.rank(padded(histories), N), naive_scores(weights, histories, decay))


def test_ease_of_more_items_than_a_block(tiny_data):
    rng = np.random.default_rng(0)
    sequences = rng.integers(0, 700, (400, 9)).tolist()
    ranker = Ease.fit(tiny_data(sequences, 700), ridge=3.0)
    taken = np.zeros((400, 700))
    for user, items in enumerate(sequences):
        taken[user, items[:-2]] = 1
    inverse = np.linalg.inv(taken.T @ taken + 3.0 * np.eye(700))
    expected = -inverse / np.diagonal(inverse)
    np.fill_diagonal(expected, 0)
    np.testing.assert_allclose(ranker.weights.numpy(), expected, atol=1e-6)


@pytest.fixture
def sequences():
    return np.random.default_rng(2).integers(0, N, (40, 7)).tolist()


@BOTH
def test_held_out_items_change_nothing(tiny_data, ranker, sequences):
    others = [s[:-2] + np.random.default_rng(3).integers(0, N, 2).tolist() for s in sequences]
    history = torch.arange(N).unsqueeze(1)
    one, two = (ranker.fit(tiny_data(s, N)).rank(history, N) for s in (sequences, others))
    torch.testing.assert_close(one.scores, two.scores, rtol=0, atol=0)
    assert torch.equal(one.items, two.items)


def test_errors(tiny_data, sequences):
    data = tiny_data(sequences, N)
    with pytest.raises(DataError, match=r"EASE must fit in 0\.0 GB .* got 8 items"):
        Ease.fit(data, max_bytes=12 * N * N - 1)
    Ease.fit(data, max_bytes=12 * N * N)
    with pytest.raises(ConfigError, match="ridge must be > 0, got 0"):
        Ease.fit(data, ridge=0)
    with pytest.raises(ConfigError, match="num_neighbours must be >= 1, got 0"):
        ItemKnn.fit(data, num_neighbours=0)
    with pytest.raises(ConfigError, match="shrinkage must be >= 0, got -1"):
        ItemKnn.fit(data, shrinkage=-1)
    with pytest.raises(ConfigError, match=r"decay must lie in \(0, 1\], got 0"):
        ItemKnn.fit(data, decay=0)
    with pytest.raises(ConfigError, match="max_history must be >= 1, got 0"):
        Ease.fit(data, max_history=0)


def test_they_stand_in_the_common_table(tiny_data, sequences):
    data = tiny_data(sequences, N)
    rankers: dict[str, Ranker] = {
        ranker.name: ranker for ranker in (ItemKnn.fit(data), Ease.fit(data))
    }
    results = compare(rankers, data, "test", EvaluationSettings(ks=(1, N)))
    assert list(results) == ["item-KNN", "EASE"]
    for row in results.values():
        assert row["users"] == len(sequences)
        assert row[f"recall@{N}"] == 1  # every item is ranked
