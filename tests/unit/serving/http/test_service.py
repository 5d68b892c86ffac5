"""The service behind the routes: items that come and go, runs that are swapped, restarts."""

from __future__ import annotations

import asyncio
import shutil

import numpy as np
import pytest
import torch

from genrec.checkpoint import RunDirectory
from genrec.data.text.kept_encoder import save_encoder
from genrec.data.text.tfidf import TfidfSvdEncoder
from genrec.errors import ArtifactError, ConfigError, MissingPathError
from genrec.serving.http.answers import Query
from genrec.serving.http.journal import NewItem
from genrec.serving.http.refusals import Refusal
from genrec.serving.http.service import Service, Source
from genrec.serving.http.settings import ServiceSettings
from genrec.serving.recommender import Recommender
from genrec.trained import load_trained

NEAR_A = [9.0, 0.5, 0.0, 0.0, 0.0, 0.0]
NEAR_C = [0.0, 0.0, 9.0, 0.0, 0.5, 0.0]


def items_for(service, *history, k=40) -> list[str]:
    answer = asyncio.run(service.recommend(Query(histories=[list(history)], k=k)))
    return [item["item"] for item in answer.to_json()[0]["items"]]


def state(service) -> list:
    """All that a change moves."""
    now = service.now
    keys = list(now.recommender.item_keys)
    titles = now.recommender.titles(np.arange(len(keys)))
    codes, sketch = now.shelf.catalogue.codes, now.shelf.catalogue.sketch
    assert sketch is not None
    assert np.isfinite(sketch).all()
    known = [keys, titles, now.shelf.available.tolist(), sketch.tolist()]
    return [*known, None if codes is None else codes.tolist()]


@pytest.fixture
def journal(tmp_path):
    return tmp_path / "shop.journal"


@pytest.mark.parametrize("name", ["run", "item_run"])
def test_items_come_and_go_at_once_and_survive(name, request, open_service, journal):
    run = request.getfixturevalue(name)
    service = open_service(run, journal=journal)
    added = service.add([NewItem("x/1", "New", vector=NEAR_A), NewItem("x2", vector=NEAR_C)])
    assert added == {"added": ["x/1", "x2"], "returned": [], "unused": {}, "num_items": 34}
    assert {"x/1", "x2"} <= set(items_for(service, "a1"))
    service.remove("x2")
    made = service.now.shelf.codes, service.now.shelf.row_of
    service.remove("a1")
    assert service.now.shelf.codes is made[0]  # the items are the same: nothing is made again
    assert service.now.shelf.row_of is made[1]
    service.remove("a3")
    assert not {"x2", "a1", "a3"} & set(items_for(service, "b1"))
    again = service.add(
        [NewItem("a3", "Another title", text="ignored"), NewItem("x3", vector=NEAR_C)]
    )
    unused = {"a3": ["title", "text"]}
    assert again == {"added": ["x3"], "returned": ["a3"], "unused": unused, "num_items": 33}
    assert service.item("a3")["title"] == "title a3"
    before, answers = state(service), items_for(service, "a2", "c1")
    service.close()
    service = open_service(run, journal=journal)
    assert state(service) == before
    assert items_for(service, "a2", "c1") == answers
    assert service.info()["version"] == service.now.identity


def test_what_cannot_be_done_changes_nothing(open_service, run, journal):
    service = open_service(run, journal=journal)
    before, size = state(service), journal.stat().st_size
    refused = [
        (409, "known, the first 'a1'", [NewItem("x", vector=NEAR_A), NewItem("a1", vector=NEAR_A)]),
        (422, "each key once, got 'x'", [NewItem("x", vector=NEAR_A), NewItem("x", vector=NEAR_A)]),
    ]
    for status, message, items in refused:
        with pytest.raises(Refusal, match=message) as caught:
            service.add(items)
        assert caught.value.status == status
    with pytest.raises(ArtifactError):
        service.add([NewItem("x", vector=[1.0, 2.0])])
    with pytest.raises(ConfigError, match="text"):
        service.add([NewItem("x", text="red cup")])  # the run keeps no encoder
    with pytest.raises(Refusal, match="'nothing'") as caught:
        service.remove("nothing")
    assert caught.value.status == 404
    service.remove("b1")
    with pytest.raises(Refusal, match="'b1'"):
        service.remove("b1")
    service.add([NewItem("b1", text="")])
    assert state(service) == before
    assert journal.stat().st_size > size


@pytest.mark.parametrize(
    ("again", "unused"),
    [
        ({"title": "Cup", "text": "red", "vector": NEAR_A}, []),
        ({"text": "red"}, []),
        ({"vector": NEAR_A}, []),
        ({"title": "Mug", "vector": NEAR_A}, ["title"]),
        ({"title": "Cup", "text": "blue"}, ["text"]),
        ({"title": "Mug", "text": "blue", "vector": NEAR_C}, ["title", "text", "vector"]),
    ],
)
def test_what_is_changed_of_an_item_that_comes_back_is_told(
    open_service, run, journal, again, unused
):
    service = open_service(run, journal=journal)
    service.add([NewItem("x", "Cup", text="red", vector=NEAR_A)])
    before = state(service)
    service.remove("x")
    told = service.add([NewItem("x", **again)])
    assert told["returned"] == ["x"]
    assert told["unused"] == ({"x": unused} if unused else {})
    assert state(service) == before


def test_a_change_that_is_not_on_the_disk_is_not_shown(open_service, run, journal, monkeypatch):
    service = open_service(run, journal=journal)
    before = state(service)

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(Refusal, match="No space left") as caught:
        service.remove("a1")
    assert caught.value.status == 503
    assert state(service) == before


def test_a_model_without_ids_takes_no_new_items_but_lets_them_go(open_service, sasrec_run, journal):
    service = open_service(sasrec_run, journal=journal)
    with pytest.raises(ConfigError, match="semantic IDs"):
        service.add([NewItem("x", vector=NEAR_A)])
    service.remove("a1")
    before = state(service)
    service.close()
    assert state(open_service(sasrec_run, journal=journal)) == before


def with_encoder(run, path):
    """A run that can embed texts by itself."""
    shutil.copytree(run, path)
    words = TfidfSvdEncoder(dim=6).fit(["red", "green", "blue", "big", "small", "round"])
    save_encoder(path, words, text_template=None)
    return path


def newer(run, path, seed=1):
    """The same shop, trained again: other weights."""
    with_encoder(run, path)
    model = load_trained(run).model
    torch.manual_seed(seed)
    weights = {
        name: torch.randn_like(value) * 0.1 if value.is_floating_point() else value
        for name, value in model.state_dict().items()
    }
    RunDirectory(path).save(
        6, weights=weights, config=model.saved_config(), pointers=("best", "latest")
    )
    return path


def test_a_swap_keeps_the_changes_and_a_restart_keeps_the_swap(
    open_service, run, journal, tmp_path
):
    newer(run, tmp_path / "models" / "newer")
    service = open_service(run, journal=journal, models=tmp_path / "models")
    service.add([NewItem("x", "New", text="green round", vector=NEAR_A)])
    service.remove("b1")
    first, old = items_for(service, "a1"), service.info()["version"]
    info = service.swap("newer")
    assert info["version"] != old
    swapped = items_for(service, "a1")
    assert swapped != first
    assert "x" in swapped
    assert "b1" not in swapped
    service.remove("x")
    before = state(service)
    service.close()
    said = []
    again = Service(
        Source(run=str(run), device="cpu", journal=journal), ServiceSettings(), say=said.append
    )
    assert state(again) == before
    assert again.info()["version"] == info["version"]
    assert "newer, which was swapped in" in said[0]
    again.close()
    direct = open_service(tmp_path / "models" / "newer", journal=journal)
    assert state(direct) == before


def test_items_known_by_a_vector_alone_do_not_move_to_another_run(
    open_service, run, journal, tmp_path
):
    newer(run, tmp_path / "newer")
    service = open_service(run, journal=journal, models=tmp_path)
    service.add([NewItem("x", vector=NEAR_A)])
    before = state(service)
    with pytest.raises(Refusal, match="item 'x'") as caught:
        service.swap("newer")
    assert caught.value.status == 409
    assert state(service) == before
    assert service.swap(None)["version"] == service.now.identity  # the same run is read again
    assert state(service) == before


def test_removed_items_do_not_keep_a_newer_run_away(
    open_service, run, sasrec_run, journal, tmp_path
):
    newer(run, tmp_path / "newer")
    shutil.copytree(sasrec_run, tmp_path / "sasrec")
    service = open_service(run, journal=journal, models=tmp_path)
    service.add([NewItem("x", vector=NEAR_A), NewItem("y", text="green", vector=NEAR_C)])
    service.remove("x")
    service.swap("newer")
    assert "y" in items_for(service, "a1")
    added = service.add([NewItem("x", text="red")])
    assert (added["added"], added["num_items"]) == (["x"], 34)
    before = state(service)
    service.close()
    service = open_service(run, journal=journal, models=tmp_path)
    assert state(service) == before
    with pytest.raises(Refusal, match="semantic IDs"):
        service.swap("sasrec")
    service.remove("x")
    service.remove("y")
    assert service.swap("sasrec")["num_items"] == 32  # it knows no IDs and takes no items
    before = state(service)
    service.close()
    assert state(open_service(run, journal=journal, models=tmp_path)) == before


def test_a_text_given_to_an_item_that_comes_back_is_for_a_newer_run(
    open_service, run, journal, tmp_path
):
    newer(run, tmp_path / "newer")
    service = open_service(run, journal=journal, models=tmp_path)
    service.add([NewItem("x", "Cup", vector=NEAR_A)])
    before = state(service)
    with pytest.raises(Refusal, match="remove it and add it with its text"):
        service.swap("newer")
    service.remove("x")
    back = service.add([NewItem("x", "Other", text="red round")])
    assert (back["returned"], back["unused"]) == (["x"], {"x": ["title", "text"]})
    assert state(service) == before
    service.close()
    service = open_service(run, journal=journal, models=tmp_path)
    assert state(service) == before
    service.swap("newer")
    assert service.item("x")["title"] == "Cup"
    assert "x" in items_for(service, "a1")


def test_wrong_paths_leave_the_model(open_service, run, sasrec_run, journal, tmp_path):
    models = tmp_path / "models"
    (models / "empty").mkdir(parents=True)
    shutil.copytree(run, tmp_path / "outside")
    (models / "link").symlink_to(tmp_path / "outside")
    shutil.copytree(run, models / "damaged")
    (models / "damaged" / "best").write_text("step_9")
    shutil.rmtree(models / "damaged" / "step_5")
    service = open_service(run, journal=journal, models=models)
    old = service.info()
    for path in (
        "empty",
        "damaged",
        "gone",
        "link",
        "../outside",
        str(tmp_path / "outside"),
        "a\0b",
    ):
        with pytest.raises(Refusal) as caught:
            service.swap(path)
        assert caught.value.status == 422
        assert service.info() == old
    shutil.copytree(sasrec_run, models / "sasrec")
    assert service.swap("sasrec")["kind"] == "SasRec"
    alone = open_service(run)
    with pytest.raises(Refusal, match="--models") as caught:
        alone.swap("sasrec")
    assert caught.value.status == 403


def test_a_journal_of_another_run_is_refused_unless_adopted(
    open_service, run, item_run, journal, tmp_path
):
    service = open_service(run, journal=journal)
    service.add([NewItem("x", text="green", vector=NEAR_A)])
    service.remove("a1")
    service.close()
    with pytest.raises(ArtifactError, match="--adopt"):
        open_service(item_run, journal=journal)
    other = with_encoder(item_run, tmp_path / "other")
    adopted = open_service(other, journal=journal, adopt=True)
    assert "x" in items_for(adopted, "a2")
    assert "a1" not in items_for(adopted, "a2")
    adopted.close()
    assert "x" in items_for(open_service(other, journal=journal), "a2")


def test_a_run_that_was_swapped_in_and_is_gone(open_service, run, journal, tmp_path):
    newer(run, tmp_path / "models" / "newer")
    service = open_service(run, journal=journal, models=tmp_path / "models")
    service.swap("newer")
    service.close()
    shutil.rmtree(tmp_path / "models" / "newer")
    with pytest.raises(MissingPathError, match=r"newer.*--adopt"):
        open_service(run, journal=journal)
    newer(run, tmp_path / "models" / "newer", seed=2)
    with pytest.raises(ArtifactError, match="--adopt"):
        open_service(run, journal=journal)
    assert open_service(run, journal=journal, adopt=True).info()["num_items"] == 32


def test_beams_stay_after_a_change(open_service, run, journal, sasrec_run):
    service = open_service(run, journal=journal, num_beams=3)
    service.add([NewItem("x", vector=NEAR_A)])
    assert service.now.recommender.ranker.num_beams == 3
    with pytest.raises(ConfigError, match="num_beams"):
        open_service(sasrec_run, num_beams=3)


def test_search_and_likeness_do_not_show_what_is_gone(open_service, run, journal):
    service = open_service(run, journal=journal)
    assert [item["item"] for item in service.find("title a1", 5)] == ["a1"]
    assert [item["item"] for item in service.find("b2", 5)] == ["b2"]
    assert len(service.find("title", 100)) == 32
    near = [item["item"] for item in service.similar("a1", 3)]
    service.remove(near[0])
    service.add([NewItem("x", "Brand new", vector=NEAR_A)])
    assert service.find(near[0], 5) == []
    assert [item["item"] for item in service.find("brand", 5)] == ["x"]
    assert near[0] not in [item["item"] for item in service.similar("a1", 40)]
    instead = [item["item"] for item in service.similar(near[0], 40)]
    assert "a1" in instead  # what is gone may be asked about, and is never found
    assert near[0] not in instead
    with pytest.raises(Refusal, match="'nothing'") as caught:
        service.similar("nothing", 3)
    assert caught.value.status == 404


def test_users(open_service, run, data):
    service = open_service(run)
    assert service.info()["num_users"] == 30
    shown = service.random_user()
    user = list(data.user_keys).index(shown["user"])
    begin, end = data.sequence_offsets[user], data.valid_ends[user]
    rows = data.sequence_items[begin:end]
    assert [item["item"] for item in shown["history"]] == [data.item_keys[row] for row in rows]
    assert shown["next"]["item"] == data.item_keys[data.sequence_items[end]]


def test_without_a_data_set_nobody_can_be_named(open_service, run, tmp_path, write_data):
    import json

    moved = shutil.copytree(run, tmp_path / "moved")
    meta = json.loads((moved / "meta.json").read_text())
    (moved / "meta.json").write_text(json.dumps({**meta, "prepared": "gone"}))
    service = open_service(moved)
    assert service.info()["num_users"] == 0
    with pytest.raises(Refusal) as caught:
        service.random_user()
    assert caught.value.status == 404
    with pytest.raises(MissingPathError, match="data set"):
        asyncio.run(service.recommend(Query(users=["user 1"])))
    other = write_data(tmp_path / "other", ["z"], None, [[0]])
    with pytest.raises(ArtifactError, match="data set"):
        open_service(moved, data=other.path)


@pytest.mark.parametrize(
    ("name", "value"),
    [("max_batch", 0), ("timeout_s", 0.0), ("queue_users", 1), ("drain_s", np.inf)],
)
def test_settings_out_of_range(name, value):
    with pytest.raises(ConfigError, match=name):
        ServiceSettings(**{name: value})


def test_a_saved_recommender_is_served_too(open_service, run, tmp_path, journal):
    recommender = Recommender.from_pretrained(run, device="cpu")
    recommender.add_items([("x", "New", np.array(NEAR_A, dtype=np.float32))])
    recommender.remove_items(["a1"])
    service = open_service(recommender.save(tmp_path / "saved"), journal=journal)
    found = items_for(service, "a2")
    assert "x" in found
    assert "a1" not in found
    service.remove("x")
    service.close()
    again = open_service(tmp_path / "saved", journal=journal)
    assert not {"x", "a1"} & set(items_for(again, "a2"))


def saved_without(run, path, *keys):
    """A folder of ``save`` with items removed."""
    recommender = Recommender.from_pretrained(run, device="cpu")
    recommender.remove_items(list(keys))
    return recommender.save(path)


def test_what_the_run_has_as_removed_comes_back_for_good(open_service, run, tmp_path, journal):
    saved = saved_without(run, tmp_path / "models" / "saved", "a1", "a3", "b1")
    saved_without(newer(run, tmp_path / "new"), tmp_path / "models" / "newer", "a1", "a3")
    service = open_service(saved, journal=journal, models=tmp_path / "models")
    assert service.add([NewItem("a1", text="")])["returned"] == ["a1"]
    service.add([NewItem("a3", text="")])
    service.remove("a3")
    service.remove("a5")
    before = state(service)

    def check(service):
        assert service.item("a1")["item"] == "a1"
        assert "a1" in items_for(service, "a2")
        assert not {"a3", "a5"} & set(items_for(service, "a2"))

    check(service)
    service.close()
    service = open_service(saved, journal=journal, models=tmp_path / "models")
    assert state(service) == before
    check(service)
    service.swap("newer")
    check(service)
    service.close()
    check(open_service(saved, journal=journal, models=tmp_path / "models"))


def test_an_added_item_that_a_newer_run_has_as_removed_stays(open_service, run, tmp_path, journal):
    trained = Recommender.from_pretrained(run, device="cpu")
    trained.add_items([("x", "New", np.array(NEAR_A)), ("y", "New", np.array(NEAR_C))])
    trained.remove_items(["x", "y"])
    trained.save(tmp_path / "newer")
    service = open_service(run, journal=journal, models=tmp_path)
    service.add([NewItem("x", vector=NEAR_A), NewItem("y", vector=NEAR_C)])
    service.remove("y")
    service.swap("newer")
    before = state(service)
    assert service.item("x")["title"] == "New"
    assert "x" in items_for(service, "a1")
    assert "y" not in items_for(service, "a1")
    service.close()
    assert state(open_service(run, journal=journal, models=tmp_path)) == before


def test_an_empty_journal_is_said(run, journal):
    said = []
    source = Source(run=str(run), device="cpu", journal=journal)
    for content, lines in ((None, 0), (b"", 1)):
        if content is not None:
            journal.write_bytes(content)
        Service(source, ServiceSettings(), say=said.append).close()
        assert len(said) == lines
    assert "taken as new, it is empty" in said[0]
    assert str(journal) in said[0]
