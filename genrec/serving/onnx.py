"""Recommendations by onnxruntime: opens what ``genrec export --onnx`` wrote, without torch.

Shape legend: B = users, K = results, N = items.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from genrec.atomic import read_json
from genrec.data.catalogue import Catalogue
from genrec.data.prepared import StringArray
from genrec.data.user_hashes import hash_users
from genrec.decoding.array_search import ArrayRules, top_items
from genrec.digests import verify
from genrec.errors import ArtifactError, ConfigError, MissingPathError
from genrec.serving.keys import Key, read_lists, whole_number
from genrec.serving.onnx_ranker import OnnxRanker
from genrec.serving.recommendations import Recommendations
from genrec.serving.request import Request, read_beams
from genrec.serving.stock import Stock, Unknown

__all__ = ["FORMAT", "VERSION", "OnnxRecommender"]

Keys = Iterable[Key]
Rows = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]

FORMAT = "genrec-onnx"
VERSION = 1

_FIX = "export the run again"
_MOST_SCORES = 1 << 26  # of all users of a batch: 256 MB


class OnnxRecommender:
    """Finds the next items of users as :class:`~genrec.serving.recommender.Recommender` does.

    It needs numpy, onnxruntime and xxhash, and one folder. Items cannot be added; export the run
    again. All methods may be called from several threads.

    Args:
        ranker: What ranks.
        catalogue: The items.
        meta: What the folder says of itself.
        threads: Batches that are searched side by side.

    Attributes:
        ranker: What ranks.
        meta: What the folder says of itself: precision, the check against torch, the run.
    """

    def __init__(
        self, ranker: OnnxRanker, catalogue: Catalogue, meta: Mapping[str, Any], *, threads: int
    ) -> None:
        self.ranker, self.meta, self.threads = ranker, meta, threads
        self._stock = Stock(catalogue)
        counts = catalogue.counts
        self._counts = None if counts is None else np.asarray(counts, dtype=np.float32)

    @classmethod
    def from_pretrained(
        cls, path: str | os.PathLike[str], *, threads: int | None = None
    ) -> OnnxRecommender:
        """Open what ``genrec export --onnx`` wrote.

        Args:
            path: The folder, at any place.
            threads: Batches of users that are searched side by side, one core each; as many as
                there are cores, or as ``OMP_NUM_THREADS`` says, when None.

        Returns:
            The recommender.

        Raises:
            MissingPathError: If the folder is not there.
            ArtifactError: If it is damaged, or another kind of folder.
            ConfigError: If onnxruntime is not installed, or ``threads`` is below 1.
        """
        folder = Path(path)
        threads = _num_cores() if threads is None else whole_number(threads, "threads", usual=2)
        if not (folder / "meta.json").is_file():
            raise MissingPathError(
                f"folder must be one of `genrec export --onnx`, got {folder} without meta.json; "
                "check the path"
            )
        meta = read_json(folder / "meta.json")
        found = (meta.get("format"), meta.get("version")) if isinstance(meta, dict) else None
        if found != (FORMAT, VERSION):
            raise ArtifactError(
                f"folder must have format {FORMAT} version {VERSION}, got {found} in {folder}; "
                "give one of `genrec export --onnx`"
            )
        verify(folder, meta, what="exported model", fix=_FIX)
        catalogue = Catalogue.load(folder)
        if catalogue is None:
            raise ArtifactError(f"exported model must hold catalogue/, got {folder}; {_FIX}")
        try:
            ranker = OnnxRanker(folder, meta, Stock(catalogue).available)
        except (KeyError, OSError, TypeError, ValueError) as error:
            if isinstance(error, (ArtifactError, ConfigError)):
                raise
            raise ArtifactError(
                f"exported model must be complete, got {folder} with {error}; {_FIX}"
            ) from error
        return cls(ranker, catalogue, meta, threads=threads)

    @property
    def item_keys(self) -> StringArray:
        """The catalogue's own item ids, ``N``; removed items keep their place."""
        return self._stock.catalogue.item_keys

    @property
    def num_items(self) -> int:
        """Number of items that may be recommended."""
        return int(self._stock.available.sum())

    def __repr__(self) -> str:
        kind = f"{self.ranker.name} by onnxruntime, {self.meta['precision']}"
        return f"OnnxRecommender({self.num_items:,} items, {kind})"

    def recommend(
        self,
        histories: Keys | Iterable[Keys] | None = None,
        k: int = 10,
        *,
        users: Key | Keys | None = None,
        exclude_seen: bool = True,
        exclude: Keys | Iterable[Keys] | None = None,
        allow: Keys | Iterable[Keys] | None = None,
        on_unknown: str = "raise",
        num_beams: int | None = None,
        batch_size: int | None = None,
    ) -> Recommendations:
        """Find the items that users will most likely want next.

        Args:
            histories: Item keys of one user, oldest first; or one such list for each of several
                users; as for :meth:`~genrec.serving.recommender.Recommender.recommend`, likewise
                the rest.
            k: Items for each user, >= 1.
            users: The users' own ids, one or as many as histories; needed by models with user
                tokens.
            exclude_seen: Leave out the items of the history, all of them.
            exclude: Item keys to leave out, for everybody or a list for each user.
            allow: The only item keys to choose from, likewise.
            on_unknown: ``raise``, ``warn`` or ``ignore`` where an item is not known.
            num_beams: Beams of the search, >= 1; those of the run when None.
            batch_size: Users searched at once; when None up to 128, fewer where histories are long.

        Returns:
            Items, scores, titles and rows.

        Raises:
            DataError: If keys are unknown or are no keys, or lists for each user are not as many
                as histories.
            ConfigError: If a number is out of range, beams are set for a model without them, or a
                model with user tokens gets no users.
        """
        stock, ranker = self._stock, self.ranker
        request = Request.read(
            stock,
            histories,
            k,
            users=users,
            exclude_seen=exclude_seen,
            exclude=exclude,
            allow=allow,
            on_unknown=on_unknown,
        )
        num_beams = read_beams(num_beams, ranker.name, searches=ranker.index is not None)
        if ranker.num_users and request.names is None:
            raise ConfigError(
                f"users must be given to a model with {ranker.num_users} user tokens, got none; "
                "pass the users' own ids"
            )
        if batch_size is not None:
            batch_size = whole_number(batch_size, "batch_size", usual=32)
        rows, scores = self._rank_all(request, num_beams, batch_size)
        return request.answer(stock, rows, scores, popular=self._counts is not None)

    def _rank_all(
        self, request: Request, num_beams: int | None, batch_size: int | None
    ) -> tuple[Rows, Floats]:
        """Rank for all users in batches of like length; rows and scores, both ``(B, K)``."""
        count = len(request.rows.lengths)
        items = np.full((count, request.k), -1, dtype=np.int64)
        scores = np.full((count, request.k), -np.inf, dtype=np.float32)
        hashes: Rows | None = None
        if request.names is not None:
            hashes = hash_users(StringArray.from_strings(str(name) for name in request.names))

        def answer(batch: tuple[Rows, bool]) -> None:
            part, known = batch
            rules = ArrayRules(
                *request.limits.of(part, request.seen if known else None), request.limits.mask
            )
            if known:
                given = request.rows.padded(part, self.ranker.max_history)
                users = None if hashes is None else hashes[part]
                found = self.ranker.rank(
                    given, request.k, rules=rules, users=users, num_beams=num_beams
                )
            elif self._counts is not None:
                wide = np.broadcast_to(self._counts, (len(part), len(self._counts)))
                found = top_items(wide, request.k, self.ranker.with_available(rules))
            else:
                return
            items[part], scores[part] = found

        # Where all items are scored, the scores of a batch must find room.
        few = max(1, _MOST_SCORES // max(1, len(self.item_keys)))
        searches = self.ranker.index is not None
        batches = [
            (part[at : at + size], known)
            for part, known in request.batches(self.ranker.max_history, batch_size)
            for size in [len(part) if known and searches else few]
            for at in range(0, len(part), size)
        ]
        if len(batches) < 2 or self.threads < 2:
            for batch in batches:
                answer(batch)
        else:
            with ThreadPoolExecutor(min(self.threads, len(batches))) as pool:
                list(pool.map(answer, batches))
        return items, scores

    def rows(self, keys: Keys, *, on_unknown: str = "raise") -> Rows:
        """Look item keys up; as :meth:`~genrec.serving.recommender.Recommender.rows`."""
        return self._stock.look_up(read_lists(keys, "keys"), "keys", Unknown(on_unknown)).rows

    def titles(self, rows: Sequence[int] | npt.NDArray[np.integer[Any]]) -> list[str]:
        """Name rows of the catalogue for a person."""
        names = self._stock.catalogue.item_titles
        return [names[int(row)] for row in rows]


def _num_cores() -> int:
    """Count the cores that this process may use, or as many as the user wants used."""
    wanted = os.environ.get("OMP_NUM_THREADS", "")
    if wanted.isdecimal() and int(wanted):
        return int(wanted)
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
