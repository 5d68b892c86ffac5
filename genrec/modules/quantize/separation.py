"""Aims for items that share all their codes: the nearest last code that nobody has.

Shape legend: N = items, L = code levels, K = codes of the last level, D = latent width,
P = prefixes with a collision, M = items that have to move.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["separate_last_level"]


@torch.no_grad()
def separate_last_level(ids: Tensor, residual: Tensor, codes: Tensor) -> Tensor:
    """Find a free code of the last level for every item but one of each colliding group.

    The item that fits its code best keeps it. The others get the nearest codes that no item
    with the same first ``L - 1`` codes has, seen from their residuals moved apart; where two want
    one code, the nearer gets it.

    Args:
        ids: Codes of the items, shape ``(N, L)``, int64.
        residual: What the last level quantises, shape ``(N, D)``.
        codes: Codes of the last level, shape ``(K, D)``.

    Returns:
        Code to aim for, shape ``(N,)``, int64; -1 where an item keeps its own, or where all K
        codes of its prefix are taken.

    Example:
        >>> ids = torch.tensor([[0, 0], [0, 0], [1, 0]])
        >>> residual = torch.tensor([[0.1], [0.2], [0.2]])
        >>> separate_last_level(ids, residual, torch.tensor([[0.0], [1.0]])).tolist()
        [-1, 1, -1]
    """
    num_items, num_codes = len(ids), len(codes)
    aims = torch.full((num_items,), -1, dtype=torch.int64, device=ids.device)
    _, prefix = torch.unique(ids[:, :-1], dim=0, return_inverse=True)  # (N,)
    own = (residual - codes[ids[:, -1]]).square().sum(dim=1)  # (N,)
    loses = ~_first_of_group(prefix * num_codes + ids[:, -1], own)
    movers = loses.nonzero().flatten()  # (M,)
    if len(movers) == 0:
        return aims
    crowded, row = torch.unique(prefix[movers], return_inverse=True)  # (P,), (M,)
    place = torch.searchsorted(crowded, prefix).clamp(max=len(crowded) - 1)
    settled = (crowded[place] == prefix) & ~loses
    taken = torch.zeros(len(crowded), num_codes, dtype=torch.bool, device=ids.device)
    taken[place[settled], ids[settled, -1]] = True

    cost = torch.cdist(_spread_out(residual, codes, prefix)[movers], codes)  # (M, K)
    waiting = torch.arange(len(movers), device=ids.device)
    while len(waiting) > 0:  # every round settles at least one item of each prefix with room
        best, choice = cost[waiting].masked_fill(taken[row[waiting]], torch.inf).min(dim=1)
        has_room = best < torch.inf
        waiting, best, choice = waiting[has_room], best[has_room], choice[has_room]
        wins = _first_of_group(row[waiting] * num_codes + choice, best)
        aims[movers[waiting[wins]]] = choice[wins]
        taken[row[waiting[wins]], choice[wins]] = True
        waiting = waiting[~wins]
    return aims


def _spread_out(residual: Tensor, codes: Tensor, prefix: Tensor) -> Tensor:
    """Move the residuals of each prefix apart, until they lie as far apart as codes do.

    Items that share an id lie close together. Seen from afar, the codes around them lie in
    directions that have nothing to do with how the items differ, and such aims cannot be learnt.
    """
    num_prefixes = int(prefix.max()) + 1
    counts = torch.bincount(prefix, minlength=num_prefixes).to(residual.dtype)  # (P,)
    means = torch.zeros(
        num_prefixes, residual.shape[1], dtype=residual.dtype, device=residual.device
    )
    means = means.index_add_(0, prefix, residual) / counts[:, None]
    centred = residual - means[prefix]  # (N, D)
    spread = torch.zeros_like(counts).index_add_(0, prefix, centred.square().sum(dim=1)) / counts
    wanted = (codes - codes.mean(dim=0)).square().sum(dim=1).mean()
    factor = (wanted / spread.clamp_min(1e-12)).sqrt().clamp(1.0, 100.0)  # (P,)
    return means[prefix] + factor[prefix, None] * centred


def _first_of_group(group: Tensor, cost: Tensor) -> Tensor:
    """Mark the cheapest entry of each group, the first of equals, as a bool tensor."""
    order = cost.argsort(stable=True)
    order = order[group[order].argsort(stable=True)]
    is_first = torch.ones(len(group), dtype=torch.bool, device=group.device)
    is_first[1:] = group[order[1:]] != group[order[:-1]]
    return torch.zeros_like(is_first).index_put_((order,), is_first)
