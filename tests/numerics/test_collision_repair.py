"""Collision repair against exact solutions and naive references, and on real items."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from genrec.tokenizer import reassign as module
from genrec.tokenizer.collisions import (
    append_dedup_digit,
    collision_statistics,
    group_ids,
    pack_ids,
    unpack_ids,
)
from genrec.tokenizer.quantizer import encode_ids
from genrec.tokenizer.reassign import reassign
from genrec.tokenizer.residual_kmeans import ResidualKMeans
from genrec.tokenizer.semantic_id import SemanticIdTokenizer
from genrec.tokenizer.sinkhorn_repair import _log_plan


def make(num_items: int, sizes: tuple[int, ...], dim: int = 4, seed: int = 0):
    """A quantiser with random codes that shrink by level, and items in clumps."""
    rng = np.random.default_rng(seed)
    model = ResidualKMeans(dim, codebook_sizes=sizes)
    for level, size in enumerate(sizes):
        codes = rng.normal(size=(size, dim)) / 2.0**level
        setattr(model, f"codebook_{level}", torch.from_numpy(codes.astype(np.float32)))
    clumps = rng.normal(size=(max(1, num_items // 6), dim))
    items = clumps[rng.integers(len(clumps), size=num_items)]
    items = items + 0.1 * rng.normal(size=items.shape)
    return model, items.astype(np.float32)


def all_costs(model: ResidualKMeans, items: np.ndarray) -> np.ndarray:
    """Squared distance of every item to every tuple, float64, tuples in packed order."""
    sums = [
        sum(rows)
        for rows in itertools.product(*(book.double().numpy() for book in model.get_codebook()))
    ]
    return ((items[:, None].astype(np.float64) - np.array(sums)[None]) ** 2).sum(axis=2)


def place(model, items):
    """Reassign all items that share codes; returns all IDs, packed, before and after."""
    sizes = model.codebook_sizes
    codes = encode_ids(model, items)
    before = pack_ids(codes, sizes)
    _, inverse, counts = np.unique(before, return_inverse=True, return_counts=True)
    shared = counts[inverse] > 1
    rows = np.flatnonzero(shared)
    placed = reassign(model, items, rows, codes[rows], taken=np.sort(before[~shared]))
    after = before.copy()
    after[rows] = pack_ids(placed.ids, sizes)
    return before, after, placed, rows


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(
    ("num_items", "sizes", "slack"),
    [
        (40, (6, 5, 4), 1e-4),
        (100, (6, 5, 4), 1e-4),
        (60, (8, 8), 1e-4),
        (64, (8, 8), 1e-4),
        (30, (64,), 1e-4),
        (400, (8, 8, 8), 1e-4),  # every search above sees every tuple
        (300, (12, 12, 12), 0.1),  # the narrow searches
        (900, (16, 16, 16), 0.1),  # the wide one
    ],
)
def test_reassign_costs_little_more_than_the_exact_optimum(num_items, sizes, slack, seed):
    model, items = make(num_items, sizes, seed=seed)
    before, after, placed, rows = place(model, items)
    cost = all_costs(model, items)
    each = np.arange(num_items)
    added = cost[each, after].sum() - cost[each, before].sum()
    assert placed.added_distortion == pytest.approx(added, rel=1e-3, abs=1e-4)
    assert placed.num_moved == (after != before).sum()

    stay = np.setdiff1d(each, rows)
    allowed = np.setdiff1d(np.arange(math.prod(sizes)), before[stay])
    small = cost[np.ix_(rows, allowed)]
    least = small[linear_sum_assignment(small)].sum() - cost[rows, before[rows]].sum()
    assert added >= least - 1e-4 * abs(least)
    assert added <= least + slack * abs(least)


@settings(max_examples=40, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 6), min_size=1, max_size=4),
    share=st.floats(0.05, 1.0),
    equal=st.booleans(),
    seed=st.integers(0, 10_000),
)
def test_reassign_is_always_unique(sizes, share, equal, seed):
    """Also when every tuple is needed, and when all items are equal."""
    num_items = max(1, int(share * math.prod(sizes)))
    model, items = make(num_items, tuple(sizes), seed=seed)
    if equal:
        items[:] = items[0]
    _, after, placed, _ = place(model, items)
    assert len(np.unique(after)) == num_items
    assert after.min() >= 0
    assert after.max() < math.prod(sizes)
    assert placed.ids.dtype == np.int32


@pytest.mark.parametrize("searches", [(), ((1, 2),)])
def test_what_the_search_leaves_is_placed_by_room(searches, monkeypatch):
    """The walk down the tree alone is unique, in several blocks too, to the last tuple."""
    monkeypatch.setattr(module, "_SEARCHES", searches)
    monkeypatch.setattr(module, "_CROWDED_SEARCHES", searches)
    monkeypatch.setattr(module, "_BLOCK_ITEMS", 17)
    for num_items in (20, 60, 120):
        model, items = make(num_items, (6, 5, 4))
        before, after, placed, _ = place(model, items)
        assert len(np.unique(after)) == num_items
        cost = all_costs(model, items)
        each = np.arange(num_items)
        added = cost[each, after].sum() - cost[each, before].sum()
        assert placed.added_distortion == pytest.approx(added, rel=1e-3)


def test_small_blocks_cost_little(monkeypatch):
    model, items = make(150, (8, 8, 8), seed=2)
    _, _, whole, _ = place(model, items)
    monkeypatch.setattr(module, "_BLOCK_ITEMS", 16)
    _, after, blocks, _ = place(model, items)
    assert len(np.unique(after)) == 150
    assert blocks.added_distortion <= 1.2 * whole.added_distortion


def test_reassign_does_not_depend_on_the_order_of_its_arguments():
    model, items = make(80, (6, 5, 4), seed=1)
    codes = encode_ids(model, items)
    rows = np.arange(80)
    taken = np.zeros(0, dtype=np.int64)
    first = reassign(model, items, rows, codes, taken=taken)
    order = np.random.default_rng(0).permutation(80)
    other = reassign(model, items, rows[order], codes[order], taken=taken)
    assert np.array_equal(other.ids, first.ids[order])


@settings(max_examples=50, deadline=None)
@given(sizes=st.lists(st.integers(1, 40_000), min_size=1, max_size=4), seed=st.integers(0, 10_000))
def test_packing_sorts_like_rows_and_unpacks(sizes, seed):
    rng = np.random.default_rng(seed)
    ids = np.stack([rng.integers(0, size, 50) for size in sizes], axis=1).astype(np.int32)
    keys = pack_ids(ids, sizes)
    assert np.array_equal(unpack_ids(keys, sizes), ids)
    rows = sorted(range(50), key=lambda row: (ids[row].tolist(), row))
    assert np.argsort(keys, kind="stable").tolist() == rows


def test_packing_refuses_sizes_that_overflow():
    with pytest.raises(ValueError, match=r"below 2\^63, got \(65536, 65536, 65536, 65536\)"):
        pack_ids(np.zeros((1, 4), dtype=np.int32), (65536,) * 4)


@settings(max_examples=30, deadline=None)
@given(num_items=st.integers(1, 60), seed=st.integers(0, 10_000))
def test_groups_ranks_and_statistics_match_naive_counts(num_items, seed):
    ids = np.random.default_rng(seed).integers(0, 3, (num_items, 3)).astype(np.int32)
    rows = [tuple(row) for row in ids.tolist()]
    ranks = [rows[:i].count(row) for i, row in enumerate(rows)]
    assert group_ids(ids, (3, 3, 3)).ranks().tolist() == ranks
    with_digit, size = append_dedup_digit(ids, (3, 3, 3))
    assert with_digit[:, 3].tolist() == ranks
    assert size == max(ranks) + 1

    counted = collision_statistics(ids, (3, 3, 3))
    assert counted["distinct_ids"] == len(set(rows))
    assert counted["collision_rate"] == pytest.approx(1 - len(set(rows)) / num_items)
    assert counted["items_sharing_id"] == sum(rows.count(row) > 1 for row in rows)
    assert counted["largest_group"] == max(rows.count(row) for row in rows)
    for level in range(3):
        column = ids[:, level].tolist()
        shares = [column.count(code) / num_items for code in set(column)]
        assert counted["codes_used"][level] == len(shares)
        entropy = -sum(share * math.log2(share) for share in shares)
        assert counted["perplexity"][level] == pytest.approx(2**entropy, abs=1e-3)


@pytest.mark.parametrize("group_size", [1, 2, 5])
def test_transport_plan_matches_the_plain_algorithm(group_size):
    """The published code's form, in extended precision: exponentials, then divisions."""
    rng = np.random.default_rng(group_size)
    cost = rng.random((3, group_size, 8))
    plan = _log_plan(torch.from_numpy(cost), epsilon=0.05, num_sweeps=50).exp().numpy()
    for group in range(3):
        low, high = cost[group].min(), cost[group].max()
        centred = (cost[group] - (low + high) / 2) / ((high - low) / 2 + 1e-5)
        naive = np.exp(-centred.astype(np.longdouble) / 0.05)
        for _ in range(50):
            naive /= naive.sum(axis=0, keepdims=True)
            naive /= naive.sum(axis=1, keepdims=True)
        assert np.allclose(plan[group], naive.astype(np.float64), atol=1e-9)


@pytest.fixture(scope="module")
def beauty(shared_data):
    items = np.load(shared_data / "embeddings" / "beauty.minilm-l6-384.npy")
    model = ResidualKMeans.fit(items, codebook_sizes=(256, 256, 256), num_iters=8)
    return model, items


def r2(model: ResidualKMeans, items: np.ndarray, ids: np.ndarray) -> float:
    x = torch.from_numpy(items).double()
    codes = model.get_codebook_entry(torch.from_numpy(ids[:, :3]).long()).double()
    return 1 - float((x - codes).square().sum() / (x - x.mean(dim=0)).square().sum())


def test_real_items_repaired(beauty):
    model, items = beauty
    plain = SemanticIdTokenizer.build(model, items, policy="none")
    base = r2(model, items, plain.ids)
    assert base >= 0.63  # what scikit-learn's residual k-means reaches
    assert plain.statistics["items_sharing_id"] > 2000

    unique = SemanticIdTokenizer.build(model, items, policy="reassign")
    assert unique.statistics["left_items_sharing_id"] == 0
    assert len(np.unique(unique.ids, axis=0)) == len(items)
    lost = base - r2(model, items, unique.ids)
    assert 0 < lost <= 0.004
    assert unique.statistics["added_distortion"] == pytest.approx(lost, rel=0.01)

    spread = SemanticIdTokenizer.build(model, items, policy="sinkhorn")
    assert spread.statistics["left_items_sharing_id"] <= 100
    assert base - r2(model, items, spread.ids) <= 0.015
    digits = SemanticIdTokenizer.build(model, items, policy="dedup_token")
    assert digits.statistics["left_items_sharing_id"] == 0
    assert digits.level_sizes == (256, 256, 256, plain.statistics["largest_group"])


def test_real_items_get_the_same_ids_on_one_thread_and_two(beauty):
    model, items = beauty
    threads = torch.get_num_threads()
    try:
        tables = []
        for count in (1, 2):
            torch.set_num_threads(count)
            tables.append(SemanticIdTokenizer.build(model, items, policy="reassign").ids)
    finally:
        torch.set_num_threads(threads)
    assert np.array_equal(*tables)
