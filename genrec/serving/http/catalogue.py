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

from genrec.errors import GenRecError
from genrec.serving.http.identity import identity_of
from genrec.serving.http.journal import Changes, Header, Journal, NewItem, add_line
from genrec.serving.http.refusals import Refusal
from genrec.serving.http.replay import added, marked, replayed, with_given_codes
from genrec.serving.http.titles import TitleIndex
from genrec.serving.recommender import Recommender
from genrec.serving.shelf import Shelf

__all__ = ["LiveCatalogue", "Served"]


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
        whole, kept = replayed(recommender, changes, with_codes=same_run)
        self.now = Served(whole, identity)
        if journal is not None and not same_run:
            journal.restart(self._header(self.now), kept)

    def add(self, items: Sequence[NewItem]) -> tuple[list[str], dict[str, list[str]]]:
        """Add items, which are recommended from now on.

        Args:
            items: New ones, or ones that were removed, which come back as they were; of an
                added one the new text is kept, by which a newer run embeds it.

        Returns:
            The keys of those that came back; and of these, by key, what was given for them and is
            not what they had, or cannot be compared with it: title, text, vector.

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
                recommender = added(recommender, fresh)
                fresh = with_given_codes(recommender, fresh)
            recommender = marked(recommender, back, removed=False)
            earlier = journal.changes.added
            told = [
                replace(earlier[item.item], text=item.text)
                for item, row in zip(items, rows, strict=True)
                if row >= 0 and item.text and item.item in earlier
            ]
            unused = {
                item.item: names
                for item, row in zip(items, rows, strict=True)
                if row >= 0 and (names := _unused(item, earlier.get(item.item), now.shelf, row))
            }
            self._write(journal, add_line([*fresh, *told], back))
            self._show(replace_recommender(now, recommender))
            return back, unused

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
            recommender = marked(now.recommender, [key], removed=True)
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
                whole, kept = replayed(recommender, journal.changes, with_codes=same_run)
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


def _folder(recommender: Recommender) -> Path:
    path = recommender.path
    assert path is not None  # identity_of refuses others
    return path.resolve()


def _unused(item: NewItem, earlier: NewItem | None, shelf: Shelf, row: int) -> list[str]:
    """Name what is given for an item that comes back and is not what it is known to have had."""
    had = NewItem(item.item) if earlier is None else earlier
    names = []
    if item.title is not None and item.title != shelf.catalogue.item_titles[row]:
        names.append("title")
    if item.text and item.text != had.text:
        names.append("text")
    if item.vector is not None and item.vector != had.vector:
        names.append("vector")
    return names


def _is_here(shelf: Shelf, row: int) -> bool:
    return row >= 0 and bool(shelf.available[row])


def _unwritten(error: OSError) -> Refusal:
    return Refusal(
        503,
        f"change must be on the disk before it is answered, got {error.strerror or error}; make "
        "room and start the service again",
    )
