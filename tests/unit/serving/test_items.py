"""Items that come and go after training, users by their ids, and items that are alike."""

from __future__ import annotations

import itertools
import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from genrec.data.text.kept_encoder import save_encoder
from genrec.data.text.tfidf import TfidfSvdEncoder
from genrec.errors import ArtifactError, ConfigError, DataError, MissingPathError
from genrec.rankers import Popularity
from genrec.serving.items import NewItems
from genrec.serving.recommender import Recommender
from genrec.serving.shelf import Shelf
from genrec.serving.stock import NothingLeft
from genrec.tokenizer.semantic_id import SemanticIdTokenizer

KINDS = "abcd"


@pytest.fixture
def recommender(run) -> Recommender:
    return Recommender.from_pretrained(run, device="cpu")


@pytest.fixture(params=["run", "item_run"])
def generative(request) -> Recommender:
    """Whatever writes IDs."""
    return Recommender.from_pretrained(request.getfixturevalue(request.param), device="cpu")


def new_vectors() -> np.ndarray:
    """One item of the first kind, one of the third."""
    return np.eye(4, 6, dtype=np.float32)[[0, 2]] * 10


def test_new_items_get_ids_of_their_kind_and_no_old_one_moves(generative):
    before = generative.recommend(["a1", "a2"], k=40)
    generative.add_items(
        [("new a", "A new one", new_vectors()[0]), ("new c", "", new_vectors()[1])]
    )
    assert generative.num_items == 34
    assert list(generative.item_keys)[-2:] == ["new a", "new c"]
    for key, kind in (("new a", "a"), ("new c", "c")):
        near = generative.similar_items(key, k=3)
        assert {found[0] for found in near.items} == {kind}
    after = generative.recommend(["a1", "a2"], k=40)
    old = [item for item in after.items if not item.startswith("new")]
    assert sorted(old) == sorted(before.items)
    if generative.path.name != "items":  # there a new item takes its share of its siblings'
        assert old == before.items
    assert len(after.items) == len(before.items) + 2
    titles = dict(zip(after.items, after.titles, strict=True))
    assert (titles["new a"], titles["new c"], titles["b1"]) == ("A new one", "new c", "title b1")
    assert len(generative.recommend(["new a", "new c"], k=5).items) == 5


def test_texts_are_embedded_by_the_encoder_that_the_run_keeps(run, tmp_path):
    words = TfidfSvdEncoder(dim=6).fit(["red", "green", "blue", "big", "small", "round"])
    shutil.copytree(run, tmp_path / "run")
    save_encoder(tmp_path / "run", words, text_template=None)
    by_text = Recommender.from_pretrained(tmp_path / "run", device="cpu")
    by_text.add_items([("new", "A new one", "green round")])
    by_vector = Recommender.from_pretrained(run, device="cpu")
    by_vector.add_items([("new", "A new one", words.encode(["green round"])[0])])
    found, expected = (r.recommend(["a1", "c2"], k=40) for r in (by_text, by_vector))
    assert "new" in found.items
    assert found.items == expected.items
    with pytest.warns(
        UserWarning, match=r"must hold words .*, got 1 without any, for example 'odd'"
    ):
        by_text.add_items([("odd", "", "zzz"), ("fine", "", "red")])


@pytest.mark.parametrize("kind", ["polars", "lazy", "pandas", "columns", "records", "matrix"])
def test_tables_of_all_kinds_are_read(recommender, kind):
    columns = {"item_id": [100, 101], "title": ["x", None], "vector": new_vectors().tolist()}
    if kind == "polars":
        recommender.add_items(pl.DataFrame(columns))
    elif kind == "lazy":
        recommender.add_items(pl.LazyFrame(columns))
    elif kind == "pandas":
        pandas = pytest.importorskip("pandas")
        recommender.add_items(pandas.DataFrame(columns | {"title": ["x", pandas.NA]}))
    elif kind == "columns":
        recommender.add_items(columns)
    elif kind == "records":
        rows = zip(*columns.values(), strict=True)
        recommender.add_items([dict(zip(columns, row, strict=True)) for row in rows])
    else:
        vectors = np.array(columns.pop("vector"))
        recommender.add_items(columns, vectors=vectors)
    assert list(recommender.item_keys)[-2:] == ["100", "101"]
    assert recommender.titles(recommender.rows([100, 101])) == ["x", "101"]


@pytest.mark.parametrize(
    ("items", "error", "message"),
    [
        ({"title": ["x"]}, DataError, "must have item_id and text or vector, got title;"),
        ([("\ud800", "x", "y")], DataError, r"item_id of new items must be .*, got '\\ud800'; re"),
        ([("x", "x", "\ud800")], DataError, r"text of new items must be text .*, got '\\ud800'"),
        (
            [(9010, "no vec")],
            DataError,
            r"or vector\), got the row \(9010, 'no vec'\) of 2, without the text or vector to em",
        ),
        ([("x", "y", "z"), 7], DataError, r"rows \(item_id, title, text or vector\), got 7 in a"),
        (7.5, DataError, r"must be a table or rows \(item_id, title, text or vector\), got "),
        ({"item_id": ["x", "x"], "text": ["1", "2"]}, DataError, "each key once, got 'x' again"),
        ({"item_id": ["x"], "text": ["1", "2"]}, DataError, "must have 1 entries, got 2"),
        ({"item_id": ["x"], "vector": [[1.0], [2.0]]}, DataError, r"must have shape \(1, D\), got"),
        ({"item_id": ["x"], "vector": [[np.nan] * 6]}, DataError, "must be finite, got NaN or Inf"),
        ({"item_id": ["x"], "vector": [[3e38] * 6]}, DataError, "length of .* got 7.35e.38"),
        ({"item_id": ["x"], "vector": [[1e300] * 6]}, DataError, "must be finite, got NaN or Inf"),
        ([("x", "x", [1e19] * 6)], DataError, "must have a length of at most 1e.18, got 2.45e.19"),
        ([("a1", "x", [0.0] * 6)], DataError, "must have new keys, got 1 that are known, the fi"),
        ([("x", "x", [0.0] * 5)], ArtifactError, r"embeddings must have shape \(N, 6\)"),
        ([("x", "x", "red polish")], ConfigError, "embedded by the run's encoder, got tfidf"),
        ({"item_id": [None], "text": ["1"]}, DataError, "item_id must hold keys .*, got None"),
    ],
)
def test_bad_new_items_are_refused(recommender, items, error, message):
    with pytest.raises(error, match=message):
        recommender.add_items(items)
    assert recommender.num_items == 32


def test_who_cannot_take_new_items_says_so(run, sasrec_run, data, tmp_path):
    new = [("x", "x", [0.0] * 6)]
    with pytest.raises(ConfigError, match="need a model of semantic IDs, got SASRec, which knows"):
        Recommender.from_pretrained(sasrec_run, device="cpu").add_items(new)
    with pytest.raises(ConfigError, match=r"in a run's folder, got popularity"):
        Recommender(Popularity.fit(data)).add_items(new)
    shutil.copytree(run, tmp_path / "old")
    shutil.rmtree(tmp_path / "old" / "quantizer")
    with pytest.raises(MissingPathError, match="need the quantiser that made the run's IDs"):
        Recommender.from_pretrained(tmp_path / "old", device="cpu").add_items(new)


@pytest.mark.parametrize("which", ["run", "sasrec_run"])
def test_removed_items_never_come_back(request, which):
    recommender = Recommender.from_pretrained(request.getfixturevalue(which), device="cpu")
    gone = ["a1", "b2"]
    recommender.remove_items(gone)
    assert recommender.num_items == 30
    histories = [["a1", "a2"], ["c1"], []]
    found = recommender.recommend(histories, k=40, exclude_seen=False)
    assert [len(items) for items in found.items] == [30] * 3
    assert not {*gone} & {item for items in found.items for item in items}
    with pytest.warns(NothingLeft, match="1 of 1 users get no item"):
        assert recommender.recommend(["c1"], k=5, allow=gone).items == []
    assert len(recommender.recommend(["c1"], k=5, allow=[*gone, "a3"]).items) == 1
    assert "b2" not in recommender.similar_items("b1", k=40).items
    with pytest.raises(DataError, match=r"not among its 32 \(2 of them removed\): 'zz'"):
        recommender.remove_items("zz")


@pytest.mark.parametrize("which", ["run", "item_run"])
def test_an_added_item_finds_the_one_of_its_vector_first(request, which, vectors, tmp_path):
    recommender = Recommender.from_pretrained(request.getfixturevalue(which), device="cpu")
    twins = {"new 1": "b1", "new 6": "b6"}
    new = [(key, "", vectors[8 + int(key[-1])]) for key in twins]
    recommender.add_items(new)
    recommender.save(tmp_path / "saved")
    for one in (recommender, Recommender.from_pretrained(tmp_path / "saved", device="cpu")):
        there = one.similar_items(list(twins), k=1)
        assert [items for (items,) in there.items] == list(twins.values())
        levels = SemanticIdTokenizer.load(tmp_path / "saved").num_levels
        assert there.flat_scores.tolist() == [levels + 1.0] * 2
        back = one.similar_items(list(twins.values()), k=1)
        assert [items for (items,) in back.items] == list(twins)


def test_items_of_no_text_are_no_twins(run):
    """A vector of zeros says nothing."""
    recommender = Recommender.from_pretrained(run, device="cpu")
    recommender.add_items([("x", "", [0.0] * 6), ("y", "", [0.0] * 6)])
    levels = SemanticIdTokenizer.load(run).num_levels
    assert recommender.similar_items("x", k=40).scores.max() < levels + 1


def test_removed_items_are_asked_about_and_never_found(recommender):
    before = recommender.similar_items("a1", k=40)
    recommender.remove_items(["a1", "a2"])
    recommender.remove_items(["a2"])
    assert recommender.num_items == 30
    after = recommender.similar_items("a1", k=40)
    assert after.items == [key for key in before.items if key != "a2"]
    with pytest.raises(DataError, match=r"not among its 32 \(2 of them removed\): 'zz'"):
        recommender.remove_items(["zz"])


def test_a_removed_item_comes_back_with_its_id(recommender):
    before = recommender.recommend(["c1"], k=40)
    recommender.remove_items({"a1"})
    with pytest.warns(
        UserWarning, match="come back with the ID and title they had, the first 'a1'"
    ):
        recommender.add_items([("a1", "", [0.0] * 6)])
    after = recommender.recommend(["c1"], k=40)
    assert after.items == before.items
    assert np.array_equal(after.scores, before.scores)


@pytest.mark.parametrize("which", ["run", "sasrec_run"])
def test_similar_items_share_codes_then_are_near(request, which):
    path = request.getfixturevalue(which)
    recommender = Recommender.from_pretrained(path, device="cpu")
    found = recommender.similar_items(["a1", "c3"], k=40)
    assert [len(items) for items in found.items] == [31, 31]
    assert all((np.diff(scores) <= 0).all() for scores in found.scores)
    assert found.to_polars().columns == ["target_item_id", "item_id", "score", "rank"]
    if which == "run":
        table = SemanticIdTokenizer.load(path)
        row_of = {key: row for row, key in enumerate(table.item_keys)}
        for target, items in zip(["a1", "c3"], found.items, strict=True):
            own = table.ids[row_of[target]]
            shared = [int((table.ids[row_of[item]] == own).cumprod().sum()) for item in items]
            assert shared == sorted(shared, reverse=True)
    alone = recommender.similar_items("a1", k=3, exclude=[found.items[0][0]])
    assert alone.items == found.items[0][1:4]
    assert recommender.similar_items(["zz"], on_unknown="ignore").items == [[]]


def test_similar_items_need_something_to_measure(data):
    with pytest.raises(ConfigError, match="need a model with semantic IDs or vectors of items"):
        Recommender(Popularity.fit(data)).similar_items("a1")


def test_users_are_found_by_their_ids(recommender, data):
    users = ["user 3", "user 0"]
    found = recommender.recommend(users=users, k=4)
    rows = [
        data.sequence_items[data.sequence_offsets[u] : data.sequence_offsets[u + 1]] for u in (3, 0)
    ]
    histories = [[data.item_keys[row] for row in own] for own in rows]
    assert found.items == recommender.recommend(histories, k=4).items
    assert found.to_polars()["user_id"].to_list() == ["user 3"] * 4 + ["user 0"] * 4
    assert recommender.recommend(users="user 3", k=4).items == found.items[0]
    with pytest.raises(DataError, match=r"got 1 that are not among its 30: 'usr 3' \(did you mea"):
        recommender.recommend(users=["usr 3"])
    with pytest.warns(UserWarning, match="users must be users of the data set, got 1 that are not"):
        late = recommender.recommend(users=["new", "user 3"], k=4, on_unknown="warn")
    assert late.popular.tolist() == [True, False]
    assert late.items[1] == found.items[0]


def test_users_need_their_data_set(run, data, tmp_path, write_data):
    shutil.copytree(run, tmp_path / "run")
    (tmp_path / "run" / "meta.json").write_text('{"evaluation": {}}')
    lonely = Recommender.from_pretrained(tmp_path / "run", device="cpu")
    for ask in (lambda: lonely.recommend(users=["user 3"]), lambda: lonely.data):
        message = r"got none \(a saved folder keeps none\); open the recommender with data=FOLDER,"
        with pytest.raises(MissingPathError, match=message):
            ask()
    other = write_data(tmp_path / "other", ["x", "y"], sequences=[[0, 1, 0]])
    with pytest.raises(ArtifactError, match="must have the items that the run was trained on"):
        Recommender.from_pretrained(run, device="cpu", data=other.path).recommend(users="user 0")
    given = Recommender.from_pretrained(tmp_path / "run", device="cpu", data=data.path)
    assert len(given.recommend(users="user 3", k=4).items) == 4


def test_users_of_a_grown_data_set_keep_their_items(run, data, tmp_path, write_data):
    """Keys are sorted, so that new ones stand between those that the run knows."""
    from genrec.trained import load_quantizer

    keys = ["a00", *data.item_keys, "d00"]
    row_of = {key: row for row, key in enumerate(keys)}
    offsets = np.asarray(data.sequence_offsets)
    moved = np.asarray(data.sequence_items) + 1
    sequences = [moved[a:b] for a, b in itertools.pairwise(offsets)]
    sequences[0] = np.append(sequences[0], row_of["d00"])
    grown = write_data(tmp_path / "grown", keys, sequences=sequences)
    with pytest.raises(
        ArtifactError, match=r"items that the run knows, got 2 .* first 'a00'; give"
    ):
        Recommender.from_pretrained(run, device="cpu", data=grown).recommend(users="user 0")
    table = SemanticIdTokenizer.load(run).add_items(
        load_quantizer(run / "quantizer"), new_vectors(), ["a00", "d00"]
    )
    recommender = Recommender.from_pretrained(run, tokenizer=table, data=grown, device="cpu")
    found = recommender.recommend(users=["user 3", "user 0"], k=4)
    histories = [[keys[row] for row in sequences[user]] for user in (3, 0)]
    assert found.items == recommender.recommend(histories, k=4).items
    added = Recommender.from_pretrained(run, data=grown, device="cpu")
    added.add_items({"item_id": ["d00", "a00"], "vector": new_vectors()[::-1].tolist()})
    assert added.recommend(users="user 3", k=4).items == found.items[0]


def test_new_items_of_a_table_have_their_titles(run, vectors, tmp_path, write_data):
    from genrec.trained import load_quantizer

    table = SemanticIdTokenizer.load(run).add_items(
        load_quantizer(run / "quantizer"), new_vectors(), ["n1", "n2"]
    )
    data = write_data(tmp_path / "data", ["n1", "zz"], item_titles=["New one", "z"])
    recommender = Recommender.from_pretrained(run, tokenizer=table, data=data, device="cpu")
    assert recommender.titles(recommender.rows(["a1", "n1", "n2"])) == ["title a1", "New one", "n2"]


def test_a_device_that_is_not_there_is_one_line(run):
    for device in ("cuda:7", "nonsense"):
        with pytest.raises(ConfigError, match=f"device must be one that .*, got {device};"):
            Recommender.from_pretrained(run, device=device)


def test_texts_and_vectors_are_told_apart():
    new = NewItems.read([("x", "", "red polish"), ("y", "Y", "")])
    assert (new.titles, new.texts, new.vectors) == (["x", "Y"], ["red polish", ""], None)
    one = NewItems.read(("x", "X", [1.0, 2.0]))
    assert one.vectors.tolist() == [[1.0, 2.0]]


def test_changes_beside_calls_are_seen_by_the_next_call(recommender):
    """Nothing is ever half there while items come and go."""
    failures, stop = [], threading.Event()

    def ask() -> None:
        while not stop.is_set():
            found = recommender.recommend([["a1", "a2"], ["c3"]], k=40, exclude_seen=False)
            if len(found.items[0]) != len({*found.items[0]}) or len({*map(len, found.items)}) > 1:
                failures.append(found.items)

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for number, vector in enumerate(new_vectors()):
            recommender.add_items([(f"n{number}", "", vector)])
            assert f"n{number}" in recommender.recommend(["a1"], k=40).items
            recommender.remove_items([f"n{number}"])
            assert f"n{number}" not in recommender.recommend(["a1"], k=40).items
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert failures == []


def test_the_longest_vectors_are_measured_rightly(run):
    recommender = Recommender.from_pretrained(run, device="cpu")
    rows = np.eye(6, dtype=np.float32)[:2] * 9.9e17
    recommender.add_items([("x", "", rows[0]), ("y", "", rows[1]), ("z", "", rows[0] / 2)])
    found = recommender.similar_items("x", k=34)
    assert np.isfinite(recommender.shelf.sketch.numpy()).all()
    assert max(found.scores) < 1 + recommender.shelf.codes.shape[1]


def test_likeness_to_an_item_of_an_overflowing_length(run):
    recommender = Recommender.from_pretrained(run, device="cpu")
    shelf = recommender.shelf
    sketch = shelf.catalogue.sketch.copy()
    sketch[0] = 3e38
    catalogue = replace(shelf.catalogue, sketch=sketch, counts=np.zeros(32, dtype=np.int64))
    odd = Recommender.of_shelf(Shelf.of(shelf.ranker, catalogue, shelf.run), recommender.users)
    assert max(odd.similar_items("a0", k=31).scores) < 1 + shelf.codes.shape[1]


def test_changes_of_several_threads_are_all_kept(recommender, monkeypatch):
    keys = list(recommender.item_keys)[:8]
    plain = Shelf.with_removed

    def slow(shelf, *given):  # gives other threads the time to go wrong
        time.sleep(0.01)
        return plain(shelf, *given)

    monkeypatch.setattr(Shelf, "with_removed", slow)
    with ThreadPoolExecutor(9) as pool:
        done = [pool.submit(recommender.remove_items, key) for key in keys]
        added = {"item_id": ["new"], "vector": new_vectors()[:1].tolist()}
        done.append(pool.submit(recommender.add_items, added))
        for each in done:
            each.result()
    left = recommender.item_keys
    here = {left[row] for row in np.flatnonzero(recommender.shelf.available)}
    assert here == {*left} - {*keys}
    assert "new" in here
