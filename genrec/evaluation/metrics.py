"""Ranking metrics as pure functions of the ranks at which targets were found.

Shape legend: B = users, R = results, N = items. A rank counts from 0; -1 means not found.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from genrec.errors import DataError

__all__ = [
    "coverage",
    "hit_ranks",
    "ndcg_at_k",
    "ranking_metrics",
    "recall_at_k",
    "reciprocal_rank",
]


def hit_ranks(results: Tensor, targets: Tensor) -> Tensor:
    """Find where each target stands among the results.

    Args:
        results: Items, best first, shape ``(B, R)``, int64; -1 for none.
        targets: Shape ``(B,)``, int64, >= 0.

    Returns:
        Rank of the first match, shape ``(B,)``, int64; -1 where there is none.
    """
    match = results == targets.unsqueeze(1)
    return torch.where(match.any(dim=1), match.int().argmax(dim=1), -1)


def recall_at_k(ranks: Tensor, k: int) -> float:
    """Compute the share of users whose one target is among the first ``k`` results.

    Args:
        ranks: Shape ``(B,)``, int64.
        k: Length of the list, >= 1.

    Returns:
        Recall in ``[0, 1]``; with one target a user it equals the hit rate.
    """
    return float(((ranks >= 0) & (ranks < k)).double().mean())


def ndcg_at_k(ranks: Tensor, k: int) -> float:
    """Compute the normalised discounted cumulative gain of the first ``k`` results.

    Args:
        ranks: Shape ``(B,)``, int64.
        k: Length of the list, >= 1.

    Returns:
        Mean of ``1 / log2(rank + 2)`` over users, 0 where not found; the ideal is 1.
    """
    gain = 1.0 / torch.log2(ranks.clamp(min=0).double() + 2.0)
    return float(torch.where((ranks >= 0) & (ranks < k), gain, 0.0).mean())


def reciprocal_rank(ranks: Tensor) -> float:
    """Compute the mean reciprocal rank over the results that were asked for.

    Args:
        ranks: Shape ``(B,)``, int64.

    Returns:
        Mean of ``1 / (rank + 1)``, 0 where not found.
    """
    return float(torch.where(ranks >= 0, 1.0 / (ranks.double() + 1.0), 0.0).mean())


def coverage(shown: Tensor) -> float:
    """Compute the share of the catalogue that anybody was shown.

    Args:
        shown: Which items were among the results, shape ``(N,)``, bool.

    Returns:
        A share in ``[0, 1]``.
    """
    return float(shown.double().mean())


def ranking_metrics(ranks: Tensor, ks: Sequence[int]) -> dict[str, float]:
    """Compute recall and NDCG at several lengths, and the mean reciprocal rank.

    Args:
        ranks: Shape ``(B,)``, int64, B >= 1.
        ks: Lengths.

    Returns:
        ``recall@K`` and ``ndcg@K`` for each length, and ``mrr``.

    Raises:
        DataError: If there is no user.
    """
    if len(ranks) == 0:
        raise DataError(
            "metrics need at least one user, got none; the split has no user with a history and "
            "a target"
        )
    metrics = {f"recall@{k}": recall_at_k(ranks, k) for k in ks}
    metrics |= {f"ndcg@{k}": ndcg_at_k(ranks, k) for k in ks}
    return metrics | {"mrr": reciprocal_rank(ranks)}
