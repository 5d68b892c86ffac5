"""K-means against scikit-learn and exact assignment; small and degenerate inputs."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment
from sklearn.cluster import KMeans

from genrec.modules import kmeans as module
from genrec.modules.kmeans import balanced_assign, kmeans, nearest_centroid


def blobs(num_samples: int, num_blobs: int, dim: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    centres = 5 * torch.randn(num_blobs, dim, generator=generator)
    which = torch.randint(0, num_blobs, (num_samples,), generator=generator)
    return centres[which] + torch.randn(num_samples, dim, generator=generator)


def test_two_pairs_of_points():
    result = kmeans(torch.tensor([[0.0], [0.2], [5.0], [5.2]]), 2)
    assert torch.allclose(result.centroids.sort(dim=0).values.flatten(), torch.tensor([0.1, 5.1]))
    assert result.assignments[0] == result.assignments[1] != result.assignments[2]
    assert result.inertia == pytest.approx(0.04, rel=1e-4)


@pytest.mark.parametrize("balanced", [False, True])
def test_result_is_consistent_with_itself(balanced):
    x = blobs(500, 12, 6)
    result = kmeans(x, 12, balanced=balanced)
    expected = (x.double() - result.centroids.double()[result.assignments]).square().sum()
    assert result.inertia == pytest.approx(float(expected), rel=1e-4)
    assert result.assignments.dtype == torch.int64
    assert 1 <= result.num_iters <= 50
    if not balanced:
        assert torch.equal(result.assignments, torch.cdist(x, result.centroids).argmin(dim=1))


@pytest.mark.parametrize("num_clusters", [5, 20, 60])
def test_is_as_good_as_scikit_learn(num_clusters):
    x = blobs(1500, 40, 8, seed=num_clusters)
    ours = np.mean([kmeans(x, num_clusters, seed=seed).inertia for seed in range(8)])
    theirs = np.mean(
        [
            KMeans(num_clusters, n_init=1, random_state=seed).fit(x.numpy()).inertia_
            for seed in range(8)
        ]
    )
    assert ours <= 1.03 * theirs


def test_one_iteration_is_worse_than_many():
    x = torch.rand(2000, 4, generator=torch.Generator().manual_seed(1))
    assert kmeans(x, 50, num_iters=30).inertia < kmeans(x, 50, num_iters=1).inertia


def test_same_seed_same_clusters_other_seed_others():
    x = blobs(400, 30, 5)
    first, again, other = kmeans(x, 20, seed=3), kmeans(x, 20, seed=3), kmeans(x, 20, seed=4)
    assert torch.equal(first.centroids, again.centroids)
    assert torch.equal(first.assignments, again.assignments)
    assert not torch.equal(first.centroids, other.centroids)


def test_global_random_state_is_neither_read_nor_changed():
    x = blobs(200, 10, 3)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first = kmeans(x, 8)
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(99)
    assert torch.equal(first.centroids, kmeans(x, 8).centroids)


def test_far_from_the_origin_clusters_are_the_same():
    x = blobs(300, 10, 4)
    near, far = kmeans(x, 10), kmeans(x + 2000, 10)
    assert torch.equal(near.assignments, far.assignments)


def test_more_clusters_than_samples_gives_distinct_centroids():
    x = blobs(10, 4, 3)
    result = kmeans(x, 16)
    assert result.centroids.shape == (16, 3)
    assert len(result.centroids.unique(dim=0)) == 16
    assert result.inertia == pytest.approx(0, abs=1e-8)
    assert len(result.assignments.unique()) == 10


@pytest.mark.parametrize("balanced", [False, True])
@pytest.mark.parametrize(("num_samples", "num_clusters"), [(1, 1), (1, 5), (7, 1), (7, 3)])
def test_equal_samples(num_samples, num_clusters, balanced):
    x = torch.full((num_samples, 2), 3.0)
    result = kmeans(x, num_clusters, balanced=balanced)
    assert torch.isfinite(result.centroids).all()
    assert torch.allclose(result.centroids, torch.full((num_clusters, 2), 3.0), atol=1e-3)


def test_duplicates_do_not_leave_clusters_empty():
    # Nine tenths are one point: seeds drawn there twice must move to the other samples.
    x = torch.cat([torch.zeros(180, 3), blobs(20, 20, 3)])
    result = kmeans(x, 12)
    assert len(result.assignments.unique()) == 12


def test_empty_cluster_moves_to_the_worst_served_sample():
    x = torch.tensor([[0.0], [1.0], [9.0]])
    centroids = torch.tensor([[0.5], [100.0]])
    distances = (x - 0.5).square().flatten()
    moved, num_reseeded = module._update(x, centroids, torch.zeros(3, dtype=torch.long), distances)
    assert num_reseeded == 1
    assert moved.flatten().tolist() == pytest.approx([10 / 3, 9.0])


def test_half_precision_is_clustered_in_float32():
    x = blobs(100, 5, 4).half()
    result = kmeans(x, 5)
    assert result.centroids.dtype == torch.float32
    assert torch.equal(result.assignments, kmeans(x.float(), 5).assignments)
    assert kmeans(x.double(), 5).centroids.dtype == torch.float64


def test_nearest_centroid_matches_float64_and_prefers_the_lowest_id():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1000, 16, generator=generator)
    centroids = torch.randn(37, 16, generator=generator)
    expected = torch.cdist(x.double(), centroids.double()).argmin(dim=1)
    assert torch.equal(nearest_centroid(x, centroids), expected)
    tied = torch.cat([centroids, centroids])
    assert torch.equal(nearest_centroid(x, tied), expected)
    assert nearest_centroid(x[:0], centroids).shape == (0,)


def test_nearest_centroid_in_chunks(monkeypatch):
    x, centroids = blobs(100, 9, 4), blobs(7, 7, 4, seed=1)
    whole = nearest_centroid(x, centroids)
    monkeypatch.setattr(module, "_BLOCK_ENTRIES", 70)
    assert torch.equal(nearest_centroid(x, centroids), whole)


@pytest.mark.parametrize(("num_samples", "num_clusters"), [(120, 10), (125, 10), (9, 20), (64, 1)])
def test_balanced_assignment_keeps_the_cap_at_near_least_cost(num_samples, num_clusters):
    generator = torch.Generator().manual_seed(num_samples)
    x = torch.randn(num_samples, 3, generator=generator)
    centroids = 0.3 * torch.randn(num_clusters, 3, generator=generator)
    cost = torch.cdist(x, centroids).square()
    capacity = math.ceil(num_samples / num_clusters)
    assignments = balanced_assign(cost, num_sweeps=20)
    assert assignments.bincount().max() <= capacity
    slots = cost.repeat_interleave(capacity, dim=1).double().numpy()
    least = slots[linear_sum_assignment(slots)].sum()
    ours = float(cost[torch.arange(num_samples), assignments].sum())
    assert ours <= 1.05 * least


def test_balanced_clusters_of_skewed_data():
    x = torch.cat(
        [0.1 * torch.randn(270, 4, generator=torch.Generator().manual_seed(0)), blobs(30, 15, 4)]
    )
    plain, balanced = kmeans(x, 16), kmeans(x, 16, balanced=True)
    assert plain.assignments.bincount().max() > 100
    assert balanced.assignments.bincount(minlength=16).max() <= 19


@pytest.mark.parametrize(
    ("x", "options", "match"),
    [
        (torch.zeros(3), {}, r"x must have shape \(N, D\).*got \(3,\)"),
        (torch.zeros(0, 3), {}, r"N >= 1, got \(0, 3\)"),
        (torch.zeros(3, 2, dtype=torch.long), {}, "floating point, got torch.int64"),
        (torch.tensor([[math.nan]]), {}, "finite, got NaN or inf"),
        (torch.zeros(3, 2), {"num_clusters": 0}, "num_clusters must be >= 1, got 0"),
        (torch.zeros(3, 2), {"num_iters": 0}, "num_iters must be >= 1, got 0"),
    ],
)
def test_errors(x, options, match):
    with pytest.raises(ValueError, match=match):
        kmeans(x, **{"num_clusters": 2, **options})
