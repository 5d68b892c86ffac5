"""The items of a service: changed one after the other, kept in the journal, replaced whole.

Shape legend: R = new items, L = levels.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from genrec.atomic import read_json
from genrec.checkpoint import resolve_step
from genrec.errors import ArtifactError, ConfigError, GenRecError
from genrec.serving.http.journal import Changes, Header, Journal, NewItem, add_line
from genrec.serving.http.refusals import Refusal
from genrec.serving.http.titles import TitleIndex
from genrec.serving.items import with_known_ids
from genrec.serving.recommender import Recommender
from genrec.serving.shelf import Shelf

__all__ = ["LiveCatalogue", "Served", "identity_of", "kind_of"]


@dataclass(frozen=True)
class Served:
    """What is served now; replaced as a whole.

    Attributes:
        recommender: Never changed; a change makes another one.
        identity: Of that run.
        changes: Number of changes since the service began.
    """

    recommender: Recommender
    identity: str
    changes: int = 0

    @property
    def shelf(self) -> Shelf:
        """All that calls read of the items."""
        return self.recommender.shelf

    @cached_property
    def titles(self) -> TitleIndex:
        """Search in the titles."""
        catalogue = self.shelf.catalogue
        return TitleIndex(catalogue.item_titles, catalogue.counts)


class LiveCatalogue:
    """The items that a service recommends, and their journal.

    A change is worked out beside what is served, written to the journal, and then shown. Searches
    go on meanwhile with what they began with.

    Args:
        recommender: The run that is served.
        started: Identity of the run that the command named.
        journal: Where changes are kept; None where nothing may be changed.

    Attributes:
        now: What is served.
    """

    def __init__(
        self, recommender: Recommender, *, started: str, journal: Journal | None = None
    ) -> None:
        self._journal, self._started = journal, started
        self._writing = threading.Lock()
        changes = Changes() if journal is None else journal.changes
        identity = identity_of(recommender)
        same_run = journal is not None and journal.header is not None
        same_run = same_run and journal.header.run == identity  # type: ignore[union-attr]
        whole, kept = _replayed(recommender, changes, with_codes=same_run)
        self.now = Served(whole, identity)
        if journal is not None and not same_run:
            journal.restart(self._header(self.now), kept)

    def add(self, items: Sequence[NewItem]) -> list[str]:
        """Add items, which are recommended from now on.

        Args:
            items: New ones, or ones that were removed, which come back as they were; of an
                added one the new text is kept, by which a newer run embeds it.

        Returns:
            The keys of those that came back.

        Raises:
            Refusal: If a key is there already, or the journal cannot be written.
            GenRecError: If the run cannot take them.
        """
        with self._writing:
            now, journal = self.now, self._open_journal()
            keys = [item.item for item in items]
            if len(set(keys)) < len(keys):
                twice = next(key for at, key in enumerate(keys) if key in keys[:at])
                raise Refusal(
                    422, f"items must have each key once, got {twice!r:.80} again; drop one"
                )
            rows = [now.shelf.row_of.get(key, -1) for key in keys]
            known = [key for key, row in zip(keys, rows, strict=True) if _is_here(now.shelf, row)]
            if known:
                raise Refusal(
                    409,
                    f"items must be new, got {len(known)} that are known, the first "
                    f"{known[0]!r:.80}; leave them out, or remove them first",
                )
            back = [key for key, row in zip(keys, rows, strict=True) if row >= 0]
            fresh = [item for item, row in zip(items, rows, strict=True) if row < 0]
            recommender = now.recommender
            if fresh:
                recommender = _added(recommender, fresh)
                fresh = _with_codes(recommender, fresh)
            recommender = _marked(recommender, back, removed=False)
            earlier = journal.changes.added
            told = [
                replace(earlier[item.item], text=item.text)
                for item, row in zip(items, rows, strict=True)
                if row >= 0 and item.text and item.item in earlier
            ]
            self._write(journal, add_line([*fresh, *told], back))
            self._show(replace_recommender(now, recommender))
            return back

    def remove(self, key: str) -> None:
        """Never recommend an item again.

        Raises:
            Refusal: If there is no such item, or the journal cannot be written.
        """
        with self._writing:
            now, journal = self.now, self._open_journal()
            if not _is_here(now.shelf, now.shelf.row_of.get(key, -1)):
                raise Refusal(
                    404, f"item must be one of the catalogue, got {key!r:.80}; check the key"
                )
            recommender = _marked(now.recommender, [key], removed=True)
            self._write(journal, {"op": "remove", "keys": [key]})
            self._show(replace_recommender(now, recommender))

    def swap(self, recommender: Recommender) -> Served:
        """Serve another run from now on, with all changes made on it too.

        Args:
            recommender: The run, ready to serve.

        Returns:
            What is served now.

        Raises:
            Refusal: If the changes cannot be made on it, or the journal cannot be written; the
                older run then stays.
        """
        with self._writing:
            journal = self._open_journal()
            identity = identity_of(recommender)
            same_run = identity == self.now.identity
            try:
                whole, kept = _replayed(recommender, journal.changes, with_codes=same_run)
            except GenRecError as error:
                raise Refusal(
                    409, f"run must take the changes made since the start, got {error}"
                ) from None
            served = Served(whole, identity, self.now.changes + 1)
            try:
                journal.restart(self._header(served), kept)
            except OSError as error:
                raise _unwritten(error) from None
            self._show(served)
            return served

    def close(self) -> None:
        """Wait for a change in progress and let go of the journal."""
        with self._writing:
            if self._journal is not None:
                self._journal.close()

    def _show(self, served: Served) -> None:
        self.now = served  # one assignment: a reader sees the old or the new, whole

    def _header(self, served: Served) -> Header:
        return Header(served.identity, str(_folder(served.recommender)), self._started)

    def _open_journal(self) -> Journal:
        if self._journal is None:
            raise Refusal(403, "changes must have a journal, got none; start with a token")
        return self._journal

    @staticmethod
    def _write(journal: Journal, line: dict[str, Any]) -> None:
        try:
            journal.append(line)
        except OSError as error:
            raise _unwritten(error) from None


def replace_recommender(served: Served, recommender: Recommender) -> Served:
    """Serve the same run with other items."""
    return replace(served, recommender=recommender, changes=served.changes + 1)


def identity_of(recommender: Recommender) -> str:
    """Compute a digest of a run's weights, items and IDs, 16 hexadecimal digits."""
    run = recommender.shelf.run
    if run is None:
        raise ConfigError("a service needs a run's folder, got a recommender that came from none")
    step = resolve_step(run.path)
    files = step / "files.json"
    weights = step / "model.safetensors"
    about = [
        read_json(files).get("seal") if files.is_file() else _digest(weights),
        run.catalogue.items_fingerprint,
        "" if run.table is None else run.table.fingerprint,
        [] if run.catalogue.removed is None else np.flatnonzero(run.catalogue.removed).tolist(),
    ]
    return xxhash.xxh3_64_hexdigest(repr(about).encode())


def kind_of(recommender: Recommender) -> str:
    """Name the class of the model."""
    run = recommender.shelf.run
    return type(recommender.ranker if run is None else run.model).__name__


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        digest = xxhash.xxh3_64()
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def _folder(recommender: Recommender) -> Path:
    path = recommender.path
    assert path is not None  # identity_of refuses others
    return path.resolve()


def _is_here(shelf: Shelf, row: int) -> bool:
    return row >= 0 and bool(shelf.available[row])


def _added(recommender: Recommender, items: Sequence[NewItem]) -> Recommender:
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


def _with_codes(recommender: Recommender, items: Sequence[NewItem]) -> list[NewItem]:
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


def _marked(recommender: Recommender, keys: Sequence[str], *, removed: bool) -> Recommender:
    """Remove items that are known, or let them come back."""
    shelf = recommender.shelf
    if not keys:
        return recommender
    gone = ~shelf.available
    gone[[shelf.row_of[key] for key in keys]] = removed
    return Recommender.of_shelf(shelf.with_removed(gone, shelf.run), recommender.users)


def _replayed(
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
            recommender = _added(recommender, [_by_text(item) for item in fresh])
        except GenRecError:
            if not gone:
                raise
            # Nobody sees what was removed: it must not keep a newer run away.
            for item in gone:
                del kept.added[item.item]
            fresh = [item for item in fresh if item.item not in changes.removed]
            recommender = _added(recommender, [_by_text(item) for item in fresh])
        kept.added |= {item.item: item for item in _with_codes(recommender, fresh)}
    known = recommender.shelf.row_of
    here = [key for key in {**changes.added, **changes.returned} if key in known]
    recommender = _marked(recommender, here, removed=False)  # the run may have them as removed
    gone_keys = [key for key in changes.removed if key in known]
    return _marked(recommender, gone_keys, removed=True), kept


def _by_text(item: NewItem) -> NewItem:
    """Let another run embed an item: a vector is one of the older run's encoder."""
    if item.text is None:
        raise ArtifactError(
            f"item {item.item!r}, which was added with a vector of the older run's encoder and "
            "without a text; train the newer run with it, or remove it and add it with its text"
        )
    return replace(item, vector=None)


def _unwritten(error: OSError) -> Refusal:
    return Refusal(
        503,
        f"change must be on the disk before it is answered, got {error.strerror or error}; make "
        "room and start the service again",
    )
