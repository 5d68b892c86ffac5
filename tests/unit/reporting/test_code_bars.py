"""What guesses cost, against naive counting in float64."""

from __future__ import annotations

import math
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from genrec.decoding.trie import PrefixIndex
from genrec.rankers import Cooccurrence, training_counts, training_pairs
from genrec.reporting.code_bars import CodePaths, TrainingCounts, bigram_nats, uniform_nats

SIZES = (3, 3, 2)


def random_ids(num_items: int = 12, seed: int = 0) -> np.ndarray:
    every = np.stack(np.unravel_index(np.arange(np.prod(SIZES)), SIZES), axis=1)
    return np.random.default_rng(seed).permutation(every)[:num_items]


def naive_uniform(ids: np.ndarray, target: int) -> list[float]:
    rows = [tuple(row) for row in ids.tolist()]
    costs = []
    for level in range(ids.shape[1]):
        prefix = rows[target][:level]
        costs.append(math.log(len({row[level] for row in rows if row[:level] == prefix})))
    return costs


def naive_bigram(
    ids: np.ndarray, sequences: list[list[int]], last: int, target: int, level: int
) -> dict[int, float]:
    """Probability of each code that continues the target's prefix, by the definition."""
    rows = [tuple(row) for row in ids.tolist()]
    prefix, context = rows[target][:level], rows[last][: level + 1]
    children = sorted({row[level] for row in rows if row[:level] == prefix})
    taken = Counter(rows[i][level] for s in sequences for i in s if rows[i][:level] == prefix)
    led = Counter(
        rows[b][level]
        for s in sequences
        for a, b in pairwise(s)
        if rows[a][: level + 1] == context and rows[b][:level] == prefix
    )
    found = {}
    for child in children:
        share = (taken[child] + 1) / (sum(taken.values()) + len(children))
        n, kinds = sum(led.values()), len(led)
        found[child] = (led[child] + kinds * share) / (n + kinds) if n else share
    return found


@pytest.mark.parametrize("shared", [False, True], ids=["one item an ID", "shared IDs"])
def test_guesses_cost_what_naive_counting_says(shared: bool) -> None:
    ids = random_ids()
    if shared:
        ids[7], ids[9] = ids[2], ids[2]
    rng = np.random.default_rng(1)
    sequences = [rng.integers(0, len(ids), size).tolist() for size in (1, 2, 5, 9, 30)]
    first = [a for s in sequences for a in s[:-1]]
    second = [b for s in sequences for b in s[1:]]
    counts = np.bincount([i for s in sequences for i in s], minlength=len(ids))
    seen = TrainingCounts(counts, np.array(first), np.array(second))
    last, targets = (part.ravel() for part in np.mgrid[: len(ids), : len(ids)])
    paths = CodePaths.of_index(PrefixIndex.from_ids(ids, SIZES))
    uniform = uniform_nats(paths, targets)
    bigram = bigram_nats(paths, seen, last, targets)
    assert uniform.shape == bigram.shape == (len(ids) ** 2, len(SIZES))
    for row, (newest, target) in enumerate(zip(last, targets, strict=True)):
        assert uniform[row].tolist() == pytest.approx(naive_uniform(ids, target))
        for level in range(len(SIZES)):
            wanted = naive_bigram(ids, sequences, newest, target, level)
            assert sum(wanted.values()) == pytest.approx(1.0)
            assert math.exp(-bigram[row, level]) == pytest.approx(wanted[ids[target, level]])


def test_an_item_that_is_its_own_code_is_a_bigram_of_items() -> None:
    seen = TrainingCounts(np.array([2, 1, 1, 0]), np.array([0, 0]), np.array([1, 2]))
    paths = CodePaths.of_items(4)
    targets, last = np.array([1, 3, 3]), np.array([0, 0, 3])
    assert uniform_nats(paths, targets).ravel().tolist() == pytest.approx([math.log(4)] * 3)
    found = np.exp(-bigram_nats(paths, seen, last, targets)).ravel()
    # After item 0 two different ones came, once each; after item 3 nothing.
    assert found.tolist() == pytest.approx([(1 + 2 * 2 / 8) / 4, (2 * 1 / 8) / 4, 1 / 8])


def test_no_pair_in_training_leaves_the_shares(tmp_path: Path) -> None:
    none = np.zeros(0, dtype=np.int64)
    seen = TrainingCounts(np.array([3, 0]), none, none)
    found = bigram_nats(CodePaths.of_items(2), seen, np.array([0, 0]), np.array([0, 1]))
    assert np.exp(-found).ravel().tolist() == pytest.approx([4 / 5, 1 / 5])


def test_only_the_training_part_is_counted(write_data: Any, tmp_path: Path) -> None:
    data = write_data(
        tmp_path / "data", list("abcd"), sequences=[[0, 1, 2, 3], [2, 1, 0, 3], [3, 3]]
    )
    first, second = training_pairs(data)  # a user of two events only trains
    assert list(zip(first.tolist(), second.tolist(), strict=True)) == [(0, 1), (2, 1), (3, 3)]
    assert training_counts(data).tolist() == [1, 2, 1, 2]
    assert Cooccurrence.fit(data).name == "co-occurrence"
