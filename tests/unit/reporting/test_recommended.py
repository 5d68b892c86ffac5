from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from genrec.data.prepared import StringArray
from genrec.reporting.recommended import sample_users
from genrec.trained import load_trained


@pytest.fixture(scope="module")
def runs(shop):
    return [(name, load_trained(getattr(shop, name))) for name in ("decoder", "items", "sasrec")]


def test_samples_are_what_the_runs_rank(shop, runs):
    data, users = shop.data, [0, 7, 29]
    samples = sample_users(runs, data, users, k=4)
    assert [sample.key for sample in samples] == [data.user_keys[user] for user in users]
    for user, sample in zip(users, samples, strict=True):
        begin, end = data.sequence_offsets[user : user + 2]
        items = data.sequence_items[begin:end].tolist()
        assert sample.history == tuple(items[:-1])
        assert (sample.length, sample.taken) == (len(items) - 1, items[-1])
        assert sample.rows() >= {*items}
        for (_, run), answer in zip(runs, sample.answers, strict=True):
            history = torch.tensor([items[:-1][-run.ranker.max_history :]])
            ranked = run.ranker.rank(history, 32)
            expected = [row for row in ranked.items[0].tolist() if row not in items[:-1]][:4]
            assert [offer.row for offer in answer.offers] == expected
            assert [offer.taken for offer in answer.offers] == [
                row == items[-1] for row in expected
            ]


def test_probabilities_are_those_that_were_generated(shop, runs):
    for name, run in runs[:2]:
        sample = sample_users([(name, run)], shop.data, [3], k=5)[0]
        history = torch.tensor([sample.history[-run.ranker.max_history :]])
        ranked = run.ranker.rank(history, 32)
        scores = dict(zip(ranked.items[0].tolist(), ranked.scores[0].tolist(), strict=True))
        for offer in sample.answers[0].offers:
            assert offer.codes == tuple(run.catalogue.codes[offer.row].tolist())
            assert len(offer.probabilities) == 3
            assert all(0 <= value <= 1 for value in offer.probabilities)
            assert math.log(offer.probability) == pytest.approx(scores[offer.row], abs=1e-4)


def test_a_model_without_codes_shows_none(shop, runs):
    offers = sample_users(runs[2:], shop.data, [0])[0].answers[0].offers
    assert len(offers) == 5
    assert all(offer.codes == offer.probabilities == () for offer in offers)


def test_users_of_one_item_and_of_none(shop, runs):
    """Whoever has one item keeps it as his history, and took nothing next."""
    data = shop.data
    offsets = np.array([0, 1, 1, 5])
    arrays = {
        "sequence_items": np.array(data.sequence_items[:5]),
        "sequence_offsets": offsets,
        "train_ends": np.array([1, 1, 3]),
        "valid_ends": np.array([1, 1, 4]),
        "user_keys": StringArray.from_strings(["one", "none", "four"]),
    }
    samples = sample_users(runs, replace(data, **arrays), [0, 1, 2])
    assert [(s.key, s.length, s.taken is None) for s in samples] == [
        ("one", 1, True),
        ("four", 3, False),
    ]
    assert all(len(answer.offers) == 5 for sample in samples for answer in sample.answers)


def test_nobody_gives_nothing(shop, runs):
    assert sample_users(runs, shop.data, []) == []
