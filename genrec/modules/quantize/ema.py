"""Exponential moving average codebooks.

Shape legend: K = codes in one codebook, D = width.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["ema_update"]


@torch.no_grad()
def ema_update(
    shares: Tensor,
    sums: Tensor,
    batch_counts: Tensor,
    batch_sums: Tensor,
    *,
    decay: float,
    epsilon: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Move codes towards the mean of the items that picked them.

    Args:
        shares: Running share of the items that each code has, shape ``(K,)``.
        sums: Running share-weighted sum of the items of each code, shape ``(K, D)``.
        batch_counts: Items of the batch that picked each code, shape ``(K,)``.
        batch_sums: Their sums, shape ``(K, D)``.
        decay: Weight of the past, in ``[0, 1)``.
        epsilon: Laplace smoothing: every code is counted as if it had this much more of a share,
            > 0, so that a code that nobody picks keeps a finite value.

    Returns:
        New ``(shares, sums, codebook)``.

    Source:
        van den Oord et al. 2017, appendix A.1, https://arxiv.org/abs/1711.00937; smoothing as in
        its public implementation. Differs: shares of the batch in place of counts, so that the
        average does not depend on the batch size.

    Example:
        >>> one, two = torch.tensor([1.0]), torch.tensor([[2.0]])
        >>> ema_update(one, two, torch.tensor([4.0]), torch.tensor([[12.0]]), decay=0.5,
        ...            epsilon=1e-5)[2].tolist()  # halfway from 2 to the items' mean 3
        [[2.5]]
    """
    total = batch_counts.sum().clamp_min(1)
    new_shares = decay * shares + (1 - decay) * batch_counts / total
    new_sums = decay * sums + (1 - decay) * batch_sums / total
    mass = new_shares.sum()
    smoothed = (new_shares + epsilon) / (mass + len(shares) * epsilon) * mass  # (K,)
    return new_shares, new_sums, new_sums / smoothed[:, None]
