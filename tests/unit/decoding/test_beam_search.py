"""Beam search against brute force over the whole catalogue.

Scores come from tables, so that both sides add the same floats and ties are real ties.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from genrec.decoding.beam_search import _in_order, _top, constrained_beam_search
from genrec.decoding.trie import PrefixIndex, TrieStep
from genrec.errors import ConfigError


class TableModel:
    """A model whose log-probabilities depend on the whole prefix through a hash.

    With ``ties`` only three values occur, so that whole groups of IDs score the same.
    """

    def __init__(self, sizes: tuple[int, ...], batch_size: int, seed: int, ties: bool) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.sizes, self.batch_size = sizes, batch_size
        self.tables = []
        for size in sizes:
            logits = torch.randn(batch_size, 97, size, generator=generator)
            if ties:
                self.tables.append(-(logits.round().clamp(0, 2) + 1.0))
            else:
                self.tables.append(logits.log_softmax(-1))
        self.prefix = torch.zeros(batch_size, 1, dtype=torch.long)

    def log_probs(self, user: int, prefix: tuple[int, ...]) -> Tensor:
        row = 0
        for code in prefix:
            row = (row * 31 + code + 1) % 97
        return self.tables[len(prefix)][user, row]

    def step(self, level: int, codes: Tensor | None, parents: Tensor | None) -> Tensor:
        if codes is None or parents is None:
            self.prefix = torch.zeros(self.batch_size, 1, dtype=torch.long)
        else:
            self.prefix = (self.prefix.gather(1, parents) * 31 + codes + 1) % 97
        table = self.tables[level]
        return table.gather(1, self.prefix.unsqueeze(-1).expand(-1, -1, table.shape[-1]))

    def rank_all(self, user: int, ids: np.ndarray) -> list[tuple[float, tuple[int, ...]]]:
        """Score every distinct ID with plain Python; ties in lexicographic order."""
        scored = []
        for row in sorted({tuple(int(c) for c in r) for r in ids}):
            score = torch.zeros((), dtype=torch.float32)
            for level, code in enumerate(row):
                score = score + self.log_probs(user, row[:level])[code]
            scored.append((float(score), row))
        return sorted(scored, key=lambda pair: (-pair[0], pair[1]))


@st.composite
def catalogues(draw: st.DrawFn) -> tuple[np.ndarray, tuple[int, ...]]:
    num_levels = draw(st.integers(1, 4))
    sizes = tuple(draw(st.integers(1, 6)) for _ in range(num_levels))
    num_items = draw(st.integers(1, 40))
    rows = draw(
        st.lists(
            st.tuples(*[st.integers(0, size - 1) for size in sizes]),
            min_size=num_items,
            max_size=num_items,
        )
    )
    return np.array(rows, dtype=np.int32), sizes


@settings(max_examples=150, deadline=None)
@given(catalogues(), st.integers(0, 2**16), st.booleans(), st.integers(1, 3))
def test_all_beams_equal_brute_force(
    catalogue: tuple[np.ndarray, tuple[int, ...]], seed: int, ties: bool, batch_size: int
) -> None:
    ids, sizes = catalogue
    index = PrefixIndex.from_ids(ids, sizes)
    model = TableModel(sizes, batch_size, seed, ties)
    result = constrained_beam_search(
        model.step, index, batch_size=batch_size, num_beams=len(ids), num_results=len(ids)
    )
    for user in range(batch_size):
        expected = model.rank_all(user, ids)
        found = [
            (float(s), tuple(c))
            for s, c in zip(result.scores[user], result.codes[user].tolist(), strict=True)
            if s > -torch.inf
        ]
        assert found == expected
        items = [
            item
            for _, row in expected
            for item in np.flatnonzero((ids == np.array(row)).all(axis=1)).tolist()
        ]
        assert result.items[user].tolist() == items
        scores = dict(zip(map(tuple, result.codes[user].tolist()), result.scores[user].tolist(),
                          strict=True))  # fmt: skip
        assert result.item_scores[user].tolist() == [scores[tuple(ids[item])] for item in items]
        beams = result.codes[user][result.item_beams[user]]
        assert beams.tolist() == ids[items].tolist()
        assert index.leaf_of_items(result.items[user]).tolist() == [
            result.leaves[user, beam] for beam in result.item_beams[user]
        ]


@settings(max_examples=100, deadline=None)
@given(
    catalogues(),
    st.integers(0, 2**16),
    st.booleans(),
    st.sampled_from(["allow", "allow_per_user", "exclude_per_user", "both"]),
)
def test_restrictions_equal_brute_force(
    catalogue: tuple[np.ndarray, tuple[int, ...]], seed: int, ties: bool, kind: str
) -> None:
    ids, sizes = catalogue
    batch_size, num_items = 2, len(ids)
    index = PrefixIndex.from_ids(ids, sizes)
    model = TableModel(sizes, batch_size, seed, ties)
    rng = np.random.default_rng(seed)
    mask = rng.random((batch_size, num_items)) < 0.5
    if kind == "allow":
        mask[:] = mask[0]
        legal = index.allow(torch.from_numpy(mask[0]))
    elif kind == "both":
        shared = rng.random(num_items) < 0.5
        legal = index.allow(torch.from_numpy(shared)) & index.exclude_per_user(_listed(~mask))
        mask &= shared
    elif kind == "allow_per_user":
        legal = index.allow_per_user(_listed(mask))
    else:
        legal = index.exclude_per_user(_listed(~mask))
    result = constrained_beam_search(
        model.step,
        index,
        batch_size=batch_size,
        num_beams=num_items,
        num_results=num_items,
        legal=legal,
    )
    for user in range(batch_size):
        expected = [
            item
            for _, row in model.rank_all(user, ids)
            for item in np.flatnonzero((ids == np.array(row)).all(axis=1)).tolist()
            if mask[user, item]
        ]
        padded = expected + [-1] * (num_items - len(expected))
        assert result.items[user].tolist() == padded


def _listed(mask: np.ndarray) -> Tensor:
    """Turn a mask (B, N) into item ids (B, N), padded with -1, in a shuffled order."""
    items = np.where(mask, np.arange(mask.shape[1]), -1)
    return torch.from_numpy(np.random.default_rng(0).permuted(items, axis=1))


@settings(max_examples=60, deadline=None)
@given(catalogues(), st.integers(0, 2**16), st.integers(1, 5))
def test_few_beams_are_valid_distinct_and_sorted(
    catalogue: tuple[np.ndarray, tuple[int, ...]], seed: int, num_beams: int
) -> None:
    ids, sizes = catalogue
    index = PrefixIndex.from_ids(ids, sizes)
    model = TableModel(sizes, 2, seed, ties=False)
    result = constrained_beam_search(model.step, index, batch_size=2, num_beams=num_beams)
    known = {tuple(row) for row in ids.tolist()}
    for user in range(2):
        rows = [tuple(r) for r in result.codes[user].tolist() if r[0] >= 0]
        assert rows
        assert set(rows) <= known
        assert len(set(rows)) == len(rows)
        assert result.scores[user].tolist() == sorted(result.scores[user].tolist(), reverse=True)
        for row, score in zip(rows, result.scores[user].tolist(), strict=False):
            total = sum(float(model.log_probs(user, row[:i])[c]) for i, c in enumerate(row))
            assert score == pytest.approx(total, abs=1e-4)


def test_a_batch_equals_its_users() -> None:
    ids = np.random.default_rng(0).integers(0, 5, (60, 3))
    index = PrefixIndex.from_ids(ids, (5, 5, 5))
    together = TableModel((5, 5, 5), 4, 1, ties=True)
    batch = constrained_beam_search(together.step, index, batch_size=4, num_beams=7)
    for user in range(4):
        alone = TableModel((5, 5, 5), 4, 1, ties=True)
        alone.tables = [table[user : user + 1] for table in alone.tables]
        alone.batch_size = 1
        single = constrained_beam_search(alone.step, index, batch_size=1, num_beams=7)
        assert torch.equal(single.items[0], batch.items[user])
        assert torch.equal(single.scores[0], batch.scores[user])


def test_probabilities_are_not_renormalised_unless_asked() -> None:
    index = PrefixIndex.from_ids([[0], [1]], (4,))
    log_probs = torch.tensor([[[0.1, 0.2, 0.3, 0.4]]]).log()
    plain = constrained_beam_search(lambda *_: log_probs, index, batch_size=1, num_beams=2)
    assert plain.scores.exp()[0].tolist() == pytest.approx([0.2, 0.1])
    scaled = constrained_beam_search(
        lambda *_: log_probs, index, batch_size=1, num_beams=2, renormalize=True
    )
    assert scaled.scores.exp()[0].tolist() == pytest.approx([2 / 3, 1 / 3])


def test_a_legal_code_of_probability_zero_still_ranks_last() -> None:
    index = PrefixIndex.from_ids([[0], [2]], (3,))
    log_probs = torch.tensor([[[-torch.inf, 0.0, -1.0]]])
    result = constrained_beam_search(lambda *_: log_probs, index, batch_size=1, num_beams=3)
    assert result.items.tolist() == [[1, 0, -1]]


def test_sampling_follows_the_model() -> None:
    ids = [[0, 0], [0, 1], [1, 0]]
    index = PrefixIndex.from_ids(ids, (2, 2))
    first = torch.tensor([0.7, 0.3]).log()
    second = torch.tensor([[0.5, 0.5], [1.0, 0.0]]).log()

    def step(level: int, codes: Tensor | None, parents: Tensor | None) -> Tensor:
        if codes is None:
            return first.expand(batch, 1, 2)
        return second[codes]

    batch = 20_000
    generator = torch.Generator().manual_seed(0)
    result = constrained_beam_search(
        step, index, batch_size=batch, num_beams=1, sample=True, generator=generator
    )
    share = result.items[:, 0].bincount(minlength=3) / batch
    assert share.tolist() == pytest.approx([0.35, 0.35, 0.3], abs=0.015)


@pytest.mark.parametrize(
    ("ids", "shares"),
    [
        ([[0, 0], [0, 1], [1, 0], [1, 1]], [0.28, 0.42, 0.27, 0.03]),
        ([[0, 0], [0, 1], [1, 0]], [0.28, 0.42, 0.3]),  # an only child has all of its parent
    ],
)
def test_draws_without_replacement_follow_the_model(ids, shares) -> None:
    """The first of two is drawn as the model says, the second among the others likewise."""
    index = PrefixIndex.from_ids(ids, (2, 3))
    first = torch.tensor([0.7, 0.3]).log()
    second = torch.tensor([[0.4, 0.6, 0.0], [0.9, 0.1, 0.0]]).log()
    own = [0.28, 0.42, 0.27, 0.03]

    def step(level: int, codes: Tensor | None, parents: Tensor | None) -> Tensor:
        return first.expand(batch, 1, 2) if codes is None else second[codes]

    batch = 20_000
    result = constrained_beam_search(
        step,
        index,
        batch_size=batch,
        num_beams=2,
        sample=True,
        generator=torch.Generator().manual_seed(0),
    )
    pairs = (result.items[:, 0] * 4 + result.items[:, 1]).bincount(minlength=16) / batch
    for one, share in enumerate(shares):
        for other, rest in enumerate(shares):
            expected = 0.0 if one == other else share * rest / (1 - share)
            assert float(pairs[one * 4 + other]) == pytest.approx(expected, abs=0.01)
    # Scores stay the model's, whatever was drawn.
    assert result.scores.exp().tolist() == [
        pytest.approx([own[one], own[other]]) for one, other in result.items.tolist()
    ]


def test_what_is_forbidden_is_never_drawn() -> None:
    index = PrefixIndex.from_ids([[0, 0], [0, 1], [1, 0]], (2, 2))
    legal = index.allow(torch.tensor([False, True, True]))
    log_probs = torch.full((50, 1, 2), 0.5).log()
    result = constrained_beam_search(
        lambda level, codes, _: log_probs if codes is None else log_probs.expand(-1, 3, -1)[
            :, : codes.shape[1]
        ],
        index,
        batch_size=50,
        num_beams=3,
        sample=True,
        legal=legal,
    )  # fmt: skip
    assert result.items.sort(dim=1).values.tolist() == [[-1, 1, 2]] * 50
    assert (result.codes[:, 2] == -1).all()
    assert (result.leaves[:, 2] == -1).all()
    assert (result.item_scores[:, 2] == -torch.inf).all()
    assert (result.scores[:, 2] == -torch.inf).all()


def test_neighbouring_floats_are_told_apart() -> None:
    index = PrefixIndex.from_ids([[0], [1], [2], [3]], (4,))
    better = torch.tensor(-1.0)
    worse = better.nextafter(torch.tensor(-2.0))
    log_probs = torch.stack([worse, better, worse, better]).reshape(1, 1, 4)
    result = constrained_beam_search(lambda *_: log_probs, index, batch_size=1, num_beams=4)
    assert result.items.tolist() == [[1, 3, 0, 2]]
    shifted = -log_probs - 2.0  # 1.0 less: both signs occur
    mixed = torch.cat([shifted[..., :2] + 2.0, shifted[..., 2:]], dim=-1)
    result = constrained_beam_search(lambda *_: mixed, index, batch_size=1, num_beams=4)
    assert result.items.tolist() == [[0, 1, 2, 3]]


def test_scores_of_children_are_taken_as_they_are() -> None:
    """They need not sum to one, and what stands where no child is counts for nothing."""
    index = PrefixIndex.from_ids([[0, 0], [0, 1], [1, 1]], (2, 2))
    tables = [torch.tensor([[[-3.0, -1.0]]]), torch.tensor([[[-5.0, 9.0], [-1.0, -2.0]]])]

    def child_fn(level: int, codes: Tensor | None, parents: Tensor | None, _: TrieStep) -> Tensor:
        return tables[level]

    found = constrained_beam_search(None, index, batch_size=1, num_beams=3, child_fn=child_fn)
    assert found.codes.tolist() == [[[0, 0], [0, 1], [1, 1]]]
    assert found.scores.tolist() == [[-4.0, -5.0, -6.0]]
    warm = constrained_beam_search(
        None, index, batch_size=1, num_beams=3, child_fn=child_fn, temperature=2.0
    )
    first = (tables[0][0, 0] / 2).log_softmax(-1)
    below = (tables[1][0, 1] / 2).log_softmax(-1)
    expected = [first[1], first[0] + below[0], first[0] + below[1]]  # [1, 1] is an only child
    assert warm.codes.tolist() == [[[1, 1], [0, 0], [0, 1]]]
    assert warm.scores[0].tolist() == pytest.approx([float(score) for score in expected])


def test_legal_codes_of_each_prefix_sum_to_one_where_asked() -> None:
    ids = [[0, 0], [0, 1], [0, 2], [1, 0], [2, 2]]
    index = PrefixIndex.from_ids(ids, (4, 3))
    legal = index.allow(torch.tensor([True, True, False, True, False]))
    first = torch.tensor([0.1, 0.2, 0.3, 0.4])
    second = torch.tensor([0.2, 0.3, 0.5])
    result = constrained_beam_search(
        lambda level, codes, _: (first if codes is None else second).log().expand(
            1, 1 if codes is None else codes.shape[1], -1
        ),
        index,
        batch_size=1,
        num_beams=5,
        renormalize=True,
        legal=legal,
    )  # fmt: skip
    assert result.items.tolist() == [[3, 1, 0, -1, -1]]
    expected = [2 / 3, 1 / 3 * 0.6, 1 / 3 * 0.4, 0, 0]
    assert result.scores.exp()[0].tolist() == pytest.approx(expected)


def test_new_scores_order_the_items_anew() -> None:
    index = PrefixIndex.from_ids([[0], [1], [2], [0]], (3,))
    log_probs = torch.tensor([[[-1.0, -2.0, -3.0]], [[-3.0, -1.0, -2.0]]])
    legal = index.allow_per_user(torch.tensor([[0, 1, 2, 3], [1, 2, -1, -1]]))
    found = constrained_beam_search(
        lambda *_: log_probs, index, batch_size=2, num_beams=4, legal=legal
    )
    assert found.items.tolist() == [[0, 3, 1, 2], [1, 2, -1, -1]]
    again = found.reordered(torch.tensor([[5.0, 7.0, 5.0, 7.0], [1.0, 2.0, 9.0, 9.0]]), 3)
    assert again.items.tolist() == [[3, 2, 0], [2, 1, -1]]
    assert again.item_scores.tolist() == [[7.0, 7.0, 5.0], [2.0, 1.0, -torch.inf]]
    assert again.item_beams.tolist() == [[0, 2, 0], [1, 0, -1]]
    assert again.codes is found.codes


def test_bad_numbers_are_refused() -> None:
    index = PrefixIndex.from_ids([[0]], (1,))
    log_probs = torch.zeros(1, 1, 1)
    with pytest.raises(ConfigError, match="must be >= 1, got 1 and 0; take at least"):
        constrained_beam_search(
            lambda *_: log_probs, index, batch_size=1, num_beams=1, num_results=0
        )
    for options in ({"num_results": 1}, {"temperature": 0.01}):
        one = constrained_beam_search(
            lambda *_: log_probs, index, batch_size=1, num_beams=1, **options
        )
        assert one.items.tolist() == [[0]]
    with pytest.raises(ConfigError, match="num_beams and num_results must be >= 1, got 0"):
        constrained_beam_search(lambda *_: log_probs, index, batch_size=1, num_beams=0)
    with pytest.raises(ConfigError, match="temperature must be > 0, got 0"):
        constrained_beam_search(
            lambda *_: log_probs, index, batch_size=1, num_beams=1, temperature=0
        )


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**16), st.integers(1, 6), st.sampled_from([2, 5, 1000]))
def test_the_best_are_the_same_with_ties_or_without(seed: int, width: int, values: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    shape = (3, 4, 8)
    ranked = -torch.randint(0, values, shape, generator=generator).float()
    ranked = ranked.masked_fill(torch.rand(shape, generator=generator) < 0.1, -torch.inf)
    states = torch.rand(3, 32, generator=generator).argsort(dim=1).int().view(shape)
    allowed = torch.rand(shape, generator=generator) < 0.7
    chosen, alive = _top(ranked, states, allowed, width)
    parts = (part.flatten(1) for part in (ranked, states, allowed))
    expected, of_expected = _in_order(*parts, width)
    assert torch.equal(alive, of_expected)
    assert torch.equal(chosen.where(alive, -1), expected.where(alive, -1))


@pytest.mark.parametrize(("backwards", "second"), [(False, 2), (True, 3)])
def test_the_best_by_hand(backwards: bool, second: int) -> None:
    states = torch.arange(8).int().view(1, 1, 8)
    states = states.flip(2) if backwards else states
    allowed = torch.ones(1, 1, 8, dtype=torch.bool)
    # What is not allowed stands first, and is none of the two best.
    ranked = -torch.arange(8).float().view(1, 1, 8)
    allowed[..., 0] = False
    chosen, alive = _top(ranked, states, allowed, 2)
    assert (chosen.tolist(), alive.tolist()) == ([[1, 2]], [[True, True]])
    # The second and the third best score the same: the lowest state of them is chosen.
    ranked[..., 3] = ranked[..., 2]
    chosen, alive = _top(ranked, states, allowed, 2)
    assert (chosen.tolist(), alive.tolist()) == ([[1, second]], [[True, True]])


def test_few_live_beams_among_many_users_leave_room_for_all() -> None:
    """Windows are as wide as live beams need, and yet each user has as many beams as before."""
    ids = np.array([[first, second] for first in range(8) for second in range(1 + first)])
    index, users = PrefixIndex.from_ids(ids, (8, 8)), 50
    model = TableModel((8, 8), users, seed=0, ties=False)
    only = torch.zeros(len(ids), dtype=torch.bool)
    only[0] = True  # below a prefix with no other child
    found = constrained_beam_search(
        model.step, index, batch_size=users, num_beams=20, legal=index.allow(only)
    )
    assert found.items.shape == (users, 20)
    assert found.items[:, 0].tolist() == [0] * users
    assert (found.items[:, 1:] == -1).all()


@pytest.mark.parametrize("ids", [[[0, 0], [0, 1], [1, 0]], [[0, 0], [0, 0], [1, 0]]])
@pytest.mark.parametrize("seed", range(6))
def test_what_a_user_has_takes_no_beam(ids, seed) -> None:
    """All below a prefix is gone, or all of an ID that two items share."""
    index = PrefixIndex.from_ids(ids, (2, 2))
    model = TableModel((2, 2), 2, seed=seed, ties=False)
    had = torch.tensor([[0, 1], [0, -1]])
    found = constrained_beam_search(
        model.step,
        index,
        batch_size=2,
        num_beams=1,
        num_results=1,
        legal=index.exclude_per_user(had),
    )
    assert found.items[0].tolist() == [2]
    assert found.items[1].item() in (1, 2)  # what shares its ID or prefix is still there


def test_a_prefix_of_which_all_is_excluded_takes_no_beam() -> None:
    index = PrefixIndex.from_ids([[0, 0], [1, 0], [1, 1], [2, 0], [2, 1]], (3, 2))
    legal = index.exclude_per_user(torch.tensor([[3, 4]]))
    assert legal.allows(torch.arange(3).unsqueeze(0), 1).tolist() == [[True, True, False]]
    log_probs = torch.tensor([[[-2.0, -1.0, -0.5]]])  # the last prefix is the likeliest
    found = constrained_beam_search(
        lambda level, *_: torch.zeros(1, 1, 2) if level else log_probs,
        index,
        batch_size=1,
        num_beams=1,
        legal=legal,
    )
    assert found.items.tolist() == [[1]]


def test_nothing_is_kept_for_gradients() -> None:
    weight = torch.zeros(1, 1, 2, requires_grad=True)
    index = PrefixIndex.from_ids([[0], [1]], (2,))
    found = constrained_beam_search(lambda *_: weight * 2, index, batch_size=1, num_beams=2)
    assert not found.scores.requires_grad


def test_where_nothing_is_legal_there_is_no_item() -> None:
    """Of items that share an ID, too, of which a search looks further than the results."""
    index = PrefixIndex.from_ids([[0], [0], [1]], (2,))
    legal = index.exclude_per_user(torch.arange(3).expand(2, -1))
    leaves = torch.tensor([[0, 1], [-1, -1]])
    for among in (leaves, leaves[1:].expand(2, -1)):
        items, beams = index.items(among, 2, legal)
        assert items.tolist() == beams.tolist() == [[-1, -1]] * 2
