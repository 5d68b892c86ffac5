"""What the semantic IDs of a catalogue look like: use, groups, and what prefixes have in common.

Shape legend: N = items, L = levels, K = codes of a level, G = groups, V = words.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_matrix

from genrec.tokenizer.semantic_id import SemanticIdTokenizer

__all__ = ["CodeUse", "GroupWords", "IdGroup", "Prefix", "code_use", "largest_groups", "prefixes"]

Groups = npt.NDArray[np.int64]

#: More codes than this share cells of a heat map.
_MOST_CELLS = 1024
#: Items whose words are read.
_MOST_TEXTS = 50_000
#: Below this a word says next to nothing of a group.
_LEAST_SCORE = 0.1
#: A pair says more than one of its words, where this share of the items that have it have both.
_PAIR_SHARE = 0.75
#: Field names such as ``Brand:`` at the beginning of a part of a text.
_FIELD = re.compile(r"(?:^|;\s*)\w+:\s")
_PHRASE_END = re.compile(r"[;:>|,&/()\[\]]+")
_WORD = re.compile(r"\w[\w'-]+")


@dataclass(frozen=True)
class CodeUse:
    """How the codes of one level are used.

    Attributes:
        level: From 1.
        size: K.
        used: Codes with at least one item.
        perplexity: Exponential of the entropy of their shares.
        counts: Items of each cell, at most 1,024 cells.
        per_cell: Codes of a cell.
        digit: Whether the level only tells items of equal codes apart.
    """

    level: int
    size: int
    used: int
    perplexity: float
    counts: npt.NDArray[np.int64]
    per_cell: int
    digit: bool


@dataclass(frozen=True)
class Prefix:
    """A prefix and what is below it.

    Attributes:
        codes: The prefix.
        count: Items below it.
        words: Words that set its items apart, each with the share of its items that have it.
        rows: Some of its items, the most taken first.
    """

    codes: tuple[int, ...]
    count: int
    words: tuple[tuple[str, float], ...]
    rows: tuple[int, ...]


@dataclass(frozen=True)
class IdGroup:
    """Items with equal codes: the codes, how many, and some rows."""

    codes: tuple[int, ...]
    count: int
    rows: tuple[int, ...]


def code_use(table: SemanticIdTokenizer) -> list[CodeUse]:
    """Count the items of each code of each level.

    Args:
        table: The IDs.

    Returns:
        One entry a level.
    """
    found = []
    for level, size in enumerate(table.level_sizes):
        counts = np.bincount(table.ids[:, level], minlength=size)
        shares = counts[counts > 0] / max(table.num_items, 1)
        per_cell = -(-size // _MOST_CELLS)
        padded = np.pad(counts, (0, -size % per_cell))
        found.append(
            CodeUse(
                level=level + 1,
                size=size,
                used=int((counts > 0).sum()),
                perplexity=float(np.exp(-(shares * np.log(shares)).sum())),
                counts=padded.reshape(-1, per_cell).sum(axis=1),
                per_cell=per_cell,
                digit=table.has_dedup_digit and level == table.num_levels - 1,
            )
        )
    return found


def largest_groups(
    ids: npt.NDArray[np.integer[Any]], groups: Groups, *, most: int = 6, shown: int = 4
) -> list[IdGroup]:
    """List the largest groups of items with equal codes.

    Args:
        ids: Codes, shape ``(N, L)``.
        groups: Equal for items of a group, shape ``(N,)``, from 0.
        most: Groups to list.
        shown: Items to name of each.

    Returns:
        Those of two items and more, the largest first.
    """
    sizes = np.bincount(groups)
    largest = np.argsort(-sizes, kind="stable")[:most]
    found = []
    for group in largest[sizes[largest] > 1].tolist():
        rows = np.flatnonzero(groups == group)
        codes = tuple(int(code) for code in ids[rows[0]])
        found.append(IdGroup(codes, len(rows), tuple(rows[:shown].tolist())))
    return found


def prefixes(
    ids: npt.NDArray[np.integer[Any]],
    length: int,
    words: GroupWords,
    popularity: npt.NDArray[np.integer[Any]],
    *,
    most: int,
    shown: int = 4,
) -> list[Prefix]:
    """List the prefixes with the most items, and what these have in common.

    Args:
        ids: Codes, shape ``(N, L)``.
        length: Codes of a prefix.
        words: Of the items' texts.
        popularity: How often each item was taken, shape ``(N,)``.
        most: Prefixes to list.
        shown: Items to name of each.

    Returns:
        The largest first; of equal ones the lower prefix.
    """
    unique, groups, counts = np.unique(
        ids[:, :length], axis=0, return_inverse=True, return_counts=True
    )
    groups = groups.reshape(-1)
    largest = np.argsort(-counts, kind="stable")[:most]
    described = words.of(groups, only=largest)
    order = np.lexsort((-popularity, groups))  # group after group, the most taken first
    starts = np.concatenate([[0], np.cumsum(counts)])
    return [
        Prefix(
            codes=tuple(int(code) for code in unique[group]),
            count=int(counts[group]),
            words=described.get(group, ()),
            rows=tuple(order[starts[group] : starts[group] + shown][: counts[group]].tolist()),
        )
        for group in largest.tolist()
    ]


class GroupWords:
    """Finds the words and pairs of words that set the items of a group apart from all others.

    Args:
        texts: Of the items, ``N``; of more than 50,000 some are read, evenly spread.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        from sklearn.feature_extraction.text import CountVectorizer

        self.rows = np.arange(len(texts))
        if len(texts) > _MOST_TEXTS:
            self.rows = np.linspace(0, len(texts) - 1, _MOST_TEXTS).astype(np.int64)
        vectorizer = CountVectorizer(analyzer=_terms, binary=True, min_df=2, max_df=0.5)
        self.found: csr_matrix | None = None  # (N, V)
        try:
            self.found = vectorizer.fit_transform(texts[int(row)] for row in self.rows)
            self.names = vectorizer.get_feature_names_out()
        except ValueError:  # no word in two texts, and in no more than half of them
            pass

    def of(
        self, groups: Groups, *, only: Groups | None = None, most: int = 3
    ) -> dict[int, tuple[tuple[str, float], ...]]:
        """Describe groups.

        A word scores by its part in the divergence of the group's items from all: its share in
        the group times the logarithm of how much larger that is than its share overall.

        Args:
            groups: Group of each item, shape ``(N,)``, from 0.
            only: Groups to describe; all when None.
            most: Words of a group.

        Returns:
            By group, best first, each with the share of the group's items that have it; groups
            whose items have nothing in common are left out.
        """
        if self.found is None:
            return {}
        chosen = groups[self.rows]
        sizes = np.bincount(chosen)
        member = csr_matrix((np.ones(len(chosen)), (chosen, np.arange(len(chosen)))))  # (G, N)
        counts = (member @ self.found).tocoo()  # (G, V)
        share = counts.data / sizes[counts.row]
        overall = np.asarray(self.found.sum(axis=0)).ravel() / len(chosen)
        score = share * np.log(share / overall[counts.col])
        keep = (counts.data > 1) & (score > _LEAST_SCORE)
        group, word, share, score = (a[keep] for a in (counts.row, counts.col, share, score))
        # Of equal scores the pair comes first: it says more.
        alone = np.array([" " not in name for name in self.names])
        order = np.lexsort((word, alone[word], -score, group))
        group, word, share = group[order], word[order], share[order]
        starts = np.searchsorted(group, np.arange(len(sizes) + 1))
        result = {}
        described = np.unique(group)
        if only is not None:
            described = np.intersect1d(described, only)
        for number in described.tolist():
            part = slice(starts[number], min(starts[number + 1], starts[number] + 8 * most))
            named = zip(self.names[word[part]], share[part].tolist(), strict=True)
            result[number] = _without_repeats(named, most)
        return result


def _terms(text: str) -> list[str]:
    """Split a text into words and pairs of words that stand in one phrase."""
    from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

    terms = []
    for phrase in _PHRASE_END.split(_FIELD.sub("; ", text.lower())):
        words = [w for w in _WORD.findall(phrase) if w not in ENGLISH_STOP_WORDS]
        terms += [w for w in words if not w.isdecimal()]
        terms += [f"{first} {second}" for first, second in itertools.pairwise(words)]
    return terms


def _without_repeats(
    named: Iterable[tuple[str, float]], most: int
) -> tuple[tuple[str, float], ...]:
    """Keep the first words of which none says again what another says."""
    kept: list[tuple[str, float]] = []
    for name, share in named:
        parts = {_stem(word) for word in name.split()}
        clash = [k for k in kept if parts & {_stem(word) for word in k[0].split()}]
        longer = len(clash) == 1 and set(clash[0][0].split()) < set(name.split())
        if not clash:
            kept.append((name, share))
        elif longer and share >= _PAIR_SHARE * clash[0][1]:
            kept[kept.index(clash[0])] = (name, share)
        if len(kept) > most:
            break
    return tuple(kept[:most])


def _stem(word: str) -> str:
    """Cut a plural ending, so that ``nails`` is not said beside ``nail``."""
    return word[:-1] if len(word) > 3 and word.endswith("s") else word
