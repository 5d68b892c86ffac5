"""Collaborative vectors against plain loops in float64; the held-out parts stay unseen."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genrec.data import collaborative
from genrec.data.text.collaborative import (
    collaborative_vectors,
    cooccurrence_counts,
    positive_pmi,
)
from genrec.errors import ConfigError, DataError

SEQUENCES = st.lists(st.lists(st.integers(0, 7), min_size=0, max_size=12), min_size=1, max_size=8)


def trained(sequences):
    return [s[:-2] if len(s) >= 3 else s for s in sequences]


def naive_counts(sequences, num_items, window):
    counts = np.zeros((num_items, num_items))
    for items in trained(sequences):
        for i, one in enumerate(items):
            for j, other in enumerate(items):
                if one != other and 0 < abs(i - j) <= window:
                    counts[one, other] += 1 / abs(i - j)
    return counts


def naive_pmi(counts, smoothing):
    total = counts.sum()
    powers = [row.sum() ** smoothing for row in counts]
    pmi = np.zeros_like(counts)
    for i, j in np.argwhere(counts > 0):
        joint, item = counts[i, j] / total, counts[i].sum() / total
        context = powers[j] / sum(powers)
        pmi[i, j] = max(0.0, math.log(joint / (item * context)))
    return pmi


@settings(max_examples=100, deadline=None)
@given(SEQUENCES, st.integers(1, 6), st.sampled_from([1, 3, 1 << 20]), st.floats(0.3, 1))
def test_counts_and_pmi_equal_plain_loops(tiny_data, sequences, window, chunk, smoothing):
    data = tiny_data(sequences, 8)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(collaborative, "CHUNK", chunk)
        counts = cooccurrence_counts(data, window=window)
    expected = naive_counts(sequences, 8, window)
    np.testing.assert_allclose(counts.toarray(), expected, rtol=1e-12)
    pmi = positive_pmi(counts, smoothing=smoothing)
    np.testing.assert_allclose(pmi.toarray(), naive_pmi(expected, smoothing), atol=1e-12)


def random_sequences(num_items, count=200, seed=0):
    rng = np.random.default_rng(seed)
    # Neighbours on a ring are taken together, so that there is something to find.
    steps = rng.integers(-2, 3, (count, 12)).cumsum(axis=1) + rng.integers(0, num_items, (count, 1))
    return (steps % num_items).tolist()


@pytest.mark.parametrize("num_items", [20, 90])  # all singular vectors at once, or a few
def test_vectors_span_what_a_full_svd_finds(tiny_data, num_items):
    sequences = random_sequences(num_items)
    vectors = collaborative_vectors(tiny_data(sequences, num_items), dim=7)
    left, values, _ = np.linalg.svd(naive_pmi(naive_counts(sequences, num_items, 5), 0.75))
    expected = left[:, :7] * np.sqrt(values[:7])
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    # Signs are free, and so are turns among equal values; products of items are not.
    np.testing.assert_allclose(vectors @ vectors.T, expected @ expected.T, atol=1e-4)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-6)
    assert vectors.dtype == np.float32


def test_neighbours_are_near(tiny_data):
    vectors = collaborative_vectors(tiny_data(random_sequences(90, 2000), 90), dim=16)
    near = (vectors @ vectors.T).argsort(axis=1)[:, -3:]  # the item itself and one on each side
    ring = (near - np.arange(90)[:, None]) % 90
    assert np.isin(ring, [0, 1, 2, 88, 89]).mean() > 0.95


def test_held_out_events_change_nothing(tiny_data):
    sequences = random_sequences(40)
    rng = np.random.default_rng(1)
    others = [s[:-2] + rng.integers(0, 40, 2).tolist() for s in sequences]
    assert sequences != others
    one, other = (collaborative_vectors(tiny_data(s, 40), dim=8) for s in (sequences, others))
    np.testing.assert_array_equal(one, other)


def test_items_without_company_get_zeros(tiny_data):
    # Item 5 is held out, 6 stands alone, 7 repeats; 8 and 9 are a pair of their own.
    sequences = [[0, 1, 2, 3, 4, 5, 5], [1, 3, 0, 2, 4, 5, 5], [6], [7, 7], [8, 9]]
    data = tiny_data(sequences, 10)
    company = collaborative_vectors(data, dim=6).any(axis=1)
    assert np.flatnonzero(company).tolist() == [0, 1, 2, 3, 4, 8, 9]
    # The pair is the strongest direction; no rounding of it may pass for a vector elsewhere.
    strongest = collaborative_vectors(data, dim=1).any(axis=1)
    assert np.flatnonzero(strongest).tolist() == [8, 9]


def test_more_dimensions_than_directions_are_zero(tiny_data):
    vectors = collaborative_vectors(tiny_data([[0, 1], [0, 1]], 3), dim=8)
    assert vectors.shape == (3, 8)
    assert not vectors[2].any()
    assert not vectors[:, 2:].any()


def test_a_seed_changes_rounding_only(tiny_data):
    data = tiny_data(random_sequences(90), 90)
    one, same, other = (collaborative_vectors(data, dim=5, seed=seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one, same)
    np.testing.assert_allclose(one, other, atol=1e-4)


def test_errors(tiny_data):
    data = tiny_data([[0, 1, 2, 3]])
    with pytest.raises(ConfigError, match="dim must be >= 1, got 0"):
        collaborative_vectors(data, dim=0)
    with pytest.raises(ConfigError, match="window must be >= 1, got 0"):
        collaborative_vectors(data, window=0)
    with pytest.raises(ConfigError, match=r"smoothing must lie in \(0, 1\], got 2"):
        collaborative_vectors(data, smoothing=2)
    with pytest.raises(DataError, match="two different items of one user"):
        collaborative_vectors(tiny_data([[0, 1, 2], [2]]))
