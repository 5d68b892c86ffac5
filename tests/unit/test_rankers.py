"""The contract of whatever recommends, over every ranker; a new one is one entry of ``RANKERS``."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from genrec.data.catalogue import Catalogue
from genrec.data.schemas import Ranking, Rules
from genrec.data.sequence_dataset import hash_users
from genrec.decoding.trie import PrefixIndex
from genrec.errors import ConfigError
from genrec.models.item_retrieval import ItemTokenRetrievalModel
from genrec.models.item_settings import HistorySettings
from genrec.models.retrieval import EncoderDecoderRetrievalModel
from genrec.models.sasrec import SasRec
from genrec.rankers import Cooccurrence, Popularity, Ranker, SearchingRanker
from genrec.rankers_linear import Ease, ItemKnn
from genrec.tokenizer.semantic_id import SemanticIdTokenizer
from genrec.trained import with_ids

N, S, U = 24, 5, 40


@pytest.fixture(scope="module")
def data(tiny_data):
    rng = np.random.default_rng(0)
    return tiny_data([rng.integers(0, N, rng.integers(3, 20)).tolist() for _ in range(U)], N)


def generative(data, num_users: int = 0, shared: bool = False) -> Ranker:
    """A model over 24 different IDs, or over 12 that two items share each."""
    sizes = (3, 4, 2)
    codes = np.stack(np.unravel_index(np.random.default_rng(1).permutation(N), sizes), axis=1)
    if shared:
        codes[:, 2] = 0
    table = SemanticIdTokenizer(codes, level_sizes=sizes, item_keys=data.item_keys, policy="none")
    torch.manual_seed(0)
    model = EncoderDecoderRetrievalModel(
        16, 16, 0.0, 2, 2, num_embeddings=sizes, sem_id_dim=3, ff_dim=32, num_users=num_users
    )
    with torch.no_grad():  # far from uniform, so that histories matter
        for parameter in model.parameters():
            parameter.mul_(2)
    catalogue = with_ids(Catalogue.from_data(data), table)
    return model.eval().ranker(catalogue, {"num_beams": N, "max_history": S})


def item_tokens(data, shared: bool = False, options: dict | None = None, **settings) -> Ranker:
    """An item-token model over 24 different IDs, or over 12 that two items share each."""
    sizes = (3, 4, 2)
    codes = np.stack(np.unravel_index(np.random.default_rng(1).permutation(N), sizes), axis=1)
    if shared:
        codes[:, 2] = 0
    table = SemanticIdTokenizer(codes, level_sizes=sizes, item_keys=data.item_keys, policy="none")
    torch.manual_seed(0)
    index = PrefixIndex.from_ids(codes, sizes)
    model = ItemTokenRetrievalModel.for_index(index, embedding_dim=16, max_history=S, **settings)
    catalogue = with_ids(Catalogue.from_data(data), table)
    return model.eval().ranker(catalogue, {"num_beams": N, "max_history": S} | (options or {}))


def sasrec(data) -> Ranker:
    torch.manual_seed(0)
    model = SasRec(N, embedding_dim=8, ff_dim=16, max_history=S)
    return model.eval().ranker(Catalogue.from_data(data), {"max_history": S})


RANKERS = {
    "generative": generative,
    "generative, shared IDs": lambda data: generative(data, shared=True),
    "generative, user tokens": lambda data: generative(data, num_users=7),
    "item tokens": item_tokens,
    "item tokens, shared IDs": lambda data: item_tokens(data, shared=True),
    "item tokens, re-scored": lambda data: item_tokens(data, options={"rescore": 0.5}),
    "item tokens, seen weights": lambda data: item_tokens(
        data, history=HistorySettings(seen_weights=True)
    ),
    "SASRec": sasrec,
    "popularity": Popularity.fit,
    "co-occurrence": Cooccurrence.fit,
    "item-KNN": ItemKnn.fit,
    "EASE": Ease.fit,
}


@pytest.fixture(scope="module", params=RANKERS)
def ranker(request, data) -> Ranker:
    return RANKERS[request.param](data)


@pytest.fixture(scope="module")
def users(data):
    return torch.from_numpy(hash_users(data.user_keys))[:6]


@pytest.fixture(scope="module")
def history():
    rows = [[3, 1, 4, 1, 5], [9], [2, 6, 5], [3, 5, 8, 9], [7, 9], [23, 23, 23]]
    return torch.tensor([row + [-1] * (S - len(row)) for row in rows])


def check_shape(found: Ranking, k: int) -> None:
    assert found.items.shape == found.scores.shape == (6, k)
    assert (found.items.dtype, found.scores.dtype) == (torch.int64, torch.float32)
    assert found.items.min() >= -1
    assert found.items.max() < N
    assert torch.equal(found.items == -1, found.scores == -torch.inf)
    assert (found.scores[:, 1:] <= found.scores[:, :-1]).all()  # padding thus stands at the end
    for row in found.items.tolist():
        items = [item for item in row if item >= 0]
        assert len(set(items)) == len(items)


def test_it_says_what_it_is(ranker, data):
    assert isinstance(ranker.name, str)
    assert (ranker.num_items, ranker.device) == (N, torch.device("cpu"))
    assert list(ranker.item_keys) == list(data.item_keys)
    assert ranker.max_history >= S
    assert ranker.groups is None or (ranker.groups.shape, ranker.groups.dtype) == ((N,), np.int64)


@pytest.mark.parametrize("k", [1, 5, N, N + 7])
def test_without_rules_the_whole_catalogue_is_ranked(ranker, history, users, k):
    found = ranker.rank(history, k, users=users)
    check_shape(found, k)
    assert (found.items >= 0).sum() == 6 * min(k, N)
    whole = ranker.rank(history, N, users=users)
    assert torch.equal(found.items[:, :N], whole.items[:, :k])


def test_a_batch_is_its_users_one_by_one(ranker, history, users):
    found = ranker.rank(history, 9, users=users)
    for row in range(6):
        length = int((history[row] >= 0).sum())
        alone = ranker.rank(history[row : row + 1, :length], 9, users=users[row : row + 1])
        assert torch.equal(alone.items[0], found.items[row])
        torch.testing.assert_close(alone.scores[0], found.scores[row])


EXCLUDE = torch.tensor([[0, 1, 2], [-1, -1, -1], [5, 5, -1], [9, 3, 20], [23, 0, -1], [1, 2, 3]])
ALLOW = torch.tensor(
    [[2, 3, 4, 5], [9, 9, 8, -1], [-1, -1, -1, -1], [0, -1, 23, 11], [7, 6, 5, 4], [1, 2, 3, -1]]
)
MASK = torch.arange(N) % 3 != 0


@pytest.mark.parametrize("k", [2, N + 3])
@pytest.mark.parametrize("mask", [None, MASK, torch.zeros(N, dtype=torch.bool)])
@pytest.mark.parametrize("allow", [None, ALLOW, ALLOW[:, :0]])
@pytest.mark.parametrize("exclude", [None, EXCLUDE, EXCLUDE[:, :0]])
def test_rules_leave_items_out_and_move_no_other(ranker, history, users, exclude, allow, mask, k):
    whole = ranker.rank(history, N, users=users)
    found = ranker.rank(history, k, users=users, rules=Rules(exclude, allow, mask))
    check_shape(found, k)
    for row in range(6):
        kept = [
            (item, score)
            for item, score in zip(whole.items[row].tolist(), whole.scores[row], strict=True)
            if (exclude is None or item not in exclude[row])
            and (allow is None or item in allow[row])
            and (mask is None or mask[item])
        ][:k]
        expected = [item for item, _ in kept]
        assert found.items[row].tolist() == expected + [-1] * (k - len(expected))
        scores = torch.tensor([float(score) for _, score in kept])
        torch.testing.assert_close(found.scores[row, : len(kept)], scores)


def test_threads_get_what_one_gets(ranker, history, users):
    rules = [Rules(mask=torch.arange(N) % modulus != 0) for modulus in (2, 3, 5)] * 8
    expected = [ranker.rank(history, 6, users=users, rules=rule).items for rule in rules]

    def work(rule: Rules) -> torch.Tensor:
        return ranker.rank(history, 6, users=users, rules=rule).items

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(work, rules))
    assert all(torch.equal(*pair) for pair in zip(found, expected, strict=True))


def test_results_carry_no_gradient(ranker, history, users):
    assert not ranker.rank(history, 3, users=users).scores.requires_grad


def test_only_what_searches_has_beams(ranker):
    searches = ranker.name in ("generation", "re-scored")
    assert isinstance(ranker, SearchingRanker) == searches
    if searches:
        other = ranker.with_beams(2)
        assert (ranker.num_beams, other.num_beams) == (N, 2)
        with pytest.raises(ConfigError, match="num_beams must be >= 1, got 0"):
            ranker.with_beams(0)


def test_user_tokens_need_users(data, history):
    with pytest.raises(ConfigError, match="users must be given to a model with 7 user tokens"):
        generative(data, num_users=7).rank(history, 3)


def test_a_small_catalogue_is_ranked_whole(tiny_data):
    data = tiny_data([[0, 1, 0, 1, 0]], 2)
    for fitted in (Popularity.fit(data), Cooccurrence.fit(data)):
        (row,) = fitted.rank(torch.tensor([[0]]), 5).items.tolist()
        assert (sorted(row[:2]), row[2:]) == ([0, 1], [-1] * 3)
