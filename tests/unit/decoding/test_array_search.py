"""The search in numpy finds what the search in torch finds."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from genrec.data.catalogue import Catalogue
from genrec.data.prepared import StringArray
from genrec.data.schemas import Rules
from genrec.decoding.array_index import ArrayIndex
from genrec.decoding.array_search import ArrayRules, array_search, best_first, top_items
from genrec.decoding.beam_search import constrained_beam_search
from genrec.decoding.trie import PrefixIndex
from genrec.models.beam_ranker import BeamRanker
from genrec.models.score_ranker import top_items as torch_top_items

B, SIZES = 5, (4, 3, 5)


def both(num_items: int, *, shared: bool) -> tuple[PrefixIndex, ArrayIndex]:
    rng = np.random.default_rng(num_items)
    ids = rng.integers(0, SIZES, (num_items, 3))
    if not shared:
        ids = np.unique(ids, axis=0)
        rng.shuffle(ids)
    index = PrefixIndex.from_ids(ids, SIZES)
    offsets = index.leaf_offsets
    assert (offsets is not None) == shared
    tables = [table.numpy() for table in index.first_child]
    return index, ArrayIndex(
        tables, index.leaf_items.numpy(), None if offsets is None else offsets.numpy()
    )


def scores_of(index: PrefixIndex) -> list[torch.Tensor]:
    """A log-probability of each state and user; few values, so that many are equal."""
    generator = torch.Generator().manual_seed(1)
    return [-torch.randint(1, 4, (B, n), generator=generator).float() for n in index.num_states]


def rules_of(kind: str, num_items: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(2)
    lists = rng.integers(-1, num_items, (B, 9))
    lists[0] = -1
    return {
        name: rng.random(num_items) < 0.6 if name == "mask" else np.roll(lists, place)
        for place, name in enumerate(kind.split("+"))
        if name != "none"
    }


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("num_beams", [1, 7, 100])
@pytest.mark.parametrize("kind", ["none", "mask", "exclude", "allow", "exclude+mask+allow"])
def test_the_same_items_and_scores(kind, num_beams, shared):
    index, arrays = both(80, shared=shared)
    scores, rules = scores_of(index), rules_of(kind, index.num_items)

    def torch_step(level, codes, parents, following):
        users = torch.arange(B)[:, None, None]
        return scores[level + 1][users, following.states]

    def step(level, given):
        kept = None if level == 2 else np.zeros((*given["children"].shape[:2], 1), np.float32)
        if level:  # what was left is that of the parents
            assert given["past"].shape == (*given["states"].shape, level, 1)
        users = np.arange(B)[:, None, None]
        return scores[level + 1].numpy()[users, given["children"]], kept

    given = Rules(**{name: torch.from_numpy(value) for name, value in rules.items()})
    keys = StringArray.from_strings(map(str, range(index.num_items)))
    ranker = BeamRanker(None, Catalogue(keys, keys), index, num_beams=1, max_history=1)
    expected = constrained_beam_search(
        None,
        index,
        batch_size=B,
        num_beams=num_beams,
        num_results=12,
        legal=ranker._legal(given),
        child_fn=torch_step,
    )
    items, found = array_search(
        step,
        arrays,
        batch_size=B,
        num_beams=num_beams,
        num_results=12,
        legal=ArrayRules(**rules).restrict(arrays),
    )
    assert items.tolist() == expected.items.tolist()
    assert found.tolist() == expected.item_scores.tolist()
    assert kind == "allow" or (items >= 0).any()


def test_each_beam_goes_on_with_what_its_parent_left():
    index, arrays = both(80, shared=False)
    paths = index.paths.states.numpy()
    seen = []

    def step(level, given):
        children = given["children"]
        if level:
            before = given["past"][..., 0].astype(int)  # each step left its own states
            seen.append((before, given["states"]))
        left = given["states"] if level else np.zeros((B, 1), int)
        scores = np.sin(children * 7.0 + np.arange(B)[:, None, None]).astype(np.float32)
        return scores, left[..., None].astype(np.float32)

    array_search(step, arrays, batch_size=B, num_beams=6, num_results=6, legal=None)
    before, states = seen[-1]
    parents = {tuple(row[:2]) for row in paths}  # states after one and after two codes
    assert {tuple(pair) for pair in zip(before[..., 1].flat, states.flat, strict=True)} <= parents
    assert not before[..., 0].any()


@pytest.mark.parametrize("kind", ["none", "mask", "exclude", "allow", "exclude+mask+allow"])
@pytest.mark.parametrize("k", [1, 10, 40])
def test_the_best_of_all_items(kind, k):
    rng = np.random.default_rng(3)
    scores = rng.integers(-3, 3, (B, 40)).astype(np.float32)  # many ties
    scores[0, 3:] = -np.inf
    rules = rules_of(kind, 40)
    given = Rules(**{name: torch.from_numpy(value) for name, value in rules.items()})
    expected = torch_top_items(torch.from_numpy(scores), k, given)
    items, found = top_items(scores, k, ArrayRules(**rules))
    assert items.tolist() == expected.items.tolist()
    assert found.tolist() == expected.scores.tolist()


def test_new_scores_keep_the_order_of_equals():
    items = np.array([[4, 7, 2, -1]])
    scores = np.array([[1.0, 2.0, 1.0, 9.0]], dtype=np.float32)
    found, sorted_scores = best_first(items, scores, 3)
    assert found.tolist() == [[7, 4, 2]]
    assert sorted_scores.tolist() == [[2.0, 1.0, 1.0]]


@pytest.mark.parametrize("shared", [True, False])
def test_an_index_comes_back_from_its_files(tmp_path, shared):
    _, arrays = both(60, shared=shared)
    arrays.save(tmp_path)
    again = ArrayIndex.load(tmp_path)
    assert again.num_states == arrays.num_states
    states = np.arange(arrays.num_states[2])[None]
    for ours, theirs in zip(again.step(states, 2), arrays.step(states, 2), strict=True):
        assert ours.tolist() == theirs.tolist()
    leaves = np.arange(-1, arrays.num_states[3])[None]
    for ours, theirs in zip(
        again.items(leaves, 99, None), arrays.items(leaves, 99, None), strict=True
    ):
        assert ours.tolist() == theirs.tolist()
