"""Paths of items and hashes of prefixes against plain Python."""

from __future__ import annotations

from collections import Counter

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from genrec.decoding.beam_search import constrained_beam_search
from genrec.decoding.trie import PrefixIndex, TrieStep
from genrec.modules.hashed_embedding import hash_rows


def random_ids(seed: int, num_items: int, sizes: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, sizes, (num_items, len(sizes)))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**16), st.integers(1, 40), st.sampled_from([(3,), (4, 2), (3, 4, 2)]))
def test_paths(seed: int, num_items: int, sizes: tuple[int, ...]) -> None:
    ids = random_ids(seed, num_items, sizes)
    index = PrefixIndex.from_ids(ids, sizes)
    assert torch.equal(index.codes_of_items(torch.arange(num_items)), torch.from_numpy(ids))
    for level in range(1, len(sizes) + 1):
        prefixes = [tuple(row[:level]) for row in ids.tolist()]
        ranks = {prefix: rank for rank, prefix in enumerate(sorted(set(prefixes)))}
        assert index.paths.states[:, level - 1].tolist() == [ranks[p] for p in prefixes]
        counts = Counter(prefixes)
        assert index.paths.num_below[level - 1].tolist() == [counts[p] for p in sorted(ranks)]


def test_hashes_depend_on_codes_alone() -> None:
    sizes = (8, 8, 8)
    ids = np.unique(random_ids(0, 300, sizes), axis=0)
    some, everything = ids[::3], ids
    small, large = (PrefixIndex.from_ids(part, sizes) for part in (some, everything))
    for level in range(3):
        mine = small.prefix_hashes[level][small.paths.states[:, level].long()]
        theirs = large.prefix_hashes[level][large.paths.states[::3, level].long()]
        assert torch.equal(mine, theirs)
        assert len(large.prefix_hashes[level].unique()) == large.num_states[level + 1]


def test_hashed_rows_are_those_of_the_hashes() -> None:
    index = PrefixIndex.from_ids(random_ids(0, 300, (8, 8, 8)), (8, 8, 8))
    for level in (1, 2):
        found = index.step(torch.arange(index.num_states[level]).unsqueeze(1), level)
        windows = index.hashed_rows(level, 50)[found.states[:, 0, 0].long()]
        expected = hash_rows(index.prefix_hashes[level][found.states[:, 0].long()], 50)
        legal = found.legal[:, 0]
        assert torch.equal(windows[legal].long(), expected[legal])


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**16), st.integers(1, 30), st.integers(1, 12), st.sampled_from([1.0, 0.5]))
def test_scores_of_children_find_what_scores_of_all_codes_find(
    seed: int, num_items: int, num_beams: int, temperature: float
) -> None:
    sizes = (4, 3, 5)
    index = PrefixIndex.from_ids(random_ids(seed, num_items, sizes), sizes)
    generator = torch.Generator().manual_seed(seed)
    tables = [torch.randn(2, 1, size, generator=generator) for size in sizes]

    def legal_scores(level: int, following: TrieStep) -> torch.Tensor:
        scores = tables[level].expand(-1, following.codes.shape[1], -1).gather(2, following.codes)
        return scores.masked_fill(~following.legal, -torch.inf).log_softmax(-1)

    states = [torch.zeros(2, 1, dtype=torch.long)]

    def over_children(level, codes, parents, following):
        return legal_scores(level, following)

    def over_codes(level, codes, parents):
        if codes is not None:
            before = index.step(states[-1].gather(1, parents), level - 1)
            hit = before.legal & (before.codes == codes.unsqueeze(-1))
            column = hit.int().argmax(-1, keepdim=True)
            states.append(before.states.gather(-1, column).squeeze(-1).long())
        following = index.step(states[-1], level)
        full = torch.full((2, states[-1].shape[1], sizes[level]), -torch.inf)
        scores = legal_scores(level, following)
        places = following.codes.where(following.legal, following.codes[..., :1])
        return full.scatter_reduce(2, places, scores, "amax")

    options = {"batch_size": 2, "num_beams": num_beams, "temperature": temperature}
    one = constrained_beam_search(over_codes, index, **options)
    other = constrained_beam_search(None, index, child_fn=over_children, **options)
    assert torch.equal(one.items, other.items)
    torch.testing.assert_close(one.scores, other.scores)
