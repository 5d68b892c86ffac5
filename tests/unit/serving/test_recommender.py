"""The recommender against a ranking of the whole catalogue by the model's own probabilities."""

from __future__ import annotations

import shutil

import numpy as np
import polars as pl
import pytest
import torch

from genrec.atomic import write_json_atomic
from genrec.checkpoint import RunDirectory
from genrec.data.catalogue import Catalogue
from genrec.data.prepared import StringArray
from genrec.data.schemas import TokenizedBatch
from genrec.data.sequence_dataset import hash_users, user_buckets
from genrec.errors import ArtifactError, ConfigError, DataError, MissingPathError
from genrec.models.retrieval import EncoderDecoderRetrievalModel
from genrec.serving.recommender import Recommender
from genrec.serving.request import _parts
from genrec.tokenizer.semantic_id import SemanticIdTokenizer
from genrec.trained import with_ids

N = 24
KEYS = [f"B{i:03d}" for i in range(N)]
SIZES = (3, 4, 2)


def build_model(num_users: int = 0) -> EncoderDecoderRetrievalModel:
    torch.manual_seed(0)
    model = EncoderDecoderRetrievalModel(
        16, 16, 0.0, 2, 2, num_embeddings=SIZES, sem_id_dim=3, ff_dim=32, num_users=num_users
    )
    with torch.no_grad():  # far from uniform, so that histories matter
        for parameter in model.parameters():
            parameter.mul_(2)
    return model.eval()


@pytest.fixture(scope="module")
def tokenizer() -> SemanticIdTokenizer:
    codes = np.stack(np.unravel_index(np.random.default_rng(0).permutation(N), SIZES), axis=1)
    return SemanticIdTokenizer(codes, level_sizes=SIZES, item_keys=KEYS, policy="none")


def recommender_of(model, tokenizer, titles=None, **options) -> Recommender:
    catalogue = with_ids(Catalogue(tokenizer.item_keys, tokenizer.item_keys), tokenizer)
    return Recommender(model.ranker(catalogue, options), item_titles=titles)


@pytest.fixture(scope="module")
def recommender(tokenizer) -> Recommender:
    return recommender_of(build_model(), tokenizer, max_history=4, num_beams=N)


@pytest.fixture(scope="module")
def exact(tokenizer):
    """A function from a history to the log-probabilities of all items."""
    model = build_model()
    return lambda history: score_all(model, tokenizer, history[-4:])


def score_all(model, tokenizer, history: list[int], user: int | None = None) -> np.ndarray:
    """Log-probability of every item's ID, by teacher forcing, without any search."""
    ids = torch.from_numpy(np.array(tokenizer.ids)).long()
    batch = TokenizedBatch(
        history=ids[history][None].expand(N, -1, -1),
        targets=ids[:, None],
        user_ids=torch.full((N,), user or 0),
        padded=False,
    )
    with torch.no_grad():
        total = torch.zeros(N)
        for level, logits in enumerate(model.logits(batch)):
            total += logits[:, 0].log_softmax(-1).gather(1, ids[:, level, None]).squeeze(1)
    return total.numpy()


def rank(exact, history: list[int], allowed: set[int]) -> list[int]:
    found = exact(history)
    return sorted(allowed, key=lambda item: -found[item])


def keyed(rows) -> list[str]:
    return [KEYS[row] for row in rows]


def ask(recommender: Recommender, histories, k: int = 10, **options):
    """Recommend; rows and scores as matrices, -1 and -inf where there are fewer than k."""
    found = recommender.recommend(histories, k, **options)
    rows, scores = (found.rows, found.scores) if found.many else ([found.rows], [found.scores])
    ids = np.full((len(rows), k), -1)
    values = np.full((len(rows), k), -np.inf, dtype=np.float32)
    for user, (own, own_scores) in enumerate(zip(rows, scores, strict=True)):
        assert (own.dtype, own_scores.dtype, len(own)) == (np.int64, np.float32, len(own_scores))
        ids[user, : len(own)], values[user, : len(own)] = own, own_scores
    return (ids, values) if found.many else (ids[0], values[0])


HISTORIES = [[3, 1], [5], [9, 8, 7, 6, 5, 4, 3], [0, 1, 2, 3], [11, 11]]


def test_one_user_gets_the_exact_ranking(recommender, exact):
    for history in HISTORIES:
        ids, scores = ask(recommender, keyed(history), k=N, exclude_seen=False)
        assert ids.shape == scores.shape == (N,)
        assert (ids.dtype, scores.dtype) == (np.int64, np.float32)
        assert ids.tolist() == rank(exact, history, set(range(N)))
        model = exact(history)
        assert scores == pytest.approx(model[ids], abs=1e-4)
        assert np.exp(scores).sum() == pytest.approx(1.0, abs=1e-4)  # every ID is an item here


def test_batches_of_long_histories_have_fewer_users():
    lengths = np.array([1, 20, 1, 2, 20, 20, 300])
    order = np.argsort(lengths, kind="stable")
    for on_cpu, size, expected in ((True, 3, [3, 3, 1]), (True, None, [6, 1]), (False, None, [7])):
        parts = _parts(order, lengths, size, on_cpu=on_cpu)
        assert [len(part) for part in parts] == expected
        assert parts[0][-1] == 6  # the longest first
        assert sorted(np.concatenate(parts)) == list(range(7))
    assert [len(part) for part in _parts(order, lengths * 100, None, on_cpu=True)] == [1] * 4 + [3]
    assert _parts(order[:0], lengths, None, on_cpu=True) == []


@pytest.mark.parametrize("batch_size", [1, 2, 128, None])
def test_a_batch_is_its_users_in_their_order(recommender, batch_size):
    histories = [keyed(history) for history in HISTORIES]
    ids, scores = ask(recommender, histories, k=6, batch_size=batch_size)
    assert ids.shape == (5, 6)
    for row, history in enumerate(histories):
        alone, alone_scores = ask(recommender, history, k=6)
        assert ids[row].tolist() == alone.tolist()
        assert scores[row] == pytest.approx(alone_scores, abs=1e-4)


def test_what_was_seen_is_left_out_also_beyond_what_the_model_sees(recommender, exact):
    history = HISTORIES[2]  # 7 items, of which the model sees 4
    ids, _ = ask(recommender, keyed(history), k=N)
    expected = rank(exact, history, set(range(N)) - set(history))
    assert ids.tolist() == expected + [-1] * 7
    again, _ = ask(recommender, keyed(history[-4:]), k=N, exclude_seen=False)
    same, _ = ask(recommender, keyed(history), k=N, exclude_seen=False)
    assert again.tolist() == same.tolist()


EVERY = set(range(N))


# Some of the lists leave nothing; test_files.py holds the warning.
@pytest.mark.filterwarnings("ignore::genrec.serving.stock.NothingLeft")
@pytest.mark.parametrize(
    ("allow", "exclude", "expected"),
    [
        ({1, 2, 3, 20}, None, lambda seen: {1, 2, 3, 20} - seen),
        (None, {4, 5, 6}, lambda seen: EVERY - {4, 5, 6} - seen),
        ({1, 2, 3, 20}, {1, 20}, lambda seen: {2, 3} - seen),
        (set(), None, lambda seen: set()),
        (None, EVERY, lambda seen: set()),
    ],
)
@pytest.mark.parametrize("exclude_seen", [True, False])
def test_lists_for_everybody(recommender, exact, allow, exclude, expected, exclude_seen):
    ids, scores = ask(
        recommender,
        [keyed(history) for history in HISTORIES],
        k=N,
        allow=None if allow is None else keyed(allow),
        exclude=None if exclude is None else keyed(exclude),
        exclude_seen=exclude_seen,
    )
    for row, history in enumerate(HISTORIES):
        wanted = rank(exact, history, expected(set(history) if exclude_seen else set()))
        assert ids[row].tolist() == wanted + [-1] * (N - len(wanted))
        assert (scores[row] == -np.inf).tolist() == (ids[row] == -1).tolist()


# Some of the lists leave nothing; test_files.py holds the warning.
@pytest.mark.filterwarnings("ignore::genrec.serving.stock.NothingLeft")
@pytest.mark.parametrize("exclude_seen", [True, False])
@pytest.mark.parametrize("which", ["allow", "exclude", "both", "shared exclude"])
@pytest.mark.parametrize("batch_size", [2, 128])
def test_lists_of_each_user(recommender, exact, exclude_seen, which, batch_size):
    rng = np.random.default_rng(3)
    allow = [set(rng.permutation(N)[:size].tolist()) for size in (0, 1, 9, 15, 24)]
    exclude = [set(rng.permutation(N)[:size].tolist()) for size in (24, 0, 9, 3, 1)]
    shared = {0, 7, 13}
    options: dict = {}
    if which in ("allow", "both", "shared exclude"):
        options["allow"] = [keyed(items) for items in allow]
    if which in ("exclude", "both"):
        options["exclude"] = [keyed(items) for items in exclude]
    if which == "shared exclude":
        options["exclude"] = keyed(shared)
    ids, _ = ask(
        recommender,
        [keyed(history) for history in HISTORIES],
        k=N,
        exclude_seen=exclude_seen,
        batch_size=batch_size,
        **options,
    )
    for row, history in enumerate(HISTORIES):
        wanted = set(EVERY)
        if "allow" in options:
            wanted &= allow[row]
        if which in ("exclude", "both"):
            wanted -= exclude[row]
        if which == "shared exclude":
            wanted -= shared
        if exclude_seen:
            wanted -= set(history)
        ranked = rank(exact, history, wanted)
        assert ids[row].tolist() == ranked + [-1] * (N - len(ranked))


def test_one_user_takes_flat_lists(recommender):
    found = recommender.recommend(keyed([3, 1]), k=3, allow=keyed([1, 2, 4]))
    assert sorted(found.items) == keyed([2, 4])
    with pytest.raises(DataError, match="allow must be one list of item keys for one user, got 1"):
        ask(recommender, keyed([3, 1]), k=3, allow=[keyed([1, 2])])


# Some of the lists leave nothing; test_files.py holds the warning.
@pytest.mark.filterwarnings("ignore::genrec.serving.stock.NothingLeft")
def test_an_empty_history_gets_nothing(recommender):
    ids, scores = ask(recommender, [], k=3)
    assert (ids.tolist(), scores.tolist()) == ([-1] * 3, [-np.inf] * 3)
    ids, _ = ask(recommender, [[], keyed([3])], k=3)
    assert (ids >= 0).tolist() == [[False] * 3, [True] * 3]


# Some of the lists leave nothing; test_files.py holds the warning.
@pytest.mark.filterwarnings("ignore::genrec.serving.stock.NothingLeft")
def test_unknown_keys_are_named_or_skipped(recommender):
    history = ["B003", "new-1", "B001", "new-2"]
    with pytest.raises(
        DataError,
        match=r"got 2 that are not among its 24: 'new-1', 'new-2'; .*to ignore",
    ):
        ask(recommender, [["B003"], history])
    with pytest.raises(
        DataError, match=r"exclude must hold items .*, got 9 .*'3', '4', .*'7', \.\.\.;"
    ):
        ask(recommender, ["B001"], exclude=[*"34567", "x", *"012"])
    ids, _ = ask(recommender, history, on_unknown="ignore")
    assert ids.tolist() == ask(recommender, ["B003", "B001"])[0].tolist()
    assert (ask(recommender, ["new"], on_unknown="ignore")[0] == -1).all()


def test_numbers_stand_for_their_text_and_come_back_as_numbers(tokenizer):
    named = SemanticIdTokenizer(
        tokenizer.ids, level_sizes=SIZES, item_keys=[str(i) for i in range(N)], policy="none"
    )
    recommender = recommender_of(build_model(), named, num_beams=N)
    found = recommender.recommend(["3", "1"], k=5)
    assert found.items == [str(row) for row in found.rows]
    for history in ([3, 1], np.array([3, 1]), (np.int64(3), 1)):
        assert recommender.recommend(history, k=5).items == found.rows.tolist()
    assert recommender.recommend([3, "1"], k=5).items == found.items  # not all are numbers
    odd = SemanticIdTokenizer(
        tokenizer.ids, level_sizes=SIZES, item_keys=["007", *map(str, range(1, N))], policy="none"
    )
    assert recommender_of(build_model(), odd).recommend([3], k=1).items[0] in [*odd.item_keys]


def test_columns_of_pandas_polars_and_numpy_are_taken(recommender):
    pd = pytest.importorskip("pandas")
    lists = [keyed(history) for history in HISTORIES]
    expected = recommender.recommend(lists, k=3).items
    for given in (pl.Series(lists), pd.Series(lists), np.array(lists, dtype=object), tuple(lists)):
        assert recommender.recommend(given, k=3, exclude={"B023"} - {"B023"}).items == expected
    one = recommender.recommend(lists[0], k=3).items
    for given in (pl.Series(lists[0]), pd.Series(lists[0]), np.array(lists[0])):
        assert recommender.recommend(given, k=3).items == one


# Some of the lists leave nothing; test_files.py holds the warning.
@pytest.mark.filterwarnings("ignore::genrec.serving.stock.NothingLeft")
def test_results_are_columns_of_equal_length(recommender):
    found = recommender.recommend([keyed([3, 1]), []], k=4, users=[7, 9], allow=keyed([5, 1, 2]))
    items, scores = found
    assert [sorted(own) for own in items] == [["B002", "B005"], []]
    assert [len(own) for own in scores] == [len(own) for own in found.titles] == [2, 0]
    assert [len(own) for own in found.rows] == [2, 0]
    assert found.to_polars().rows() == [
        (7, items[0][0], scores[0][0], 1),
        (7, items[0][1], scores[0][1], 2),
    ]
    assert found.to_polars().columns == ["user_id", "item_id", "score", "rank"]
    assert repr(found).splitlines()[0] == "Recommendations(2 items for 2 users)"
    pytest.importorskip("pandas")
    assert found.to_pandas()["item_id"].tolist() == items[0]
    empty = recommender.recommend([], k=4).to_polars()
    assert dict(empty.schema)["item_id"] == pl.String
    assert len(empty) == 0


def test_who_has_nothing_known_gets_what_is_popular(tokenizer):
    model = build_model()
    ranker = model.ranker(
        with_ids(Catalogue(tokenizer.item_keys, tokenizer.item_keys), tokenizer), {}
    )
    counts = np.arange(N)
    recommender = Recommender(ranker, counts=counts)
    found = recommender.recommend(
        [["new"], keyed([3]), []], k=3, exclude=["B022"], on_unknown="ignore"
    )
    assert found.popular.tolist() == [True, False, True]
    assert found.items[0] == found.items[2] == ["B023", "B021", "B020"]
    assert found.scores[0].tolist() == [23.0, 21.0, 20.0]


def test_few_beams_still_fill_the_list(tokenizer, exact):
    recommender = recommender_of(build_model(), tokenizer, num_beams=1)
    ids, _ = ask(recommender, keyed([3, 1]), k=10)
    assert len(set(ids.tolist())) == 10
    wide, _ = ask(recommender, keyed([3, 1]), k=10, num_beams=N)
    ranking = rank(exact, [3, 1], EVERY - {3, 1})
    assert wide.tolist() == ranking[:10]
    # More beams than items find nothing more, and take no more memory.
    most, _ = ask(recommender, keyed([3, 1]), k=10, num_beams=10**30)
    assert most.tolist() == ranking[:10]


def test_users_reach_the_model(tokenizer):
    model = build_model(num_users=11)
    recommender = recommender_of(model, tokenizer, num_beams=N)
    hashes = torch.from_numpy(hash_users(StringArray.from_strings(["ann", "bob", "7"])))
    buckets = user_buckets(hashes, 11).tolist()
    assert len(set(buckets)) == 3
    history = [keyed([3, 1])] * 3
    ids, _ = ask(recommender, history, k=N, users=["ann", "bob", 7], exclude_seen=False)
    for row, bucket in enumerate(buckets):
        scores = score_all(model, tokenizer, [3, 1], bucket)
        assert ids[row].tolist() == sorted(range(N), key=lambda item, s=scores: -s[item])
    alone, _ = ask(recommender, history[0], k=N, users="bob", exclude_seen=False)
    assert alone.tolist() == ids[1].tolist()
    assert ids[0].tolist() != ids[1].tolist()
    with pytest.raises(ConfigError, match="users must be given to a model with 11 user tokens"):
        ask(recommender, history)
    with pytest.raises(DataError, match="users must be as many as histories, 3, got 2"):
        ask(recommender, history, users=["ann", "bob"])


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"k": 0}, ConfigError, "k must be a whole number >= 1, got 0"),
        ({"k": "5"}, ConfigError, "k must be a whole number >= 1, got '5'"),
        ({"k": True}, ConfigError, "k must be a whole number >= 1, got True"),
        ({"num_beams": 0}, ConfigError, "num_beams must be a whole number >= 1, got 0"),
        ({"num_beams": 2.5}, ConfigError, "num_beams must be a whole number >= 1, got 2.5"),
        ({"batch_size": -1}, ConfigError, "batch_size must be a whole number >= 1, got -1"),
        ({"on_unknown": "skip"}, ConfigError, "on_unknown must be raise, warn or ignore, got 'sk"),
        (
            {"histories": [["B001"], "B002"]},
            DataError,
            r"got 'B002' beside lists; write \['B002'\]",
        ),
        ({"histories": [["B001"], None]}, DataError, "got None beside lists"),
        ({"histories": [["B001", None]]}, DataError, "text or whole numbers, got None"),
        ({"histories": [1.5]}, DataError, "text or whole numbers, got 1.5"),
        ({"histories": [[True]]}, DataError, "text or whole numbers, got True"),
        ({"histories": {"B001"}}, DataError, "must be in order, the oldest first, got a set"),
        ({"histories": torch.tensor([1])}, DataError, "column of item keys, got a Tensor"),
        ({"histories": {"a": 1}}, DataError, "column of item keys, got a dict"),
        ({"histories": np.array("B001")}, DataError, "column of item keys, got a ndarray"),
        ({"histories": [np.array("B001")]}, DataError, "column of item keys, got a ndarray"),
        ({"histories": [10**5000]}, DataError, "whole numbers, got a whole number of 16,610 bits"),
        ({"histories": ["B001"], "k": -(10**5000)}, ConfigError, "got a whole number of 16,610"),
        ({"histories": 5}, DataError, "column of item keys, got 5"),
        ({"histories": None}, DataError, "histories or users must be given, got neither"),
        ({"histories": "B001"}, DataError, r"must be a list of item keys, got the text 'B001'"),
        ({"allow": [["B001"]]}, DataError, "allow must be as many as histories, 2, got 1"),
        ({"exclude": "B001"}, DataError, "must be a list of item keys, got the text 'B001'"),
    ],
)
def test_bad_calls_are_refused(recommender, options, error, message):
    call = {"histories": [["B001"], ["B002"]]} | options
    with pytest.raises(error, match=message):
        ask(recommender, **call)


def write_run(path, tokenizer, prepared) -> None:
    model = build_model()
    run = RunDirectory(path)
    run.save(5, weights=model.state_dict(), config=model.saved_config(), pointers=("best",))
    tokenizer.save(path / "semantic_ids")
    meta = {"prepared": str(prepared), "evaluation": {"num_beams": N, "max_history": 2}}
    write_json_atomic(path / "meta.json", meta)


def write_items(write_data, path, keys) -> None:
    write_data(path, keys, item_titles=[f"title of {key}" for key in keys])


def test_a_run_is_all_it_needs(tmp_path, tokenizer, write_data):
    write_items(write_data, tmp_path / "data", KEYS)
    write_run(tmp_path / "run", tokenizer, tmp_path / "data")
    first = Recommender.from_pretrained(tmp_path / "run", device="cpu")
    ids, scores = ask(first, keyed([9, 3, 1]), k=4)
    assert first.titles(ids) == [f"title of {KEYS[row]}" for row in ids]
    expected = recommender_of(build_model(), tokenizer, max_history=2, num_beams=N)
    assert ids.tolist() == ask(expected, keyed([9, 3, 1]), k=4)[0].tolist()

    (tmp_path / "run").rename(tmp_path / "moved")
    shutil.rmtree(tmp_path / "data")
    second = Recommender.from_pretrained(str(tmp_path / "moved"), device="cpu")
    again, again_scores = ask(second, keyed([9, 3, 1]), k=4)
    assert (again.tolist(), again_scores.tolist()) == (ids.tolist(), scores.tolist())
    assert second.titles(again) == keyed(again)

    write_items(write_data, tmp_path / "data", KEYS[::-1])  # another data set at the old place
    third = Recommender.from_pretrained(tmp_path / "moved", device="cpu")
    assert third.titles(again) == keyed(again)


def test_new_items_are_recommended_without_retraining(tmp_path, tokenizer, write_data):
    sizes, count = tokenizer.level_sizes, N - 1
    trained = SemanticIdTokenizer(
        tokenizer.ids[:count], level_sizes=sizes, item_keys=KEYS[:count], policy="none"
    )
    write_items(write_data, tmp_path / "data", KEYS[:count])
    write_run(tmp_path / "run", trained, tmp_path / "data")
    extended = SemanticIdTokenizer(
        tokenizer.ids, level_sizes=sizes, item_keys=[*KEYS[:count], "new"], policy="none"
    )
    history = keyed([9, 3, 1])
    recommender = Recommender.from_pretrained(tmp_path / "run", tokenizer=extended, device="cpu")
    found, scores = ask(recommender, history, k=N, num_beams=N, exclude_seen=False)
    assert sorted(found.tolist()) == list(range(N))
    assert recommender.titles(found)[found.tolist().index(count)] == "new"
    own = Recommender.from_pretrained(tmp_path / "run", device="cpu")
    before, before_scores = ask(own, history, k=count, num_beams=N, exclude_seen=False)
    assert found[found != count].tolist() == before.tolist()
    assert np.allclose(scores[found != count], before_scores, atol=1e-5)

    shuffled = SemanticIdTokenizer(
        tokenizer.ids[::-1], level_sizes=sizes, item_keys=KEYS, policy="none"
    )
    with pytest.raises(ArtifactError, match=rf"must begin with the {count} items that the model"):
        Recommender.from_pretrained(tmp_path / "run", tokenizer=shuffled, device="cpu")


def test_what_is_no_run_is_said(tmp_path):
    with pytest.raises(MissingPathError, match=r"run must be a folder with meta\.json"):
        Recommender.from_pretrained(tmp_path)


@pytest.mark.parametrize("users", [["\ud800"], "\ud800"])
def test_a_user_of_half_a_letter_is_refused(recommender, users):
    with pytest.raises(DataError, match=r"must be text that can be written, got '\\ud800'"):
        recommender.recommend([keyed(HISTORIES[0])], users=[*users])
