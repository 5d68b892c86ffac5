"""Seeded k-means on tensors, plain and with clusters of equal size.

Shape legend: N = samples, K = clusters, D = features, C = seeding candidates.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from genrec.modules.kernels.nearest import nearest

__all__ = ["KMeansResult", "balanced_assign", "kmeans", "nearest_centroid"]

# Entries of one (chunk, K) distance block: 16 MiB in float32.
_BLOCK_ENTRIES = 4 * 1024 * 1024
# k-means++ looks at this many samples per cluster at most; more does not better the seeds.
_SEED_SAMPLES_PER_CLUSTER = 64
_MIN_SEED_SAMPLES = 8192
# Sinkhorn temperatures, as shares of the mean cost above the cheapest cluster.
_TEMPERATURES = (0.3, 0.1, 0.03)
# Spread of the copies that fill up clusters when there are too few distinct samples.
_JITTER = 1e-3


@dataclass(frozen=True)
class KMeansResult:
    """Clusters found by :func:`kmeans`.

    Attributes:
        centroids: Cluster centres, shape ``(K, D)``.
        assignments: Cluster of each sample, shape ``(N,)``, int64.
        inertia: Sum over samples of the squared distance to their centroid.
        num_iters: Lloyd iterations that ran.
    """

    centroids: Tensor
    assignments: Tensor
    inertia: float
    num_iters: int


@torch.no_grad()
def kmeans(
    x: Tensor,
    num_clusters: int,
    *,
    num_iters: int = 50,
    seed: int = 0,
    tol: float = 1e-5,
    balanced: bool = False,
) -> KMeansResult:
    """Cluster samples with Lloyd's algorithm from greedy k-means++ seeds.

    The result depends on the samples, the arguments and the kind of device only: random
    numbers are drawn on the CPU, and sums are taken in a fixed order. A cluster that loses
    all its samples is moved onto the sample that is served worst. With fewer distinct
    samples than clusters, the clusters left over are near copies of samples.

    Args:
        x: Samples, shape ``(N, D)``, floating point and finite, N >= 1. Half precision is
            clustered in float32.
        num_clusters: K, >= 1; may exceed N.
        num_iters: Most Lloyd iterations, >= 1.
        seed: Seed of the k-means++ draws.
        tol: Stop once an iteration lowers the inertia by less than this share.
        balanced: Let no cluster hold more than ``ceil(N / K)`` samples.

    Returns:
        Centroids in the dtype of ``x`` (float32 for half precision) and the clusters.

    Raises:
        ValueError: If a shape or argument is out of range or ``x`` is not finite.

    Source:
        Arthur and Vassilvitskii 2007, k-means++, with the greedy candidates of
        scikit-learn. Differs: seeds are searched in a bounded random share of the samples.

    Example:
        >>> x = torch.tensor([[0.0], [1.0], [5.0], [6.0]])
        >>> kmeans(x, 2).centroids.sort(dim=0).values.flatten().tolist()
        [0.5, 5.5]
    """
    if x.ndim != 2 or x.shape[0] == 0:
        raise ValueError(
            f"x must have shape (N, D) with N >= 1, got {tuple(x.shape)}; pass at least one sample"
        )
    if not x.is_floating_point():
        raise ValueError(f"x must be floating point, got {x.dtype}; convert it with x.float()")
    if num_clusters < 1:
        raise ValueError(f"num_clusters must be >= 1, got {num_clusters}; ask for one at least")
    if num_iters < 1:
        raise ValueError(f"num_iters must be >= 1, got {num_iters}; allow one iteration at least")
    if not torch.isfinite(x).all():
        raise ValueError("x must be finite, got NaN or inf; clean the samples first")
    if x.dtype in (torch.float16, torch.bfloat16):
        x = x.float()

    generator = torch.Generator().manual_seed(seed)
    # Distances come from ||c||^2 - 2 x.c, which cancels badly far from the origin.
    mean = x.mean(dim=0)  # (D,)
    x = x - mean
    sq_norm = float(x.square().sum(dtype=torch.float64))
    centroids = _seed_centroids(x, num_clusters, generator)  # (K, D)
    inertia = math.inf
    num_done = 0
    for _ in range(num_iters):
        num_done += 1
        assignments, distances = _assign(x, centroids, balanced)
        previous, inertia = inertia, float(distances.sum(dtype=torch.float64))
        centroids, num_reseeded = _update(x, centroids, assignments, distances)
        # Rounding alone moves inertia by about 1e-7 of the total energy.
        if num_reseeded == 0 and previous - inertia <= tol * inertia + 1e-7 * sq_norm:
            break
    assignments, distances = _assign(x, centroids, balanced)
    return KMeansResult(
        centroids=centroids + mean,
        assignments=assignments,
        inertia=float(distances.sum(dtype=torch.float64)),
        num_iters=num_done,
    )


def nearest_centroid(x: Tensor, centroids: Tensor) -> Tensor:
    """Pick the nearest of ``(K, D)`` for each of ``(N, D)``: ``(N,)``; the lowest id wins a tie."""
    sq_norms = centroids.square().sum(dim=1)  # (K,)
    chunk = max(1, _BLOCK_ENTRIES // len(centroids))
    parts = [nearest(torch.addmm(sq_norms, part, centroids.T, alpha=-2)) for part in x.split(chunk)]
    return torch.cat(parts) if parts else x.new_zeros(0, dtype=torch.int64)


def balanced_assign(cost: Tensor, *, num_sweeps: int = 3) -> Tensor:
    """Assign samples to clusters so that none holds more than ``ceil(N / K)``.

    Sinkhorn sweeps with a falling temperature find a price for each crowded cluster at which
    choosing the cheapest is nearly balanced already; the few samples above the capacity then go
    to the next cheapest cluster that has room, those that lose least by it.

    Args:
        cost: Cost of each sample in each cluster, shape ``(N, K)``, finite.
        num_sweeps: Sinkhorn sweeps at each temperature; more come nearer to the least total
            cost.

    Returns:
        Clusters, shape ``(N,)``, int64.
    """
    num_samples, num_clusters = cost.shape
    capacity = math.ceil(num_samples / num_clusters)
    prices = cost.new_zeros(num_clusters)
    spread = float((cost - cost.amin(dim=1, keepdim=True)).mean())
    for share in _TEMPERATURES if spread > 0 else ():
        temperature = share * spread
        for _ in range(num_sweeps):
            log_share = ((cost + prices) / -temperature).log_softmax(dim=1)  # (N, K)
            log_load = log_share.logsumexp(dim=0)  # (K,)
            prices = (prices + temperature * (log_load - math.log(capacity))).clamp(min=0)
    priced = cost + prices  # (N, K)

    assignments = torch.full((num_samples,), -1, dtype=torch.int64, device=cost.device)
    room = torch.full((num_clusters,), capacity, dtype=torch.int64, device=cost.device)
    pending = torch.arange(num_samples, device=cost.device)
    while len(pending) > 0:  # each round fills a cluster or ends: at most K rounds
        open_cost = priced[pending].masked_fill(room == 0, math.inf)  # (P, K)
        best = open_cost.topk(min(2, num_clusters), dim=1, largest=False)
        choice = best.indices[:, 0]  # (P,)
        regret = best.values[:, -1] - best.values[:, 0]  # (P,) cost of being sent away
        order = regret.argsort(descending=True, stable=True)
        order = order[choice[order].argsort(stable=True)]  # by cluster, then by regret
        sizes = choice.bincount(minlength=num_clusters)  # (K,)
        starts = sizes.cumsum(0) - sizes
        rank = torch.arange(len(order), device=cost.device) - starts[choice[order]]
        accepted = order[rank < room[choice[order]]]
        assignments[pending[accepted]] = choice[accepted]
        room -= choice[accepted].bincount(minlength=num_clusters)
        pending = pending[assignments[pending] < 0]
    return assignments


def _assign(x: Tensor, centroids: Tensor, balanced: bool) -> tuple[Tensor, Tensor]:
    """Give each sample its cluster and the squared distance to it."""
    if balanced:
        sq_norms = centroids.square().sum(dim=1)  # (K,)
        assignments = balanced_assign(torch.addmm(sq_norms, x, centroids.T, alpha=-2))
    else:
        assignments = nearest_centroid(x, centroids)  # (N,)
    chunk = max(1, _BLOCK_ENTRIES // x.shape[1])
    distances = torch.cat(
        [
            (part - centroids[ids]).square().sum(dim=1)
            for part, ids in zip(x.split(chunk), assignments.split(chunk), strict=True)
        ]
    )  # (N,)
    return assignments, distances


def _update(
    x: Tensor, centroids: Tensor, assignments: Tensor, distances: Tensor
) -> tuple[Tensor, int]:
    """Move centroids to the mean of their samples; re-seed the empty ones."""
    num_clusters = len(centroids)
    counts = assignments.bincount(minlength=num_clusters)  # (K,)
    sums = torch.zeros_like(centroids)  # (K, D)
    if x.device.type == "cpu":
        sums.index_add_(0, assignments, x)
    else:  # index_add_ uses atomics there: another order of sums on every run
        chunk = max(1, _BLOCK_ENTRIES // num_clusters)
        for part, ids in zip(x.split(chunk), assignments.split(chunk), strict=True):
            sums += torch.nn.functional.one_hot(ids, num_clusters).to(x.dtype).T @ part
    filled = counts > 0
    updated = torch.where(
        filled[:, None], sums / counts.clamp(min=1)[:, None].to(x.dtype), centroids
    )
    empty = torch.nonzero(~filled).flatten()
    if len(empty) == 0:
        return updated, 0
    worst = distances.argsort(descending=True, stable=True)[: len(empty)]
    worst = worst[distances[worst] > 0]  # on a sample served exactly nothing is gained
    updated[empty[: len(worst)]] = x[worst]
    return updated, len(worst)


def _seed_centroids(x: Tensor, num_clusters: int, generator: torch.Generator) -> Tensor:
    """Draw ``(K, D)`` seeds by greedy k-means++ from a bounded share of the samples."""
    limit = max(_MIN_SEED_SAMPLES, _SEED_SAMPLES_PER_CLUSTER * num_clusters)
    if len(x) > limit:
        keep = torch.randperm(len(x), generator=generator)[:limit].sort().values
        x = x[keep.to(x.device)]
    num_candidates = 2 + int(math.log(num_clusters))
    # All draws up front and on the CPU: the same on every device, and no wait per cluster.
    draws = torch.rand(num_clusters, num_candidates, generator=generator, dtype=torch.float64)
    noise = torch.randn(num_clusters, x.shape[1], generator=generator, dtype=torch.float64)
    draws, noise = draws.to(x.device), noise.to(x)

    sq_norms = x.square().sum(dim=1)  # (N,)
    seeds = torch.empty(num_clusters, x.shape[1], dtype=x.dtype, device=x.device)
    first = (draws[0, 0] * len(x)).long().clamp(max=len(x) - 1)
    seeds[0] = x[first]
    closest = (x - seeds[0]).square().sum(dim=1)  # (N,) squared distance to the nearest seed
    closest[first] = 0
    for k in range(1, num_clusters):
        cumulative = closest.cumsum(0, dtype=torch.float64)  # (N,)
        picks = torch.searchsorted(cumulative, draws[k] * cumulative[-1], right=True)
        picks = picks.clamp(max=len(x) - 1)  # (C,)
        to_picks = sq_norms[picks, None] + sq_norms - 2 * x[picks] @ x.T  # (C, N)
        reduced = torch.minimum(closest, to_picks.clamp(min=0))
        best = reduced.sum(dim=1).argmin()
        seeds[k] = x[picks[best]]
        closest = reduced[best]
        closest[picks[best]] = 0
    # A seed drawn twice (fewer distinct samples than clusters) is told apart by a jitter.
    scale = _JITTER * x.square().mean().sqrt().clamp(min=1e-6)
    _, inverse = torch.unique(seeds, dim=0, return_inverse=True)
    order = inverse.argsort(stable=True)
    is_copy = torch.zeros(num_clusters, dtype=torch.bool, device=x.device)
    is_copy[order[1:]] = inverse[order[1:]] == inverse[order[:-1]]
    return torch.where(is_copy[:, None], seeds + scale * noise, seeds)
