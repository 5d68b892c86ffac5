"""Changes of items, made on a recommender: one by one, or all that a journal holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from genrec.errors import ArtifactError, GenRecError
from genrec.serving.http.journal import Changes, NewItem
from genrec.serving.items import with_known_ids
from genrec.serving.recommender import Recommender

__all__ = ["added", "marked", "replayed", "with_given_codes"]


def added(recommender: Recommender, items: Sequence[NewItem]) -> Recommender:
    """Give IDs to new items; a run of items with vectors, then one with texts, keeps its order."""
    fork = Recommender.of_shelf(recommender.shelf, recommender.users)
    begin = 0
    for end in range(1, len(items) + 1):
        by_vector = items[begin].vector is not None
        if end < len(items) and (items[end].vector is not None) == by_vector:
            continue
        part = items[begin:end]
        columns: dict[str, list[Any]] = {"item_id": [item.item for item in part]}
        columns["title"] = [item.title for item in part]
        if by_vector:
            columns["vector"] = [item.vector for item in part]
        else:
            columns["text"] = [item.text for item in part]
        fork.add_items(columns)
        begin = end
    return fork


def with_given_codes(recommender: Recommender, items: Sequence[NewItem]) -> list[NewItem]:
    """Write down the IDs and titles that new items got."""
    if not items:
        return []
    shelf = recommender.shelf
    rows = [shelf.row_of[item.item] for item in items]
    codes, sketch = shelf.catalogue.codes, shelf.catalogue.sketch
    assert codes is not None  # only a run with IDs takes new items
    sketches = [None] * len(rows) if sketch is None else sketch[rows].tolist()
    return [
        replace(item, codes=code, sketch=part, title=shelf.catalogue.item_titles[row])
        for item, code, part, row in zip(items, codes[rows].tolist(), sketches, rows, strict=True)
    ]


def marked(recommender: Recommender, keys: Sequence[str], *, removed: bool) -> Recommender:
    """Remove items that are known, or let them come back."""
    shelf = recommender.shelf
    if not keys:
        return recommender
    gone = ~shelf.available
    gone[[shelf.row_of[key] for key in keys]] = removed
    return Recommender.of_shelf(shelf.with_removed(gone, shelf.run), recommender.users)


def replayed(
    recommender: Recommender, changes: Changes, *, with_codes: bool
) -> tuple[Recommender, Changes]:
    """Make changes on a run.

    Args:
        recommender: The run, as it is on the disk.
        changes: What its service was told.
        with_codes: Whether the run is the one that gave the new items their IDs.

    Returns:
        The recommender, and the changes with the IDs that this run gives.

    Raises:
        GenRecError: If the run cannot take them.
    """
    shelf = recommender.shelf
    kept = changes.copy()
    fresh = [item for item in changes.added.values() if item.item not in shelf.row_of]
    for key in changes.added.keys() & shelf.row_of.keys():
        kept.added[key] = replace(changes.added[key], codes=None, sketch=None)
    if fresh and with_codes and all(item.codes is not None for item in fresh):
        assert shelf.run is not None
        codes = np.array([item.codes for item in fresh], dtype=np.int32)
        keys = [item.item for item in fresh]
        titles = [item.title or item.item for item in fresh]
        sketch = None
        if all(item.sketch is not None for item in fresh):
            sketch = np.array([item.sketch for item in fresh], dtype=np.float32)
        run = with_known_ids(shelf.run, keys, titles, codes, sketch)
        unseen = np.pad(~shelf.available, (0, len(fresh)))
        recommender = Recommender.of_shelf(shelf.with_removed(unseen, run), recommender.users)
    elif fresh:
        gone = [item for item in fresh if item.item in changes.removed]
        try:
            recommender = added(recommender, [_by_text(item) for item in fresh])
        except GenRecError:
            if not gone:
                raise
            # Nobody sees what was removed: it must not keep a newer run away.
            for item in gone:
                del kept.added[item.item]
            fresh = [item for item in fresh if item.item not in changes.removed]
            recommender = added(recommender, [_by_text(item) for item in fresh])
        kept.added |= {item.item: item for item in with_given_codes(recommender, fresh)}
    known = recommender.shelf.row_of
    here = [key for key in {**changes.added, **changes.returned} if key in known]
    recommender = marked(recommender, here, removed=False)  # the run may have them as removed
    gone_keys = [key for key in changes.removed if key in known]
    return marked(recommender, gone_keys, removed=True), kept


def _by_text(item: NewItem) -> NewItem:
    """Let another run embed an item: a vector is one of the older run's encoder."""
    if item.text is None:
        raise ArtifactError(
            f"item {item.item!r}, which was added with a vector of the older run's encoder and "
            "without a text; train the newer run with it, or remove it and add it with its text"
        )
    return replace(item, vector=None)
