"""What a service does, without HTTP: one object behind all its routes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from genrec.errors import ArtifactError, ConfigError, GenRecError, MissingPathError
from genrec.serving.http.answers import Answer, Query, answer_all
from genrec.serving.http.batcher import Batcher
from genrec.serving.http.catalogue import LiveCatalogue, Served
from genrec.serving.http.identity import identity_of, kind_of
from genrec.serving.http.journal import Journal, NewItem
from genrec.serving.http.refusals import Refusal
from genrec.serving.http.settings import MAX_HISTORY, ServiceSettings
from genrec.serving.http.sources import Source, fits
from genrec.serving.recommender import Recommender

__all__ = ["Service", "Source"]

#: Fewer users than this are not worth a thread of their own: each operation costs too much.
_LEAST_SHARE = 12


class Service:
    """Recommends from a run that is open, and changes its items.

    All methods but :meth:`recommend` block and may be called from several threads.

    Args:
        source: Where everything is.
        settings: Numbers.
        observe: Told of each search: number of requests, number of users, seconds.
        say: Told what an operator should know, one line each.

    Raises:
        GenRecError: If the run, the data set or the journal cannot be used.
    """

    def __init__(
        self,
        source: Source,
        settings: ServiceSettings,
        *,
        observe: Callable[[int, int, float], None] = lambda requests, users, seconds: None,
        say: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.source, self.settings = source, settings
        self._observe = observe
        self._swapping = threading.Lock()
        # The run first: what cannot be served leaves no lock beside it.
        recommender = source.open(source.run)
        started = identity_of(recommender)
        if source.data is not None:
            recommender.users.open(recommender.shelf)  # refuses here, not at a request
        journal = None if source.journal is None else Journal(source.journal)
        try:
            if journal is not None and journal.dropped:
                say(f"journal {journal.path}: dropped {journal.dropped} bytes of a torn last line")
            if journal is not None and journal.empty:
                say(f"journal {journal.path}: taken as new, it is empty (0 bytes)")
            if journal is not None and journal.header is not None:
                recommender = self._resumed(journal, recommender, started, say)
            self.catalogue = LiveCatalogue(recommender, started=started, journal=journal)
        except BaseException:
            if journal is not None:
                journal.close()
            raise
        threads = torch.get_num_threads() if recommender.ranker.device.type == "cpu" else 1
        self._batcher: Batcher[Query, Answer] = Batcher(
            self._search,
            max_users=settings.max_batch,
            wait_s=settings.batch_wait_ms / 1000,
            queue_users=settings.queue_users,
            threads=threads,
            least_share=max(_LEAST_SHARE, settings.max_batch // threads),
            begin=lambda: torch.set_num_threads(1),
        )

    @property
    def now(self) -> Served:
        """What is served now."""
        return self.catalogue.now

    @property
    def num_waiting(self) -> int:
        """Users that wait for a search."""
        return self._batcher.num_waiting

    async def recommend(self, query: Query) -> Answer:
        """Recommend, in one search with what else is asked for now.

        Raises:
            GenRecError: If the request names what is not known.
            QueueFull: If too many wait.
            TimeoutError: If it takes too long.
        """
        return await self._batcher.submit(query, self.settings.timeout_s)

    def item(self, key: str) -> dict[str, Any]:
        """Describe an item.

        Raises:
            Refusal: If it is none of the catalogue.
        """
        return _described(self.now, self._row(self.now, key))

    def similar(self, key: str, k: int) -> list[dict[str, Any]]:
        """Find the items nearest to one, which may be a removed one: what there is instead of it.

        Raises:
            Refusal: If the run does not know it, or the model knows no likeness.
        """
        now = self.now
        if key not in now.shelf.row_of:
            raise _no_item(key)
        try:
            found = now.recommender.similar_items(key, k)
        except ConfigError as error:
            raise Refusal(409, str(error)) from None
        ranked = zip(found.items, found.titles, found.scores.tolist(), strict=True)
        return [
            {"item": item, "title": title, "score": score, "rank": rank}
            for rank, (item, title, score) in enumerate(ranked, start=1)
        ]

    def find(self, query: str, limit: int) -> list[dict[str, str]]:
        """Find items by words of their titles; the item whose key it is comes first."""
        now = self.now
        catalogue, available = now.shelf.catalogue, now.shelf.available
        rows = now.titles.find(query, limit, available).tolist()
        own = now.shelf.row_of.get(query.strip(), -1)
        if own >= 0 and available[own]:
            rows = [own, *(row for row in rows if row != own)][:limit]
        return [{"item": catalogue.item_keys[r], "title": catalogue.item_titles[r]} for r in rows]

    def random_user(self) -> dict[str, Any]:
        """Show a user of the data set: what he had up to the split, and what he took next.

        Of a history that is longer than a request may be, the newest items.

        Raises:
            Refusal: If there is no data set, or nobody took anything after the split.
        """
        now = self.now
        try:
            data = now.recommender.data
        except GenRecError as error:
            raise Refusal(404, str(error)) from None
        ends = np.asarray(data.sequence_offsets[1:])
        cuts = np.asarray(data.valid_ends)
        tested = np.flatnonzero((cuts < ends) & (cuts > np.asarray(data.sequence_offsets[:-1])))
        if len(tested) == 0:
            raise Refusal(404, "data set must have users with a held-out item, got none")
        user = int(np.random.default_rng().choice(tested))
        begin, cut = int(data.sequence_offsets[user]), int(cuts[user])
        items = data.sequence_items[max(begin, cut - MAX_HISTORY) : cut + 1]
        *had, taken = now.recommender.users.rows(np.asarray(items)).tolist()
        return {
            "user": data.user_keys[user],
            "history": [_named(now, row) for row in had],
            "next": _named(now, taken),
        }

    def add(self, items: Sequence[NewItem]) -> dict[str, Any]:
        """Add items; see :meth:`LiveCatalogue.add`."""
        back, unused = self.catalogue.add(items)
        added = [item.item for item in items if item.item not in set(back)]
        count = self.now.recommender.num_items
        return {"added": added, "returned": back, "unused": unused, "num_items": count}

    def remove(self, key: str) -> dict[str, Any]:
        """Remove an item; see :meth:`LiveCatalogue.remove`."""
        self.catalogue.remove(key)
        return {"removed": key, "num_items": self.now.recommender.num_items}

    def swap(self, path: str | None) -> dict[str, Any]:
        """Serve a newer run; requests in progress end on the older one.

        Args:
            path: Its folder, below the one that is allowed; None reads the service's run again.

        Returns:
            See :meth:`info`.

        Raises:
            Refusal: If it may not be served, or cannot; the older run then stays.
        """
        folder = self.source.allowed(path)
        if not self._swapping.acquire(blocking=False):
            raise Refusal(
                409,
                "one model is swapped in at a time, got another request; try again later",
                headers={"Retry-After": "5"},
            )
        try:
            self.catalogue.swap(self.source.open(folder))
        except GenRecError as error:
            raise Refusal(422, f"{error} (the older model is still served)") from None
        finally:
            self._swapping.release()
        return self.info()

    def info(self) -> dict[str, Any]:
        """Describe what is served."""
        now = self.now
        shelf = now.shelf
        meta = {} if shelf.run is None else shelf.run.meta
        levels = shelf.catalogue.level_sizes
        return {
            "model": now.recommender.ranker.name,
            "kind": kind_of(now.recommender),
            "version": now.identity,
            "changes": now.changes,
            "dataset": meta.get("dataset"),
            "num_items": now.recommender.num_items,
            "num_users": now.recommender.data.num_users if fits(now.recommender) else 0,
            "levels": None if levels is None else list(levels),
            "max_history": now.recommender.ranker.max_history,
            "device": str(now.recommender.ranker.device),
        }

    def close(self) -> None:
        """Answer what waits, then let go of everything."""
        self._batcher.close()
        self.catalogue.close()

    def _search(self, queries: Sequence[Query]) -> list[Answer | Exception]:
        now = self.now  # one state for the whole search
        begin = time.perf_counter()
        answers = answer_all(now.shelf, now.recommender.users, queries)
        self._observe(
            len(queries), sum(query.num_users for query in queries), time.perf_counter() - begin
        )
        return answers

    def _row(self, now: Served, key: str) -> int:
        row = now.shelf.row_of.get(key, -1)
        if row < 0 or not now.shelf.available[row]:
            raise _no_item(key)
        return row

    def _resumed(
        self, journal: Journal, recommender: Recommender, started: str, say: Callable[[str], None]
    ) -> Recommender:
        """Go on with the run that the service went on with before it ended."""
        header = journal.header
        assert header is not None
        if started == header.run or self.source.adopt:
            return recommender
        if started != header.started:
            raise ArtifactError(
                f"journal must belong to the run, got {journal.path} of another one, "
                f"{header.path}; name another --journal, or make its changes on this run with "
                "--adopt"
            )
        try:
            newer = self.source.open(header.path)
        except GenRecError as error:
            raise MissingPathError(
                f"run that was swapped in must still be there, got {header.path} with: {error}; "
                "put it back, or go on with the one named here with --adopt"
            ) from None
        if identity_of(newer) != header.run:
            raise ArtifactError(
                f"run that was swapped in must be as it was, got another one in {header.path}; "
                "name it instead and pass --adopt"
            )
        say(f"serving {header.path}, which was swapped in for {self.source.run}")
        return newer


def _no_item(key: str) -> Refusal:
    return Refusal(404, f"item must be one of the catalogue, got {key!r:.80}; check the key")


def _named(now: Served, row: int) -> dict[str, str]:
    catalogue = now.shelf.catalogue
    return {"item": catalogue.item_keys[row], "title": catalogue.item_titles[row]}


def _described(now: Served, row: int) -> dict[str, Any]:
    catalogue = now.shelf.catalogue
    codes, counts = catalogue.codes, catalogue.counts
    return {
        **_named(now, row),
        "codes": None if codes is None else codes[row].tolist(),
        "count": None if counts is None else int(counts[row]),
    }
