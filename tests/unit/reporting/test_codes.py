from __future__ import annotations

import numpy as np
import pytest

from genrec.reporting.codes import GroupWords, code_use, largest_groups, prefixes
from genrec.tokenizer.semantic_id import SemanticIdTokenizer

TEXTS = [
    *["Title: red nail polish; Brand: OPI; Kind: Nails > Nail Polish"] * 3,
    "Title: blue nail polish; Brand: OPI; Kind: Nails > Nail Polish",
    *["Title: hair brush; Kind: Hair Care"] * 4,
    "",
    "Title: 12 34",
]
GROUPS = np.array([0, 0, 0, 0, 1, 1, 1, 1, 2, 2])


def test_words_set_a_group_apart():
    words = GroupWords(TEXTS).of(GROUPS)
    assert set(words) == {0, 1}
    assert ("nail polish", 1.0) in words[0]
    assert "opi" in dict(words[0])
    assert {"title", "kind", "nail", "nails", "polish"}.isdisjoint(dict(words[0]))
    assert "hair brush" in dict(words[1])
    assert all(len(found) <= 3 for found in words.values())


def test_shares_are_those_of_the_group():
    texts = ["apple pie", "apple tart", "pear", "plum", "fig", "date", "kiwi", "lime"]
    groups = np.array([0, 0, 0, 0, 1, 1, 1, 1])
    assert GroupWords(texts).of(groups) == {0: (("apple", 0.5),)}


@pytest.mark.parametrize("texts", [[""] * 4, ["same"] * 4, ["a", "b", "c", "d"], []])
def test_texts_that_say_nothing(texts):
    assert GroupWords(texts).of(np.zeros(len(texts), dtype=np.int64)) == {}


def test_words_of_other_scripts_are_words():
    texts = ["лак для ногтей", "лак красный", "щётка", "расчёска", "爪 油", "爪 油 红"]
    words = GroupWords(texts).of(np.array([0, 0, 1, 1, 2, 2]))
    assert words[0][0] == ("лак", 1.0)


def test_the_largest_prefixes_come_first_with_what_is_taken_most():
    ids = np.array([[1, 0], [1, 1], [1, 1], [0, 2], [0, 2], [3, 0]])
    popularity = np.array([1, 5, 7, 2, 2, 9])
    found = prefixes(ids, 1, GroupWords([""] * 6), popularity, most=2, shown=2)
    assert [(one.codes, one.count, one.rows) for one in found] == [
        ((1,), 3, (2, 1)),
        ((0,), 2, (3, 4)),
    ]
    pairs = prefixes(ids, 2, GroupWords([""] * 6), popularity, most=9, shown=9)
    assert [(one.codes, one.count) for one in pairs[:2]] == [((0, 2), 2), ((1, 1), 2)]
    assert pairs[-1].rows == (5,)


def test_use_of_codes_is_counted_and_binned():
    table = SemanticIdTokenizer([[0, 2999], [0, 1], [1, 0], [1, 2]], level_sizes=(4, 3000))
    first, second = code_use(table)
    assert first.counts.tolist() == [2, 2, 0, 0]
    assert (first.used, first.size, first.per_cell) == (2, 4, 1)
    assert first.perplexity == pytest.approx(2.0)
    assert second.per_cell == 3
    assert len(second.counts) == 1000
    assert second.counts.sum() == 4
    assert (second.counts[0], second.counts[-1]) == (3, 1)
    assert not second.digit


def test_the_largest_groups_have_two_items_at_least():
    ids = np.array([[0, 1], [2, 2], [0, 1], [1, 1], [2, 2], [0, 1]])
    groups = np.array([0, 2, 0, 1, 2, 0])
    found = largest_groups(ids, groups, shown=2)
    assert [(one.codes, one.count, one.rows) for one in found] == [
        ((0, 1), 3, (0, 2)),
        ((2, 2), 2, (1, 4)),
    ]
    assert largest_groups(ids, np.arange(6)) == []
