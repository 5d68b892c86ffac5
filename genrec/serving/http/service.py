"""What a service does, without HTTP: one object behind all its routes."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from genrec.errors import ArtifactError, ConfigError, GenRecError, MissingPathError
from genrec.serving.http.answers import Answer, Query, answer_all
from genrec.serving.http.batcher import Batcher
from genrec.serving.http.catalogue import LiveCatalogue, Served, identity_of, kind_of
from genrec.serving.http.journal import Journal, NewItem
from genrec.serving.http.refusals import Refusal
from genrec.serving.http.settings import MAX_HISTORY, ServiceSettings
from genrec.serving.ranking import with_beams
from genrec.serving.recommender import Recommender
from genrec.serving.shelf import Shelf

__all__ = ["Service", "Source"]

#: Fewer users than this are not worth a thread of their own: each operation costs too much.
_LEAST_SHARE = 12


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where a service finds what it serves.

    Attributes:
        run: The run's folder, or a name on the hub.
        data: Prepared data set of the users who may be named; the run's own when None.
        device: Where to compute; a GPU where there is one when None.
        num_beams: Beams of the search; those of the run when None.
        models: Folder below which a newer run may be swapped in; None for ``run`` alone.
        journal: File that keeps the changes; None where nothing may be changed.
        adopt: Make the changes of another run's journal on ``run``.
    """

    run: str
    data: Path | None = None
    device: str | None = None
    num_beams: int | None = None
    models: Path | None = None
    journal: Path | None = None
    adopt: bool = False

    def open(self, path: str | os.PathLike[str]) -> Recommender:
        """Open a run as this service serves it, ready to answer at once.

        Raises:
            GenRecError: If it cannot be served.
        """
        recommender = Recommender.from_pretrained(path, data=self.data, device=self.device)
        if self.data is not None and str(path) != self.run and not _fits(recommender):
            recommender = Recommender.from_pretrained(path, device=self.device)
        recommender = _with_beams(recommender, self.num_beams)
        shelf = recommender.shelf
        if shelf.catalogue.num_items:
            key = shelf.catalogue.item_keys[0]
            answers = answer_all(shelf, recommender.users, [Query(histories=[[key]], users=[key])])
            if isinstance(answers[0], Exception):
                raise answers[0]
        return recommender


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
        on_cpu = recommender.ranker.device.type == "cpu"
        self._batcher: Batcher[Query, Answer] = Batcher(
            self._search,
            max_users=settings.max_batch,
            wait_s=settings.batch_wait_ms / 1000,
            queue_users=settings.queue_users,
            threads=torch.get_num_threads() if on_cpu else 1,
            least_share=_LEAST_SHARE,
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
        had = data.sequence_items[max(begin, cut - MAX_HISTORY) : cut]
        return {
            "user": data.user_keys[user],
            "history": [_named(now, int(row)) for row in had],
            "next": _named(now, int(data.sequence_items[cut])),
        }

    def add(self, items: Sequence[NewItem]) -> dict[str, Any]:
        """Add items; see :meth:`LiveCatalogue.add`."""
        back = self.catalogue.add(items)
        added = [item.item for item in items if item.item not in set(back)]
        return {"added": added, "returned": back, "num_items": self.now.recommender.num_items}

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
        folder = self._allowed(path)
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
            "num_users": now.recommender.data.num_users if _fits(now.recommender) else 0,
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

    def _allowed(self, path: str | None) -> Path | str:
        """Find a folder that may be served."""
        if path is None or path == self.source.run:
            return self.source.run
        root = self.source.models
        if root is None:
            raise Refusal(
                403, f"path must be left out, got {path!r}; start the service with --models"
            )
        try:
            folder = (root / path).resolve()
            inside = folder.is_relative_to(root.resolve()) and folder.is_dir()
        except (OSError, RuntimeError, ValueError):  # too long, a circle of links, a NUL
            inside = False
        if not inside:
            raise Refusal(
                422, f"path must be a run's folder below the one of --models, got {path!r}"
            )
        return folder

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


def _fits(recommender: Recommender) -> bool:
    """Whether there is a data set whose users may be named."""
    try:
        return recommender.data.num_users >= 0
    except (ArtifactError, MissingPathError):
        return False


def _with_beams(recommender: Recommender, num_beams: int | None) -> Recommender:
    """Search with another number of beams, after later changes of the items too."""
    run = recommender.shelf.run
    if num_beams is None or run is None:
        return recommender
    with_beams(run.ranker, num_beams)  # refuses a model without beams, and no beams
    options = {**run.options, "num_beams": num_beams}
    run = replace(run, options=options, ranker=run.model.ranker(run.catalogue, options))
    return Recommender.of_shelf(Shelf.of(run.ranker, run.catalogue, run), recommender.users)


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
