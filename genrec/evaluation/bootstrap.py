"""Whether one model is better than another, or the users only happened to be: paired bootstrap.

Shape legend: S = seeds of a model, E = examples, U = users, V = distinct differences, R =
resamples.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from genrec.errors import ConfigError, DataError

__all__ = ["PairedDifference", "example_gains", "paired_bootstrap"]

#: Counts drawn at once: 32 MB.
_BLOCK = 1 << 22


@dataclass(frozen=True)
class PairedDifference:
    """By how much the first of two models is better, and how sure that is.

    Attributes:
        difference: Mean of the first minus mean of the second, in units of the metric.
        low: Lower end of the interval.
        high: Upper end of the interval.
        p_value: How often models that are equally good differ by at least as much, two-sided,
            in ``(0, 1]``; never below ``1 / (resamples + 1)``.
    """

    difference: float
    low: float
    high: float
    p_value: float


def paired_bootstrap(
    first_ranks: npt.NDArray[np.integer[Any]],
    second_ranks: npt.NDArray[np.integer[Any]],
    *,
    metric: str = "ndcg@10",
    users: npt.NDArray[np.integer[Any]] | None = None,
    num_resamples: int = 10_000,
    level: float = 0.95,
    seed: int = 0,
) -> PairedDifference:
    """Compare two models by resampling the users that both have answered.

    Users are drawn with replacement, each with the results of both models, so that what makes a
    user hard for both does not count as noise. A model trained with several seeds answers each
    user with their mean; how much the seeds differ is not part of the interval.

    Args:
        first_ranks: Where the first model has each example's target, shape ``(E,)`` or
            ``(S, E)``, from 0; -1 where it is not found.
        second_ranks: The same of the second model, in the same order of examples; its number
            of seeds may be another.
        metric: ``recall@K``, ``ndcg@K`` or ``mrr``, as tables call them.
        users: User of each example, shape ``(E,)``; None where each has a user of its own.
        num_resamples: ``R``, >= 1.
        level: Share of the resamples inside the interval, in ``(0, 1)``.
        seed: Seed of the draws.

    Returns:
        The difference with its percentile interval and p-value (the resamples' differences,
        moved so that their centre is 0, that are at least as large).

    Raises:
        ConfigError: If the metric is unknown or a setting out of range.
        DataError: If there is no example, or the arrays have different lengths.

    Source:
        Efron and Tibshirani 1993, An Introduction to the Bootstrap, chapters 13 and 16; for
        rankings Sakai 2006, https://doi.org/10.1145/1148170.1148261. Users of equal difference
        are drawn together, from one multinomial: the same distribution, with some hundred
        counts a resample in place of one index a user.

    Example:
        >>> better, worse = np.array([0, 1, 0, -1] * 50), np.array([3, 1, -1, -1] * 50)
        >>> result = paired_bootstrap(better, worse, metric="recall@1")
        >>> result.difference, result.low > 0, result.p_value < 0.01
        (0.5, True, True)
    """
    first, second = np.atleast_2d(first_ranks), np.atleast_2d(second_ranks)
    if first.shape[1:] != second.shape[1:] or first.size == 0 or second.size == 0:
        raise DataError(
            "both models need the rank of each example, at least one, got shapes "
            f"{first.shape} and {second.shape}; evaluate them on the same split"
        )
    if num_resamples < 1 or not 0 < level < 1:
        raise ConfigError(
            f"num_resamples must be >= 1 and level in (0, 1), got {num_resamples} and {level}; "
            "10000 and 0.95 are the usual values"
        )
    count = first.shape[1]
    of_user = np.arange(count) if users is None else np.unique(users, return_inverse=True)[1]
    if of_user.shape != (count,):
        raise DataError(
            f"users must have one entry an example, {count}, got shape {of_user.shape}; "
            "give the users of the same split"
        )
    gained = example_gains(first, metric) - example_gains(second, metric)  # (E,)
    sums = np.bincount(of_user, weights=gained).astype(np.float64)  # (U,)
    sizes = np.bincount(of_user)  # (U,)
    values, counts = np.unique(np.stack([sums, sizes]), axis=1, return_counts=True)  # (2, V)
    difference = float(sums.sum() / sizes.sum())
    resampled = _resample(values, counts, num_resamples, np.random.default_rng(seed))
    low, high = np.quantile(resampled, [(1 - level) / 2, (1 + level) / 2])
    # Sums of the same gains in another order may differ in the last digits.
    extreme = np.abs(resampled - difference) >= abs(difference) - 1e-12
    p_value = (1 + int(extreme.sum())) / (1 + num_resamples)
    return PairedDifference(difference, float(low), float(high), p_value)


def _resample(
    values: npt.NDArray[np.float64],
    counts: npt.NDArray[np.integer[Any]],
    num_resamples: int,
    rng: np.random.Generator,
) -> npt.NDArray[np.float64]:
    """Draw mean differences, shape ``(R,)``, from ``(2, V)`` sums and sizes and their counts."""
    num_users = int(counts.sum())
    rows = max(1, _BLOCK // len(counts))
    parts = []
    for begin in range(0, num_resamples, rows):
        size = min(rows, num_resamples - begin)
        drawn = rng.multinomial(num_users, counts / num_users, size=size)  # (rows, V)
        sums, sizes = (drawn @ values.T).T
        parts.append(sums / sizes)
    return np.concatenate(parts)


def example_gains(ranks: npt.NDArray[np.integer[Any]], metric: str) -> npt.NDArray[np.float64]:
    """Compute what each example adds to a metric's mean.

    Args:
        ranks: As in :func:`paired_bootstrap`, shape ``(S, E)``.
        metric: ``recall@K``, ``ndcg@K`` or ``mrr``.

    Returns:
        Shape ``(E,)``, the mean over seeds.

    Raises:
        ConfigError: If the metric is unknown.
    """
    name, k = _parse(metric)
    places = np.maximum(ranks, 0).astype(np.float64)
    if name == "mrr":
        gains = 1 / (places + 1)
    else:
        gains = 1 / np.log2(places + 2) if name == "ndcg" else np.ones_like(places)
    found = (ranks >= 0) & (ranks < k)
    return np.where(found, gains, 0.0).mean(axis=0)


def _parse(metric: str) -> tuple[str, float]:
    """Split a metric's name into its kind and the length of the list."""
    match = re.fullmatch(r"(recall|ndcg)@([1-9]\d*)|mrr", metric)
    if match is None:
        raise ConfigError(
            f"metric must be recall@K, ndcg@K or mrr, got {metric!r}; use for example ndcg@10"
        )
    return (match[1], int(match[2])) if match[1] else ("mrr", np.inf)
