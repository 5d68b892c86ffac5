"""The paired bootstrap against a plain loop, and on users of whom the truth is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from genrec.errors import ConfigError, DataError
from genrec.evaluation import bootstrap
from genrec.evaluation.bootstrap import paired_bootstrap
from genrec.evaluation.metrics import ranking_metrics


def gain(rank: int, metric: str) -> float:
    if metric == "mrr":
        return 1 / (rank + 1) if rank >= 0 else 0.0
    name, k = metric.split("@")
    if not 0 <= rank < int(k):
        return 0.0
    return 1.0 if name == "recall" else 1 / math.log2(rank + 2)


def naive(first, second, metric, users, count, rng):
    """Draw users one by one; return the difference and those of the resamples."""
    runs = {}
    for one, other, user in zip(first, second, users, strict=True):
        runs.setdefault(user, []).append(gain(one, metric) - gain(other, metric))
    runs = list(runs.values())
    every = [value for run in runs for value in run]
    means = []
    for _ in range(count):
        drawn = [runs[i] for i in rng.integers(0, len(runs), len(runs))]
        means.append(np.mean([value for run in drawn for value in run]))
    return np.mean(every), np.array(means)


def ranks(rng, count, share=0.5):
    return np.where(rng.random(count) < share, rng.integers(0, 12, count), -1)


@pytest.mark.parametrize("metric", ["recall@5", "ndcg@10", "mrr"])
@pytest.mark.parametrize("examples_a_user", [1, 3])
@pytest.mark.parametrize("block", [50, 1 << 22])
def test_it_equals_a_loop_over_users(metric, examples_a_user, block, monkeypatch):
    monkeypatch.setattr(bootstrap, "_BLOCK", block)
    rng = np.random.default_rng(0)
    first, second = ranks(rng, 120), ranks(rng, 120, 0.4)
    users = rng.integers(0, 120 // examples_a_user, 120) if examples_a_user > 1 else np.arange(120)
    difference, means = naive(first, second, metric, users, 3000, rng)
    given_users = users if examples_a_user > 1 else None
    result = paired_bootstrap(first, second, metric=metric, users=given_users)
    assert result.difference == pytest.approx(difference, abs=1e-12)
    spread = means.std()
    low, high = np.quantile(means, [0.025, 0.975])
    assert result.low == pytest.approx(low, abs=0.15 * spread)
    assert result.high == pytest.approx(high, abs=0.15 * spread)
    p_value = (np.abs(means - difference) >= abs(difference)).mean()
    assert result.p_value == pytest.approx(p_value, abs=0.03)


def test_seeds_of_a_model_are_averaged():
    rng = np.random.default_rng(6)
    first, second = np.stack([ranks(rng, 200) for _ in range(3)]), ranks(rng, 200)
    result = paired_bootstrap(first, second)
    each = [paired_bootstrap(one, second) for one in first]
    assert result.difference == pytest.approx(np.mean([one.difference for one in each]))
    assert result.high - result.low < max(one.high - one.low for one in each)
    thrice = paired_bootstrap(np.stack([second] * 3), second)
    assert thrice.difference == pytest.approx(0, abs=1e-12)


def test_the_difference_is_that_of_the_table():
    rng = np.random.default_rng(1)
    first, second = ranks(rng, 300), ranks(rng, 300)
    one, other = (ranking_metrics(torch.from_numpy(r), [5, 10]) for r in (first, second))
    for metric in one:
        result = paired_bootstrap(first, second, metric=metric, num_resamples=10)
        assert result.difference == pytest.approx(one[metric] - other[metric], abs=1e-12)


def test_the_interval_holds_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(2)
    inside, small = 0, 0
    for trial in range(400):
        # Both find a user with the same chance, the first one 4 % more often.
        easy = rng.random(800)
        first, second = (np.where(rng.random(800) < 0.5 * easy + x, 0, -1) for x in (0.04, 0.0))
        result = paired_bootstrap(
            first, second, metric="recall@1", num_resamples=500, seed=trial, level=0.9
        )
        inside += result.low <= 0.04 <= result.high
        null = np.where(rng.random(800) < 0.5 * easy, 0, -1)
        small += paired_bootstrap(null, second, metric="recall@1", num_resamples=500).p_value < 0.1
    assert 0.86 < inside / 400 < 0.94
    assert 0.06 < small / 400 < 0.14


def test_pairing_finds_what_the_users_would_hide():
    rng = np.random.default_rng(3)
    second = np.where(rng.random(5000) < 0.1, 3, -1)
    first = second.copy()
    first[np.flatnonzero(second >= 0)[:40]] = 2  # one place better for 40 of 5000 users
    result = paired_bootstrap(first, second)
    assert 0 < result.low < result.difference < result.high
    assert result.p_value < 0.001


def test_equal_models_do_not_differ():
    same = ranks(np.random.default_rng(4), 50)
    result = paired_bootstrap(same, same.copy())
    assert (result.difference, result.low, result.high, result.p_value) == (0, 0, 0, 1)


def test_the_seed_decides():
    rng = np.random.default_rng(5)
    first, second = ranks(rng, 90), ranks(rng, 90)
    one, same, other = (paired_bootstrap(first, second, seed=seed) for seed in (0, 0, 1))
    assert one == same
    assert one != other


def test_errors():
    some = np.array([0, 1])
    with pytest.raises(DataError, match=r"at least one, got shapes \(1, 0\) and \(1, 0\)"):
        paired_bootstrap(some[:0], some[:0])
    with pytest.raises(DataError, match=r"got shapes \(1, 2\) and \(1, 1\)"):
        paired_bootstrap(some, some[:1])
    with pytest.raises(DataError, match="one entry an example, 2"):
        paired_bootstrap(some, some, users=np.array([1]))
    for metric in ("recall", "recall@0", "hits@5"):
        with pytest.raises(ConfigError, match="metric must be recall@K, ndcg@K or mrr"):
            paired_bootstrap(some, some, metric=metric)
    with pytest.raises(ConfigError, match="num_resamples must be >= 1"):
        paired_bootstrap(some, some, num_resamples=0)
    with pytest.raises(ConfigError, match=r"level in \(0, 1\), got 10000 and 95"):
        paired_bootstrap(some, some, level=95)
