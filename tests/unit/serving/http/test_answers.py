"""Gathered requests get what each gets alone."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from genrec.errors import ConfigError, DataError
from genrec.serving.http.answers import Answer, Query, answer_all
from genrec.serving.recommender import Recommender

RUNS = ["run", "item_run", "sasrec_run"]


@pytest.fixture(params=RUNS)
def recommender(request) -> Recommender:
    return Recommender.from_pretrained(request.getfixturevalue(request.param), device="cpu")


def answered(recommender, *queries) -> list[Answer]:
    found = answer_all(recommender.shelf, recommender.users, queries)
    assert all(isinstance(answer, Answer) for answer in found), found
    return found


QUERIES = [
    Query(histories=[["a1", "a2"], ["b3"]], k=3),
    Query(histories=[["c1"]], k=7, exclude_seen=False),
    Query(histories=[["a1", "a2"]], k=5, exclude=["a0", "a3", "nothing"]),
    Query(histories=[["b1"], ["c1", "c2", "c3", "c4", "c5", "c6"]], k=4, allow=["a1", "c1", "c7"]),
    Query(histories=[["nothing"], []], k=2),
    Query(users=["user 3", "user 4"], k=3, exclude=["a1"]),
    Query(histories=[["d1"]], k=32),
    Query(histories=[["a5"]], k=2, allow=["b1"], exclude=["b1"]),
    Query(histories=[["a5"]], k=2, allow=[]),
]


def expected(recommender, query):
    found = recommender.recommend(
        query.histories,
        query.k,
        users=query.users,
        exclude_seen=query.exclude_seen,
        exclude=query.exclude,
        allow=query.allow,
        on_unknown="ignore",
    )
    return found.items, [scores.tolist() for scores in found.scores]


@pytest.mark.filterwarnings("ignore::genrec.serving.stock.NothingLeft")
@pytest.mark.filterwarnings("error")
def test_together_as_alone_as_the_library(recommender):
    together = answered(recommender, *QUERIES)
    for query, answer in zip(QUERIES, together, strict=True):
        (alone,) = answered(recommender, query)
        items, scores = expected(recommender, query)
        for found in (answer, alone):
            results = found.to_json()
            assert [[item["item"] for item in one["items"]] for one in results] == items
            got = [[item["score"] for item in one["items"]] for one in results]
            for ours, theirs in zip(got, scores, strict=True):
                np.testing.assert_allclose(ours, theirs, rtol=1e-5)
            ranks = [[item["rank"] for item in one["items"]] for one in results]
            assert ranks == [list(range(1, len(one) + 1)) for one in items]
    popular = [one["popular"] for answer in together for one in answer.to_json()]
    assert sum(popular) == 2  # of the fifth request
    assert together[5].to_json()[1]["user"] == "user 4"


def test_removed_items_are_given_to_nobody(recommender):
    recommender.remove_items(["a0", "b0"])
    for answer in answered(recommender, *QUERIES):
        for one in answer.to_json():
            assert not {"a0", "b0"} & {item["item"] for item in one["items"]}


def test_an_unknown_key_is_the_error_of_its_request_alone(recommender):
    bad = Query(histories=[["nothing"]], on_unknown="raise")
    worse = Query(users=["nobody"], on_unknown="raise")
    good = Query(histories=[["a1"]])
    found = answer_all(recommender.shelf, recommender.users, [bad, good, worse])
    assert isinstance(found[1], Answer)
    assert isinstance(found[0], DataError)
    assert "'nothing'" in str(found[0])
    assert isinstance(found[2], DataError)
    assert "'nobody'" in str(found[2])


def test_unknown_keys_of_histories_are_named(recommender):
    recommender.remove_items(["a0"])
    query = Query(histories=[["a1", "nothing", "a0", "nothing", 7], ["a1"], ["none"], []], k=1)
    (answer,) = answered(recommender, query)
    assert [one["unknown"] for one in answer.to_json()] == [["nothing", 7], [], ["none"], []]


def test_a_search_that_fails_fails_for_its_requests_only(recommender, monkeypatch):
    ranker = recommender.shelf.ranker

    class NeedsUsers:
        def __getattr__(self, name):
            return getattr(ranker, name)

        def rank(self, history, k, *, users=None, rules=None):
            if users is None:
                raise ConfigError("users must be given")
            return ranker.rank(history, k, users=users, rules=rules)

    shelf = recommender.shelf
    monkeypatch.setitem(shelf.__dict__, "ranker", NeedsUsers())
    queries = [Query(histories=[["a1"]]), Query(histories=[["a1"]], users=[7])]
    found = answer_all(shelf, recommender.users, queries)
    assert isinstance(found[0], ConfigError)
    assert isinstance(found[1], Answer)


@pytest.mark.parametrize("name", RUNS)
def test_why(name, request):
    recommender = Recommender.from_pretrained(request.getfixturevalue(name), device="cpu")
    history = ["a1", "b1", "a2"]
    query = Query(histories=[history, []], k=6, explain=True, exclude_seen=False)
    (answer,) = answered(recommender, query)
    results, popular = answer.to_json()
    assert all(item["why"] is None for item in popular["items"])
    codes, vectors = recommender.shelf.codes, recommender.shelf.vectors
    for item in results["items"]:
        (row,) = recommender.rows([item["item"]])
        likes = []
        for place, key in enumerate(history):
            (had,) = recommender.rows([key])
            shared = 0
            if codes is not None:
                same = (codes[row] == codes[had]).tolist()
                shared = len(list(itertools.takewhile(bool, same)))
            near = 0.0
            if vectors is not None:
                near = float(1 / (1 + torch.dist(vectors[row], vectors[had])))
            likes.append((shared, round(near, 5), place, key))
        shared, _, _, key = max(likes)
        why = item["why"]
        assert why["nearest"] == {"item": key, "title": f"title {key}"}
        assert why["shared_prefix"] == (None if codes is None else shared)
        assert item["codes"] == (None if codes is None else codes[row].tolist())


def test_whole_numbers_come_back_as_they_were_sent(run, recommender):
    (answer,) = answered(recommender, Query(histories=[[1, 2]], k=2))
    assert all(isinstance(item["item"], str) for item in answer.to_json()[0]["items"])
