"""A table of semantic IDs for the page: use, collisions, prefixes, and where the items lie.

Shape legend: N = items, L = levels, D = width of the vectors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from genrec.data.prepared import PreparedDataset, StringArray
from genrec.errors import ArtifactError, MissingPathError
from genrec.reporting.codes import (
    CodeUse,
    GroupWords,
    IdGroup,
    Prefix,
    code_use,
    largest_groups,
    prefixes,
)
from genrec.reporting.subject import Missing, Subject, attempt
from genrec.tokenizer.semantic_id import SemanticIdTokenizer
from genrec.trained import QUANTIZER_NAME, load_quantizer, quantizer_inputs

__all__ = ["Collisions", "IdView", "Map", "view_ids"]

#: Items that a page holds; of a larger catalogue some are drawn, evenly spread.
MOST_ITEMS = 20_000
_MAP_SIZE = 1000  # units of a map's side


@dataclass(frozen=True)
class Collisions:
    """Items that share an ID, before the policy told them apart and after.

    Attributes:
        sizes: Numbers of items that a group can have, in words.
        before: Items in groups of each size before.
        after: Likewise after.
        groups: The largest groups before.
    """

    sizes: tuple[str, ...]
    before: tuple[int, ...]
    after: tuple[int, ...]
    groups: tuple[IdGroup, ...]


@dataclass(frozen=True)
class Map:
    """Where items lie in the plane.

    Attributes:
        x: Of the items on the page, whole numbers from 0 to 1,000.
        y: Likewise.
        explained: Share of the vectors' variance that the plane shows.
        dimension: Width of the vectors.
    """

    x: npt.NDArray[np.int64]
    y: npt.NDArray[np.int64]
    explained: float
    dimension: int


@dataclass(frozen=True)
class IdView:
    """What the page shows of a table of semantic IDs.

    Attributes:
        key: Of the table, for links inside the page.
        names: Runs that have it.
        table: The table.
        titles: Of the items, ``N``.
        use: Of each level.
        collisions: Before and after the policy.
        first: The largest prefixes of one code.
        second: Those of two codes; empty where there is one level only.
        words: Of every first code, by code.
        rows: The items that the page holds, ascending.
        place: Where they lie.
    """

    key: str
    names: tuple[str, ...]
    table: SemanticIdTokenizer
    titles: StringArray
    use: tuple[CodeUse, ...]
    collisions: Collisions | Missing
    first: tuple[Prefix, ...]
    second: tuple[Prefix, ...]
    words: dict[int, str]
    rows: npt.NDArray[np.int64]
    place: Map | Missing

    def title(self, row: int) -> str:
        """Name an item for a person; by its key where it has no title."""
        return self.titles[row] or self.table.item_keys[row]


def view_ids(
    subject: Subject, data: PreparedDataset | None, *, names: Sequence[str], key: str
) -> IdView:
    """Look at the semantic IDs of a run.

    Args:
        subject: The run, which has some.
        data: The data set, or None where it is not at hand; its items need not be the table's.
        names: Runs that have these IDs.
        key: See :class:`IdView`.

    Returns:
        What the page shows.
    """
    table = subject.table
    assert table is not None
    same = data is not None and data.items_fingerprint == table.items_fingerprint
    known = data if same else None
    catalogue = None if subject.trained is None else subject.trained.catalogue
    titles, counts = table.item_keys, None
    if catalogue is not None:
        titles, counts = catalogue.item_titles, catalogue.counts
    if known is not None:
        titles = known.item_titles
        counts = np.bincount(known.sequence_items, minlength=table.num_items)
    popularity = np.zeros(table.num_items, dtype=np.int64) if counts is None else np.array(counts)
    words = GroupWords(titles if known is None else known.item_texts)
    levels = table.num_levels - table.has_dedup_digit
    ids = np.asarray(table.ids)
    rows = np.arange(table.num_items)
    if len(rows) > MOST_ITEMS:
        rows = np.linspace(0, len(rows) - 1, MOST_ITEMS).astype(np.int64)
    codes, groups = np.unique(ids[:, 0], return_inverse=True)
    described = words.of(groups.reshape(-1))
    return IdView(
        key=key,
        names=tuple(names),
        table=table,
        titles=titles,
        use=tuple(code_use(table)),
        collisions=attempt(_collisions, subject, table, known),
        first=tuple(prefixes(ids, 1, words, popularity, most=9)),
        second=tuple(prefixes(ids, 2, words, popularity, most=6)) if levels > 1 else (),
        words={
            int(codes[group]): ", ".join(word for word, _ in found)
            for group, found in described.items()
        },
        rows=rows,
        place=attempt(_map, subject, known, rows),
    )


def _quantizer_folder(subject: Subject) -> Path:
    """Find what made a run's IDs."""
    folder = subject.path if subject.is_stage_one else subject.path / QUANTIZER_NAME
    if not folder.is_dir():
        raise MissingPathError(
            f"the codes before repair need the quantiser that made them, got {subject.path} "
            f"without {QUANTIZER_NAME}/; train the run again from a stage-one run"
        )
    return folder


def _collisions(
    subject: Subject, table: SemanticIdTokenizer, data: PreparedDataset | None
) -> Collisions:
    """Group the items by their codes before and after the policy."""
    ids = np.asarray(table.ids)
    if table.policy in ("none", "imported", "dedup_token"):
        before = table
        ids = ids[:, : table.num_levels - table.has_dedup_digit]
    else:
        if data is None:
            raise MissingPathError(
                f"the codes before {table.policy} need the data set with the items' vectors, got "
                "none of these items; name it with --data"
            )
        before = SemanticIdTokenizer.build(
            load_quantizer(_quantizer_folder(subject)),
            quantizer_inputs(subject.path, data),
            policy="none",
        )
        ids = before.ids
    after = SemanticIdTokenizer(table.ids, level_sizes=table.level_sizes)
    groups = before.base_groups()
    counts = [np.bincount(found) for found in (groups, after.base_groups())]
    edges = [1, 2, 3, 4, 5, 9, 17, 1 << 62]
    words = ["1, alone", "2", "3", "4", "5 to 8", "9 to 16", "17 or more"]
    totals = [np.histogram(sizes, edges, weights=sizes)[0].astype(np.int64) for sizes in counts]
    last = max(int(np.flatnonzero(total).max(initial=0)) for total in totals) + 1
    found_before, found_after = (tuple(total[:last].tolist()) for total in totals)
    groups_shown = tuple(largest_groups(ids, groups))
    return Collisions(tuple(words[:last]), found_before, found_after, groups_shown)


def _map(subject: Subject, data: PreparedDataset | None, rows: npt.NDArray[Any]) -> Map:
    """Lay the items' vectors, those that the quantiser reads, into the plane."""
    from sklearn.decomposition import PCA

    if data is None:
        raise MissingPathError(
            "the map needs the data set with the items' vectors, got none of these items; name it "
            "with --data"
        )
    vectors = np.asarray(quantizer_inputs(subject.path, data)[rows], dtype=np.float32)
    width = min(2, *vectors.shape)
    if len(vectors) < 3 or width < 2 or not np.isfinite(vectors).all():
        raise ArtifactError(
            f"the map needs three items with two numbers each, got vectors of shape {vectors.shape}"
        )
    pca = PCA(2, random_state=0)
    places = pca.fit_transform(vectors)  # (N, 2)
    # One outlier must not press all others into a corner.
    low, high = np.quantile(places, [0.001, 0.999], axis=0)
    room = 0.2 * (high - low)
    low = np.maximum(places.min(axis=0), low - room)
    high = np.minimum(places.max(axis=0), high + room)
    scaled = np.clip((places - low) / np.maximum(high - low, 1e-12), 0, 1) * _MAP_SIZE
    x, y = np.rint(scaled).astype(np.int64).T
    explained = float(np.nan_to_num(pca.explained_variance_ratio_).sum())
    return Map(x, y, explained, vectors.shape[1])
