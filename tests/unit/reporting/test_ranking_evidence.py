"""What a diagnosis measures, against naive loops in float64 over a toy shop."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from genrec.data.catalogue import Catalogue
from genrec.data.prepared import PreparedDataset, StringArray
from genrec.data.schemas import SequenceBatch, TokenizedBatch
from genrec.data.sequence_dataset import hash_users, user_buckets
from genrec.decoding.trie import PrefixIndex
from genrec.errors import ArtifactError, ConfigError, DataError
from genrec.models.beam_ranker import BeamRanker, LikelyFn
from genrec.models.item_retrieval import ItemTokenRetrievalModel
from genrec.models.item_settings import HistorySettings, TreeSettings
from genrec.models.retrieval import EncoderDecoderRetrievalModel
from genrec.models.sasrec import SasRec
from genrec.rankers import Cooccurrence, Popularity
from genrec.reporting.ranking_diagnosis import Diagnosis, format_diagnosis
from genrec.reporting.ranking_evidence import bucket_rows, measure
from genrec.trained import Trained

SIZES = (5, 4, 3)
NUM_ITEMS = 40
MOST = 6  # items of a history that the models see


def random_ids() -> np.ndarray:
    every = np.stack(np.unravel_index(np.arange(np.prod(SIZES)), SIZES), axis=1)
    return np.random.default_rng(0).permutation(every)[:NUM_ITEMS].astype(np.int32)


@pytest.fixture(scope="module")
def shop(write_data: Any, tmp_path_factory: pytest.TempPathFactory) -> PreparedDataset:
    """Users with 2 to 60 events; a few items are in nobody's training part."""
    rng = np.random.default_rng(3)
    sizes = rng.choice([2, 3, 4, 6, 9, 20, 60], size=40)
    chances = np.append(rng.dirichlet(np.full(NUM_ITEMS - 1, 0.3)), 0.0)
    sequences = [rng.choice(NUM_ITEMS, size=size, p=chances) for size in sizes]
    sequences[0] = np.array([5, 7, 7, 5])  # the validation item is in the history
    sequences[1] = np.array([1, 2, 3, NUM_ITEMS - 1, 4])  # which training never sees
    keys = [f"item {i}" for i in range(NUM_ITEMS)]
    found: PreparedDataset = write_data(
        tmp_path_factory.mktemp("shop") / "data", keys, sequences=sequences
    )
    return found


def item_model(index: PrefixIndex, **options: Any) -> Any:
    model = ItemTokenRetrievalModel.for_index(
        index, embedding_dim=16, ff_dim=(16, 16), max_history=MOST, **options
    )
    model.tree.codes.data.normal_(std=0.2)  # so that probabilities differ
    return model


def code_model(index: PrefixIndex, **options: Any) -> Any:
    model = EncoderDecoderRetrievalModel(
        16, 16, 0.0, 2, 2, num_embeddings=SIZES, sem_id_dim=3, ff_dim=16, **options
    )
    model.head.weight.data.normal_(std=2.0)
    return model


MODELS: dict[str, Any] = {
    "item tokens": item_model,
    "item tokens, seen items": lambda index: item_model(
        index, history=HistorySettings(seen_weights=True)
    ),
    "item tokens, history left out": lambda index: item_model(
        index, history=HistorySettings(skip_history=True)
    ),
    "item tokens over a level": lambda index: item_model(
        index, tree=TreeSettings(normalize_over="level", prefix_vectors=False)
    ),
    "code tokens": code_model,
    "code tokens, users": lambda index: code_model(index, num_users=7),
    "code tokens, whole vocabulary": lambda index: code_model(index, full_vocabulary=True),
    "SASRec": lambda index: SasRec(NUM_ITEMS, embedding_dim=16, max_history=MOST),
}


def train(shop: PreparedDataset, name: str, *, num_beams: int = 5, hide: bool = False) -> Trained:
    """A run as training would leave it, with random weights."""
    ids = random_ids()
    ids_of = SimpleNamespace(has_dedup_digit=True)
    groups = np.unique(ids[:, :2], axis=0, return_inverse=True)[1].ravel().astype(np.int64)
    catalogue = Catalogue.from_data(shop)
    is_items = name == "SASRec"
    if not is_items:
        catalogue = Catalogue(
            catalogue.item_keys, catalogue.item_titles, ids, SIZES, groups, catalogue.counts
        )
    torch.manual_seed(0)
    model = MODELS[name](PrefixIndex.from_ids(ids, SIZES)).eval()
    options = {"num_beams": num_beams, "max_history": MOST, "exclude_history": hide}
    meta = {
        "log_fingerprint": shop.log_fingerprint,
        "model": type(model).__name__,
        "settings": {"skip_history": name == "item tokens, history left out"},
    }
    ranker = model.ranker(catalogue, options)
    table: Any = None if is_items else ids_of
    return Trained(ranker, catalogue, options, meta, Path("runs/toy"), model, table)


def examples(shop: PreparedDataset) -> list[tuple[int, list[int], int]]:
    """User, whole history and target of every validation example."""
    found = []
    for user in range(shop.num_users):
        begin, end = shop.sequence_offsets[user], shop.train_ends[user]
        items = shop.sequence_items[begin : shop.valid_ends[user]].tolist()
        if shop.valid_ends[user] > end and end > begin:
            found.append((user, items[:-1], items[-1]))
    return found


def score_all(run: Trained, history: list[int]) -> list[float]:
    """Log-probabilities of every item."""
    newest = torch.tensor([history[-MOST:]] * NUM_ITEMS)
    if run.table is None:
        every: list[float] = run.model.scores(newest[:1]).double().log_softmax(dim=1)[0].tolist()
        return every
    items, users = torch.arange(NUM_ITEMS)[:, None], torch.zeros(NUM_ITEMS, dtype=torch.long)
    batch = SequenceBatch(newest, items, users, padded=False)
    found = likely(run)(batch, users=users, temperatures=(1.0,)).own.double()
    summed: list[float] = found.sum(dim=1).tolist()
    return summed


def likely(run: Trained) -> LikelyFn:
    assert isinstance(run.ranker, BeamRanker)
    assert run.ranker.code_log_probs is not None
    return run.ranker.code_log_probs


def training_losses(run: Trained, user: int, history: list[int], target: int) -> list[float]:
    """Losses of one target by the model's training pass."""
    newest = torch.tensor([history[-MOST:]])
    wanted, users = torch.tensor([[target]]), torch.tensor([user])
    if run.table is None:
        return [-score_all(run, history)[target]]
    if isinstance(run.model, ItemTokenRetrievalModel):
        batch = SequenceBatch(newest, wanted, users, padded=False)
        out: Any = run.model(batch, run.ranker.index)  # type: ignore[attr-defined]
    else:
        ids = torch.from_numpy(random_ids()).long()
        keys = StringArray.from_strings([f"user {user}"])
        users = user_buckets(torch.from_numpy(hash_users(keys)), 7)
        out = run.model(TokenizedBatch(ids[newest], ids[wanted], users, padded=False))
    losses: list[float] = out.level_losses.double().tolist()
    return losses


@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_levels_are_the_mean_losses_of_the_targets(shop: PreparedDataset, name: str) -> None:
    run = train(shop, name)
    found = measure(run, shop, users=10_000)
    rows = examples(shop)
    assert found.users == found.all_users == len(rows)
    own = np.array([training_losses(run, *row) for row in rows])
    assert [level.loss for level in found.levels] == pytest.approx(own.mean(axis=0), rel=1e-4)
    names = ["item"] if name == "SASRec" else ["code 1", "code 2", "dedup digit"]
    assert [level.name for level in found.levels] == names
    ids = np.arange(NUM_ITEMS)[:, None] if name == "SASRec" else random_ids()
    children = np.array(
        [
            [
                len({row[level] for row in ids.tolist() if row[:level] == ids[t].tolist()[:level]})
                for level in range(ids.shape[1])
            ]
            for _, _, t in rows
        ]
    )
    assert [x.children for x in found.levels] == pytest.approx(children.mean(axis=0))
    assert [x.uniform for x in found.levels] == pytest.approx(np.log(children).mean(axis=0))
    errors = (own - np.log(children)).std(axis=0, ddof=1) / math.sqrt(len(rows))
    assert [x.uniform_error for x in found.levels] == pytest.approx(errors, rel=1e-3)
    knows = (name.startswith("item tokens") and "level" not in name) or name == "SASRec"
    # All codes of the first level exist.
    assert all((x.illegal < 1e-5) == knows for x in found.levels[0 if knows else 1 :])
    assert all(x.calibrated <= x.loss - x.illegal + 1e-5 for x in found.levels)


@pytest.mark.parametrize("name", [name for name in MODELS if name != "SASRec"])
@torch.no_grad()
def test_levels_sum_to_the_probability_of_the_id(shop: PreparedDataset, name: str) -> None:
    """The search with as many beams as IDs says the same of every item."""
    run = train(shop, name, num_beams=NUM_ITEMS)
    history = torch.tensor([[5, 7, 9], [1, 2, 3]])
    users = torch.tensor([11, -5])
    ranking = run.ranker.rank(history, NUM_ITEMS, users=users)
    assert run.ranker.name == "generation"
    for place in range(NUM_ITEMS):
        items = ranking.items[:, place]
        live = items >= 0
        batch = SequenceBatch(history, items.clamp(min=0)[:, None], users, padded=False)
        found = likely(run)(batch, users=users, temperatures=(1.0, 2.0))
        own = found.own.sum(dim=1)
        assert torch.allclose(own[live], ranking.scores[:, place][live], atol=1e-4)
    # Over the codes that continue a prefix they sum to one at every temperature.
    tempered = torch.zeros(2, SIZES[0], 2)
    for code in range(SIZES[0]):
        item = int(np.flatnonzero(random_ids()[:, 0] == code)[0])
        batch = SequenceBatch(history, torch.tensor([[item]] * 2), users, padded=False)
        at_both = likely(run)(batch, users=users, temperatures=(1.0, 2.0))
        tempered[:, code] = at_both.tempered[:, 0].exp()
        first = at_both.own[:, 0] - at_both.tempered[:, 0, 0]  # what all that exist get together
        assert (first <= 1e-5).all()
    assert torch.allclose(tempered.sum(dim=1), torch.ones(2, 2), atol=1e-5)


@pytest.mark.parametrize("hide", [False, True], ids=["history shown", "history hidden"])
@pytest.mark.parametrize("name", ["item tokens", "code tokens", "SASRec"])
@torch.no_grad()
def test_buckets_hold_the_recall_of_their_users(
    shop: PreparedDataset, name: str, hide: bool
) -> None:
    run = train(shop, name, num_beams=NUM_ITEMS, hide=hide)
    found = measure(run, shop, users=10_000)
    assert found.hide_history == hide
    taken = [0] * NUM_ITEMS
    for user in range(shop.num_users):
        for item in shop.sequence_items[shop.sequence_offsets[user] : shop.train_ends[user]]:
            taken[item] += 1
    rankers = {
        "recall": None,
        "cooccurrence": Cooccurrence.fit(shop),
        "popularity": Popularity.fit(shop),
    }
    rows = []
    for _, history, target in examples(shop):
        hits = {}
        for label, ranker in rankers.items():
            if ranker is None:
                scores = score_all(run, history)
                order = sorted(range(NUM_ITEMS), key=lambda item: -scores[item])
            else:
                order = ranker.rank(torch.tensor([history]), NUM_ITEMS).items[0].tolist()
            shown = [item for item in order if not (hide and item in history[-MOST:])]
            hits[label] = float(target in shown[:10])
        rows.append((len(history), taken[target], hits))
    for buckets, value in ((found.by_history, 0), (found.by_popularity, 1)):
        assert sum(bucket.users for bucket in buckets) == len(rows)
        for bucket in buckets:
            most = math.inf if bucket.most is None else bucket.most
            own = [hits for *values, hits in rows if bucket.least <= values[value] <= most]
            assert len(own) == bucket.users
            for label in rankers:
                mean = np.mean([hits[label] for hits in own])
                assert getattr(bucket, label) == pytest.approx(mean), (bucket.label, label)
    assert {bucket.label for bucket in found.by_history} >= {"1-2", "3-5", "51 or more"}
    assert found.by_popularity[0].label == "0"
    assert found.overall.recall == pytest.approx(np.mean([hits["recall"] for *_, hits in rows]))
    assert (found.overall.least, found.overall.most) == (1, 58)


@pytest.mark.parametrize("name", ["item tokens", "code tokens", "item tokens, history left out"])
@torch.no_grad()
def test_the_search_loses_what_brute_force_says(shop: PreparedDataset, name: str) -> None:
    run = train(shop, name, num_beams=10)
    found = measure(run, shop, users=10_000).search
    assert found is not None
    hits = lost_hits = lost = 0
    rows = examples(shop)
    for _, history, target in rows:
        scores = score_all(run, history)
        newest = torch.tensor([history[-MOST:]])
        users = torch.zeros(1, dtype=torch.long)
        ranking = run.ranker.rank(newest, 10, users=users)
        items, own = ranking.items[0].tolist(), scores[target]
        live = [item for item in items if item >= 0]
        left_out = "left out" in name and target in history[-MOST:]
        hits += target in items[:10]
        missed = target not in live and not left_out
        lost_hits += missed and own > scores[live[9]] + 1e-3
        lost += missed and own > scores[live[-1]] + 1e-3
    assert found.num_beams == 10
    shares = [hits / len(rows), lost_hits / len(rows), lost / len(rows)]
    assert [found.hits, found.lost_hits, found.lost] == pytest.approx(shares)
    assert lost > 0 or name != "code tokens"  # or nothing would be tested
    wide = measure(train(shop, name, num_beams=NUM_ITEMS), shop, users=10_000).search
    assert wide is not None
    assert (wide.lost_hits, wide.lost) == (0.0, 0.0)


def test_fewer_users_are_spread_evenly(shop: PreparedDataset) -> None:
    found = measure(train(shop, "SASRec"), shop, users=5)
    assert found.users == 5
    assert found.all_users == len(examples(shop))
    assert isinstance(found, Diagnosis)
    assert "5 of" in format_diagnosis(found)
    assert found.sid_recall is None
    assert found.search is None


def test_a_single_user_says_nothing_for_sure(shop: PreparedDataset) -> None:
    found = measure(train(shop, "code tokens"), shop, users=1)
    assert found.overall.error == math.inf
    assert found.levels[0].uniform_error == math.inf


def test_a_ranker_that_tells_no_probabilities_has_no_levels(shop: PreparedDataset) -> None:
    run = train(shop, "SASRec")
    other = Trained(Popularity.fit(shop), run.catalogue, run.options, run.meta, run.path, None)
    found = measure(other, shop, users=100)
    assert found.levels == ()
    assert found.overall.recall == found.overall.popularity


def test_wrong_input_is_refused(shop: PreparedDataset, write_data: Any, tmp_path: Path) -> None:
    run = train(shop, "SASRec")
    with pytest.raises(ConfigError, match="users must be >= 1, got 0; 2000 is usual"):
        measure(run, shop, users=0)
    other = write_data(tmp_path / "other", ["a", "b"], sequences=[[0, 1, 0]])
    with pytest.raises(ArtifactError, match=r"--data must be the data set .* with other items"):
        measure(run, other, users=1)
    keys = list(shop.item_keys)
    same = write_data(tmp_path / "same", keys, sequences=[[0, 1, 0]])
    with pytest.raises(ArtifactError, match="with other interactions"):
        measure(run, same, users=1)
    nobody = write_data(tmp_path / "nobody", keys, sequences=[[0, 1], [2]])
    alone = Trained(run.ranker, run.catalogue, run.options, {}, run.path, run.model)
    with pytest.raises(DataError, match="must have validation users, got none"):
        measure(alone, nobody, users=1)


def test_rows_fall_into_buckets_by_their_upper_ends() -> None:
    found = bucket_rows(np.array([0, 1, 5, 6, 9, 5]), (0, 5))
    assert [rows.tolist() for rows in found] == [[0], [1, 2, 5], [3, 4]]
