"""Search in titles."""

from __future__ import annotations

import time

import numpy as np
import pytest

from genrec.data.prepared import StringArray
from genrec.serving.http.titles import TitleIndex

TITLES = ["Red cup", "Blue cup", "CUPBOARD, red", "", "Straße\0Café", "teacup", "ﬁne tea", "Café"]


def index(titles=TITLES, counts=None) -> TitleIndex:
    counts = None if counts is None else np.array(counts)
    return TitleIndex(StringArray.from_strings(titles), counts)


@pytest.mark.parametrize(
    ("query", "rows"),
    [
        ("cup", [0, 1, 2, 5]),  # inside of a word after those that begin with it
        ("red cup", [0, 2]),
        ("CUP  Red red", [0, 2]),
        ("cups", []),
        ("strasse", [4]),
        ("cafe\u0301", [4, 7]),  # the accent as a letter of its own
        ("fine", [6]),  # a ligature
        ("strasse cafe", []),
        ("x" * 500, []),
        ("", []),
        ("\0", []),
        ("p b", [1, 2]),  # words may lie anywhere, but never reach over two titles
        ("cup blue cup", [1]),
    ],
)
def test_all_words_must_be_there(query, rows):
    assert index().find(query, 20, None).tolist() == rows


def test_what_is_taken_more_comes_first_and_what_is_gone_does_not_come():
    keep = np.array([True, False] + [True] * 6)
    assert index(counts=[1, 9, 5, 0, 0, 7, 0, 0]).find("cup", 20, None).tolist() == [1, 2, 0, 5]
    assert index(counts=[1, 9, 5, 0, 0, 7, 0, 0]).find("cup", 2, keep).tolist() == [2, 0]


def test_it_finds_what_a_walk_over_all_titles_finds():
    rng = np.random.default_rng(0)
    words = np.array(["ab", "ba", "aab", "ü", "b", "a b"])
    titles = [" ".join(words[rng.integers(0, 6, rng.integers(0, 5))]) for _ in range(300)]
    for query in ("a", "ab", "ba ü", "aab b", "b ab"):
        found = set(index(titles).find(query, 1000, None).tolist())
        expected = {at for at, title in enumerate(titles) if all(w in title for w in query.split())}
        assert found == expected


def test_no_titles():
    assert index([]).find("a", 5, None).tolist() == []
    assert index(["", ""]).find("a", 5, None).tolist() == []


def test_a_hundred_thousand_titles_take_no_time():
    rng = np.random.default_rng(0)
    words = np.array([f"word{n}" for n in range(2000)])
    titles = [" ".join(row) for row in words[rng.integers(0, 2000, (100_000, 6))]]
    known = index(titles)
    began = time.process_time()
    for query in ("word1", "word17 word3", "w", "1 2 3"):
        assert len(known.find(query, 20, None)) == 20
    assert time.process_time() - began < 2.0
