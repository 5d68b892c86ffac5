"""What each policy promises about the IDs of old and new items."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from genrec.errors import ArtifactError, ConfigError
from genrec.tokenizer.residual_kmeans import ResidualKMeans
from genrec.tokenizer.semantic_id import POLICIES, SemanticIdTokenizer


def sharing(ids) -> int:
    _, inverse, counts = np.unique(ids, axis=0, return_inverse=True, return_counts=True)
    return int((counts[inverse.reshape(-1)] > 1).sum())


def distortion(quantizer, embeddings, ids) -> float:
    codes = quantizer.get_codebook_entry(torch.from_numpy(ids[:, :3]).long()).double().numpy()
    return float(((embeddings.astype(np.float64) - codes) ** 2).sum())


@pytest.fixture(scope="module")
def codes(quantizer, embeddings) -> np.ndarray:
    return quantizer.get_semantic_ids(torch.from_numpy(embeddings)).numpy()


@pytest.mark.parametrize("policy", POLICIES)
def test_statistics_are_true(quantizer, embeddings, codes, policy):
    table = SemanticIdTokenizer.build(quantizer, embeddings, policy=policy)
    found = table.statistics
    distinct = len(np.unique(codes, axis=0))
    assert found["num_items"] == 90
    assert found["distinct_ids"] == distinct
    assert found["collision_rate"] == pytest.approx(1 - distinct / 90)
    assert found["items_sharing_id"] == sharing(codes) > 10
    assert found["level_sizes"] == [6, 5, 4]
    assert found["codes_used"] == [len(np.unique(column)) for column in codes.T]
    assert found["left_items_sharing_id"] == sharing(table.ids)
    assert found["items_moved"] == (table.ids[:, :3] != codes).any(axis=1).sum()
    variance = ((embeddings - embeddings.mean(axis=0)) ** 2).sum()
    added = distortion(quantizer, embeddings, table.ids) - distortion(quantizer, embeddings, codes)
    assert found["added_distortion"] == pytest.approx(added / variance, rel=1e-3, abs=1e-7)


@pytest.mark.parametrize("policy", POLICIES)
def test_building_twice_gives_one_table(quantizer, embeddings, policy):
    first, again = (
        SemanticIdTokenizer.build(quantizer, embeddings, policy=policy) for _ in range(2)
    )
    assert first.fingerprint == again.fingerprint


def test_none_lets_items_share(quantizer, embeddings, codes):
    table = SemanticIdTokenizer.build(quantizer, embeddings, policy="none")
    assert np.array_equal(table.ids, codes)
    assert table.level_sizes == (6, 5, 4)


def test_dedup_token_numbers_groups_in_item_order(quantizer, embeddings, codes):
    table = SemanticIdTokenizer.build(quantizer, embeddings, policy="dedup_token")
    seen: dict[tuple, int] = {}
    for row, code in enumerate(map(tuple, codes.tolist())):
        assert table.ids[row].tolist() == [*code, seen.get(code, 0)]
        seen[code] = seen.get(code, 0) + 1
    assert table.level_sizes == (6, 5, 4, max(seen.values()))
    assert table.has_dedup_digit
    assert sharing(table.ids) == 0


def test_dedup_digit_is_kept_where_all_codes_are_unique():
    items = np.eye(4, dtype=np.float32)
    model = ResidualKMeans.fit(items, codebook_sizes=(4,))
    table = SemanticIdTokenizer.build(model, items)
    assert table.level_sizes == (4, 1)
    assert table.ids[:, 1].tolist() == [0, 0, 0, 0]


def test_reassign_gives_every_item_its_own_tuple(quantizer, embeddings, codes):
    table = SemanticIdTokenizer.build(quantizer, embeddings, policy="reassign")
    assert table.level_sizes == (6, 5, 4)
    assert sharing(table.ids) == 0
    _, inverse, counts = np.unique(codes, axis=0, return_inverse=True, return_counts=True)
    unique = counts[inverse.reshape(-1)] == 1
    assert np.array_equal(table.ids[unique], codes[unique])  # who shares nothing stays


def test_sinkhorn_moves_last_codes_of_colliding_items_only(quantizer, embeddings, codes):
    table = SemanticIdTokenizer.build(quantizer, embeddings, policy="sinkhorn")
    assert np.array_equal(table.ids[:, :2], codes[:, :2])
    assert sharing(table.ids) < sharing(codes)
    # Equal embeddings cannot be told apart by their distances to codes.
    assert table.ids[7].tolist() == table.ids[20].tolist() == table.ids[55].tolist()


@pytest.mark.parametrize("policy", POLICIES)
def test_new_items_do_not_move_old_ones(quantizer, embeddings, policy):
    rng = np.random.default_rng(5)
    rows = np.sort(rng.permutation(90)[:70])
    rest = np.setdiff1d(np.arange(90), rows)
    old = SemanticIdTokenizer.build(quantizer, embeddings[rows], policy=policy)
    new = old.add_items(quantizer, embeddings[rest], [f"new-{row}" for row in rest])
    assert np.array_equal(new.ids[:70], old.ids)
    assert new.level_sizes == old.level_sizes
    assert new.policy == policy
    assert new.statistics["items_added"] == 20
    assert new.statistics["left_items_sharing_id"] == sharing(new.ids)
    own = quantizer.get_semantic_ids(torch.from_numpy(embeddings[rest])).numpy()
    if policy in ("none", "sinkhorn"):
        assert np.array_equal(new.ids[70:], own)
    else:
        assert sharing(new.ids) == 0
        free = [tuple(row) not in {tuple(r[:3]) for r in old.ids.tolist()} for row in own.tolist()]
        firsts = np.unique(own, axis=0, return_index=True)[1]
        for row in firsts[np.array(free)[firsts]]:
            assert new.ids[70 + row, :3].tolist() == own[row].tolist()


def test_new_item_counts_the_dedup_digit_on(quantizer, embeddings):
    table = SemanticIdTokenizer.build(quantizer, embeddings, policy="dedup_token")
    groups, counts = np.unique(table.ids[:, :3], axis=0, return_counts=True)
    smaller = groups[counts < counts.max()][0]
    row = int(np.flatnonzero((table.ids[:, :3] == smaller).all(axis=1))[0])
    used = int((table.ids[:, :3] == smaller).all(axis=1).sum())
    new = table.add_items(quantizer, embeddings[row : row + 1], ["copy"])
    assert new.ids[-1].tolist() == [*smaller, used]


def test_new_item_that_finds_all_digits_used_moves_to_free_codes(quantizer, embeddings):
    table = SemanticIdTokenizer.build(quantizer, embeddings, policy="dedup_token")
    groups, counts = np.unique(table.ids[:, :3], axis=0, return_counts=True)
    fullest = groups[counts.argmax()]
    row = int(np.flatnonzero((table.ids[:, :3] == fullest).all(axis=1))[0])
    new = table.add_items(quantizer, embeddings[row : row + 1], ["copy"])
    assert new.ids[-1, 3] == 0
    assert new.ids[-1, :3].tolist() != fullest.tolist()
    assert sharing(new.ids[:, :3]) == sharing(table.ids[:, :3])  # onto codes that nobody had
    assert new.statistics["items_moved"] == 1
    assert new.statistics["added_distortion"] > 0


def test_one_by_one_or_together_new_items_stay_distinct(quantizer, embeddings):
    table = SemanticIdTokenizer.build(quantizer, embeddings, policy="reassign")
    for row in range(30):  # 120 tuples: to the last one
        table = table.add_items(quantizer, embeddings[row : row + 1], [f"copy-{row}"])
    assert sharing(table.ids) == 0
    assert table.num_items == 120
    with pytest.raises(ArtifactError, match="a code tuple an item, got 121 items for 6 x 5 x 4"):
        table.add_items(quantizer, embeddings[:1], ["one too many"])


def test_more_items_than_tuples(embeddings):
    model = ResidualKMeans.fit(embeddings, codebook_sizes=(4, 4))
    with pytest.raises(ArtifactError, match="for 4 x 4 tuples; use more levels"):
        SemanticIdTokenizer.build(model, embeddings, policy="reassign")


def test_unknown_policy(quantizer, embeddings):
    with pytest.raises(ConfigError, match="got 'reasign'; did you mean reassign"):
        SemanticIdTokenizer.build(quantizer, embeddings, policy="reasign")
