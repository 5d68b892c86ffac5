"""Colliding items spread over the last level's codes by balanced assignment.

Shape legend: R = items that share an ID, G = groups of one size, g = items of a group,
L = code levels, E = latent width, K = codes of the last level.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from genrec.tokenizer.collisions import group_ids
from genrec.tokenizer.quantizer import ItemQuantizer, encode_rows

__all__ = ["spread_collisions"]

# Entries of one (G, g, K) transport problem: 64 MiB in float64.
_BLOCK_ENTRIES = 8 * 1024 * 1024
# A round that parts a smaller share of the colliding items is the last one.
_LEAST_GAIN = 0.01


def spread_collisions(
    quantizer: ItemQuantizer,
    embeddings: npt.NDArray[Any],
    ids: npt.NDArray[np.int32],
    *,
    max_rounds: int = 20,
    codes_per_item: int = 4,
    epsilon: float = 0.003,
    num_sweeps: int = 50,
    batch_size: int = 4096,
    device: torch.device | str | None = None,
) -> npt.NDArray[np.int32]:
    """Give items that share an ID new last codes, chosen together by Sinkhorn's method.

    Every round takes the groups of equal IDs and solves for each a transport problem between
    its items and the last level's codes near them, so that its items part. They may run into
    others there, hence the rounds; the table with the fewest items that share an ID wins.
    Items of equal embeddings cannot be told apart in this way and keep colliding: use
    ``reassign`` where every ID must be unique.

    Args:
        quantizer: The frozen quantiser.
        embeddings: Shape ``(N, D)``, in memory or memory-mapped.
        ids: Codes, shape ``(N, L)``; not changed.
        max_rounds: Most rounds.
        codes_per_item: A group of ``g`` items spreads over the ``g * codes_per_item`` last
            codes nearest to it. LC-Rec uses all, which parts no more items on Amazon Beauty
            and adds nine times the distortion.
        epsilon: Entropy weight, on distances scaled to [-1, 1]; > 0.
        num_sweeps: Row-then-column normalisations of each transport problem.
        batch_size: Items encoded at once.
        device: Where the quantiser lives.

    Returns:
        New codes, shape ``(N, L)``; all levels but the last are as before.

    Source:
        LC-Rec, https://arxiv.org/abs/2311.09049, section 3.2, and its published code.
        Differs: near codes only, log domain, groups of one size solved together, and the best
        round is kept.
    """
    sizes = tuple(int(size) for size in quantizer.codebook_sizes)
    best, best_sharing = ids, math.inf
    ids = ids.copy()
    for done in range(max_rounds + 1):
        groups = group_ids(ids, sizes)
        sharing = int(groups.sizes[groups.sizes > 1].sum())
        settled = sharing > (1 - _LEAST_GAIN) * best_sharing
        if sharing < best_sharing:
            best, best_sharing = ids.copy(), sharing
        if sharing == 0 or settled or done == max_rounds:
            break
        for group_size in np.unique(groups.sizes[groups.sizes > 1]):
            starts = groups.starts[groups.sizes == group_size]  # (G,)
            at_once = max(1, _BLOCK_ENTRIES // int(group_size * sizes[-1]))
            for begin in range(0, len(starts), at_once):
                part = starts[begin : begin + at_once]
                rows = groups.order[part[:, None] + np.arange(group_size)]  # (G, g)
                cost = _last_level_cost(quantizer, embeddings, rows, ids, batch_size, device)
                near = min(codes_per_item * int(group_size), sizes[-1])
                codes = cost.mean(dim=1).topk(near, largest=False, sorted=False).indices  # (G, k)
                near_cost = cost.gather(2, codes[:, None].expand(-1, int(group_size), -1))
                plan = _log_plan(near_cost, epsilon, num_sweeps)  # (G, g, k)
                ids[rows, -1] = codes.gather(1, plan.argmax(dim=2)).cpu().numpy()
    return best


@torch.no_grad()
def _last_level_cost(
    quantizer: ItemQuantizer,
    embeddings: npt.NDArray[Any],
    rows: npt.NDArray[np.int64],
    ids: npt.NDArray[np.int32],
    batch_size: int,
    device: torch.device | str | None,
) -> Tensor:
    """Squared distance of the last residual of items ``(G, g)`` to the last codes, float64."""
    *earlier, last = quantizer.get_codebook()
    flat = rows.ravel()
    codes = torch.from_numpy(ids[flat]).long().to(last.device)  # (R, L)
    parts = []
    for start, z in encode_rows(quantizer, embeddings, flat, batch_size=batch_size, device=device):
        residual = z.to(last.dtype)
        for level, codebook in enumerate(earlier):
            residual = residual - codebook[codes[start : start + len(z), level]]
        distance = residual.square().sum(dim=1, keepdim=True) - 2 * residual @ last.T
        parts.append((distance + last.square().sum(dim=1)).double())
    return torch.cat(parts).reshape(*rows.shape, len(last))


def _log_plan(cost: Tensor, epsilon: float, num_sweeps: int) -> Tensor:
    """Solve a batch of transport problems ``(G, g, K)``; returns log plans up to a constant."""
    low, high = cost.amin(dim=(1, 2), keepdim=True), cost.amax(dim=(1, 2), keepdim=True)
    centred = (cost - (low + high) / 2) / ((high - low) / 2 + 1e-5)  # in [-1, 1]
    plan = -centred / epsilon
    for _ in range(num_sweeps):
        plan = plan - plan.logsumexp(dim=1, keepdim=True)  # every code gets the same share
        plan = plan - plan.logsumexp(dim=2, keepdim=True)  # every item is placed whole
    return plan
