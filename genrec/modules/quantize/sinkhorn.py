"""Balanced code assignment by entropic optimal transport.

Shape legend: B = items in the batch, K = codes in one codebook.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["balanced_codes", "sinkhorn_assign"]


@torch.no_grad()
def sinkhorn_assign(cost: Tensor, *, epsilon: float = 0.05, num_iters: int = 50) -> Tensor:
    """Spread a batch of items evenly over the codes of one codebook.

    Plain nearest-code assignment lets a few codes win every item, which shows up as
    colliding semantic ids. This keeps items near their codes while giving every code
    the same share of the batch. Use it while training; ids for serving come from the
    nearest code plus the tokenizer's collision digit.

    Args:
        cost: Distance of each item to each code, shape ``(B, K)``, floating point,
            finite. Unit: squared L2 of the latent space.
        epsilon: Entropy weight, same unit as ``cost``, > 0. Smaller is closer to a hard
            assignment and needs more iterations.
        num_iters: Row-then-column normalisation sweeps, >= 1.

    Returns:
        Transport plan, shape ``(B, K)``, dtype and device of ``cost``. Probabilities that
        sum to 1: each column sums to ``1 / K``, each row approaches ``1 / B`` as
        ``num_iters`` grows. Carries no gradient.

    Raises:
        ValueError: If ``cost`` is not two-dimensional or has a non-finite entry,
            ``epsilon <= 0`` or ``num_iters < 1``.

    Source:
        Cuturi 2013, Sinkhorn Distances, https://arxiv.org/abs/1306.0895; used for item ids
        by LC-Rec, https://arxiv.org/abs/2311.09049. Differs: computed in the log domain,
        because ``exp(-cost / epsilon)`` is 0 in float32 once ``cost / epsilon`` reaches 104.

    Example:
        >>> cost = torch.tensor([[0.0, 1.0], [0.1, 1.0]])
        >>> cost.argmin(dim=1).tolist()  # nearest code: both items collide
        [0, 0]
        >>> sinkhorn_assign(cost).argmax(dim=1).tolist()  # balanced: one item each
        [0, 1]
    """
    if cost.ndim != 2:
        raise ValueError(
            f"cost must have shape (B, K), got {tuple(cost.shape)}; pass one row an item"
        )
    if epsilon <= 0:
        raise ValueError(f"epsilon must be > 0, got {epsilon}; try 0.05")
    if num_iters < 1:
        raise ValueError(f"num_iters must be >= 1, got {num_iters}; try 50")
    if not torch.isfinite(cost).all():
        raise ValueError(
            "cost must be finite, got NaN or inf; check the encoder output for NaN or inf"
        )
    return _log_plan(cost, epsilon, num_iters).exp()


@torch.no_grad()
def balanced_codes(cost: Tensor, *, epsilon: float, num_iters: int) -> Tensor:
    """Pick a code for each item so that the batch spreads over the codebook.

    The training step's way to :func:`sinkhorn_assign`: it never waits for the device, and the
    entropy weight is relative, so that it holds while the latent space grows or shrinks.

    Args:
        cost: Squared L2 distances, shape ``(B, K)``.
        epsilon: Entropy weight in units of the mean over items of (mean - least) cost.
        num_iters: Normalisation sweeps.

    Returns:
        Code of each item, shape ``(B,)``, int64. The nearest code when there are fewer items
        than codes, where a balanced share would be less than one item.
    """
    num_items, num_codes = cost.shape
    if num_items < num_codes:
        return cost.argmin(dim=1)
    cost = cost.double() if cost.dtype == torch.float64 else cost.float()
    least = cost.amin(dim=1, keepdim=True)  # (B, 1)
    spread = (cost.mean(dim=1, keepdim=True) - least).mean().clamp_min(1e-12)
    return _log_plan((cost - least) / spread, epsilon, num_iters).argmax(dim=1)


def _log_plan(cost: Tensor, epsilon: float, num_iters: int) -> Tensor:
    """Logarithm of the transport plan, ``(B, K)``, by alternating normalisation."""
    num_items, num_codes = cost.shape
    log_plan = -cost / epsilon  # (B, K)
    for _ in range(num_iters):
        log_plan = log_plan - log_plan.logsumexp(dim=1, keepdim=True) - math.log(num_items)
        log_plan = log_plan - log_plan.logsumexp(dim=0, keepdim=True) - math.log(num_codes)
    return log_plan
