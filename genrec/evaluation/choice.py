"""Choosing between ways of ranking on validation, without following luck.

Shape legend: E = examples.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from genrec.evaluation.bootstrap import example_gains

__all__ = ["choose"]


def choose(
    ranks: Sequence[npt.NDArray[np.integer[Any]]], metric: str, usual: int | None = None
) -> int:
    """Choose the best way of ranking, or the usual one where the best is hardly better.

    Among few users the best of some settings is often only the luckiest, and on other users worse
    than what is usual.

    Args:
        ranks: Where each way has each example's target, each of shape ``(E,)``, from 0; -1 where
            it is not found. The examples are the same, in the same order.
        metric: ``recall@K``, ``ndcg@K`` or ``mrr``.
        usual: Number of the way that is kept unless another is better by more than one standard
            error of the paired difference; None for none.

    Returns:
        Number of the chosen way; of equals the first.

    Source:
        The one-standard-error rule of Breiman, Friedman, Olshen and Stone 1984, Classification and
        Regression Trees, section 3.4.3. Differs: of the difference between two ways, example by
        example.

    Example:
        >>> a, b = np.array([0, 0, 5, 9]), np.array([0, 0, 9, 4])
        >>> choose([a, b], "recall@5"), choose([a, b], "recall@5", usual=0)
        (1, 0)
    """
    gains = [example_gains(of_way[None], metric) for of_way in ranks]
    best = int(np.argmax([gain.mean() for gain in gains]))
    if usual is None or best == usual:
        return best
    gained = gains[best] - gains[usual]
    error = gained.std(ddof=1) / np.sqrt(len(gained)) if len(gained) > 1 else np.inf
    return best if gained.mean() > error else usual
