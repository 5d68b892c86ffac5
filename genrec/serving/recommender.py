"""Recommendations from a trained run, by the catalogue's own item ids.

Shape legend: B = users, S = history items, K = results, N = items.
"""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from genrec.data.catalogue import Catalogue
from genrec.data.prepared import PreparedDataset, StringArray
from genrec.device import pick_device
from genrec.errors import ArtifactError, ConfigError, DataError, MissingPathError
from genrec.rankers import Ranker
from genrec.serving.items import NewItems, with_items
from genrec.serving.keys import Key, KeyLists, given_as_numbers, read_keys, read_lists, whole_number
from genrec.serving.pretrained import fetch, push, save_run
from genrec.serving.ranking import rank_all, with_beams
from genrec.serving.recommendations import Recommendations
from genrec.serving.request import Request
from genrec.serving.shelf import Shelf, Users
from genrec.serving.stock import Limits, Unknown, depth_of_caller
from genrec.tokenizer.semantic_id import SemanticIdTokenizer
from genrec.trained import Trained, load_trained

__all__ = ["Recommender"]

#: Held while a recommender's shelf is exchanged; one for all, as locks cannot be copied.
_EXCHANGE = threading.Lock()

Keys = Iterable[Key]
Rows = npt.NDArray[np.int64]


class Recommender:
    """Finds the next items of users, given what they had before.

    Items go in and come out by the catalogue's own ids (ASIN, movie id, ...). A run's folder is
    all that it needs, whatever model the run trained. All methods may be called from several
    threads; a change of the items is seen by the calls that begin after it.

    Args:
        ranker: Whatever recommends.
        item_titles: What to show a person, ``N``; the keys when None.
        counts: How often each item was taken, shape ``(N,)``: what users without history get.
        data: The data set whose users may be named; None for none.

    Attributes:
        ranker: Whatever recommends now.
        item_keys: The catalogue's own item ids, ``N``, items added since included.
        num_items: Number of items ``N``, without the removed ones.

    Example:
        >>> from genrec.rankers import Popularity
        >>> counts = np.array([5, 9])
        >>> recommender = Recommender(Popularity(StringArray.from_strings(["a", "b"]), counts))
        >>> items, scores = recommender.recommend(["a"], k=3)
        >>> items, scores.tolist()
        (['b'], [9.0])
    """

    def __init__(
        self,
        ranker: Ranker,
        *,
        item_titles: Sequence[str] | None = None,
        counts: npt.NDArray[np.integer[Any]] | None = None,
        data: PreparedDataset | None = None,
    ) -> None:
        keys = ranker.item_keys
        titles = keys if item_titles is None else StringArray.from_strings(item_titles)
        known = None if counts is None else np.asarray(counts, dtype=np.int64)
        self._shelf = Shelf.of(ranker, Catalogue(keys, titles, counts=known))
        self._users = Users(data)

    @classmethod
    def from_pretrained(
        cls,
        path: str | os.PathLike[str],
        *,
        tokenizer: SemanticIdTokenizer | None = None,
        data: PreparedDataset | str | os.PathLike[str] | None = None,
        device: torch.device | str | None = None,
        revision: str | None = None,
        token: str | None = None,
    ) -> Recommender:
        """Open a run of any training that recommends, a saved recommender, or one of the hub.

        Args:
            path: A folder, of which the best step is used; or a name like ``owner/name`` on the
                Hugging Face hub.
            tokenizer: The run's ID table with new items added, which then are recommended too;
                None takes the run's own.
            data: A prepared data set: its users may be named, and new items of ``tokenizer``
                get its titles. When None, that of the run where it is still at its place.
            device: Where to compute; a GPU where there is one when None.
            revision: Branch, tag or commit on the hub.
            token: Of the hub, for private places; None takes the one of ``hf auth login``.

        Returns:
            The recommender.

        Raises:
            MissingPathError: If the run, or the data set that was named, is not there.
            ArtifactError: If a file of it is damaged, or ``tokenizer`` does not go on from its
                table.
            ConfigError: If there is no such device.
        """
        folder = fetch(path, revision=revision, token=token)
        if data is not None and not isinstance(data, PreparedDataset):
            data = PreparedDataset.load(data)
        run = load_trained(folder, device=pick_device(device), table=tokenizer, titles_from=data)
        shelf = Shelf.of(run.ranker, run.catalogue, run)
        return cls.of_shelf(shelf, Users(data, run.meta.get("prepared")))

    @classmethod
    def of_shelf(cls, shelf: Shelf, users: Users) -> Recommender:
        """Make a recommender that begins with another's items; later changes are its own."""
        recommender = cls.__new__(cls)
        recommender._shelf, recommender._users = shelf, users
        return recommender

    @property
    def shelf(self) -> Shelf:
        """All that calls read of the items now; replaced as a whole, never changed."""
        return self._shelf

    @property
    def users(self) -> Users:
        """The users who may be named."""
        return self._users

    @property
    def ranker(self) -> Ranker:
        """Whatever recommends now; another one once items were added."""
        return self._shelf.ranker

    @property
    def item_keys(self) -> StringArray:
        """The catalogue's own item ids, ``N``; removed items keep their place."""
        return self._shelf.catalogue.item_keys

    @property
    def num_items(self) -> int:
        """Number of items that may be recommended."""
        return int(self._shelf.available.sum())

    @property
    def path(self) -> Path | None:
        """The run's folder; None for a recommender that came from no run."""
        run = self._shelf.run
        return None if run is None else run.path

    @property
    def data(self) -> PreparedDataset:
        """The data set whose users may be named.

        Raises:
            MissingPathError: If there is none.
            ArtifactError: If it has other items.
        """
        return self._users.open(self._shelf)

    def __repr__(self) -> str:
        shelf = self._shelf
        place = f", {self.path}" if self.path is not None else ""
        return (
            f"Recommender({self.num_items:,} items, {shelf.ranker.name} on {shelf.ranker.device}"
            f"{place})"
        )

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

        Lists, tuples, numpy arrays and columns of pandas or polars are taken alike. A user
        without any known item gets what is popular, and is marked so in the result's
        ``popular``; where the run does not know what is popular, nothing.

        Args:
            histories: Item keys of one user, oldest first; or one such list for each of several
                users. None takes those of ``users`` from the data set, whole. Only the newest
                items count, as many as in training.
            k: Items for each user, >= 1. Where the lists leave fewer, a user gets fewer.
            users: The users' own ids, one or as many as histories; needed by models with user
                tokens.
            exclude_seen: Leave out the items of the history, all of them.
            exclude: Item keys to leave out, for everybody or a list for each user.
            allow: The only item keys to choose from, likewise. What is excluded stays out.
            on_unknown: What to do with items and users that are not known: ``raise``, ``warn``
                and go on without them, or ``ignore`` them.
            num_beams: Beams of the search, >= 1; those of the run when None. More beams come
                closer to the exact ranking and cost more. Only for models that search.
            batch_size: Users searched at once; when None up to 256, on a CPU fewer where histories
                are long.

        Returns:
            Items, scores, titles and rows; scores are log-probabilities of the items' IDs where
            the model generates them.

        Raises:
            DataError: If keys are unknown or are no keys, or lists for each user are not as many
                as histories.
            ConfigError: If a number is out of range, beams are set for a model without them, or a
                model with user tokens gets no users.
        """
        shelf = self._shelf
        request = Request.read(
            shelf,
            histories,
            k,
            users=users,
            exclude_seen=exclude_seen,
            exclude=exclude,
            allow=allow,
            on_unknown=on_unknown,
            histories_of=lambda names, unknown: self._users.histories(names, shelf, unknown),
        )
        ranker = with_beams(shelf.ranker, num_beams)
        if batch_size is not None:
            batch_size = whole_number(batch_size, "batch_size", usual=32)
        mask = shelf.mask_with(request.limits.mask)
        rows, scores = rank_all(ranker, shelf.popular, request, mask, batch_size)
        return request.answer(shelf, rows, scores, popular=shelf.popular is not None)

    def similar_items(
        self,
        items: Key | Keys,
        k: int = 10,
        *,
        exclude: Keys | None = None,
        allow: Keys | None = None,
        on_unknown: str = "raise",
    ) -> Recommendations:
        """Find the items nearest to others, by their IDs and then by their vectors.

        The more codes two IDs share from the first on, the nearer; then the distance of the
        vectors counts: the model's own where it has some, else the quantiser's. Of an item that
        nobody took in training, as added ones, only the text is known: items of the same text
        vector count as sharing all codes at no distance. A removed item may be asked about, so
        that a shop can show what there is instead, and is never among the results.

        Args:
            items: One item key, or several.
            k: Items for each, >= 1; never the item itself.
            exclude: Item keys to leave out.
            allow: The only item keys to choose from.
            on_unknown: As in :meth:`recommend`.

        Returns:
            Scores are the number of shared codes plus ``1 / (1 + distance)``: from 0 to one more
            than there are levels, and 2.4 means two codes in common. An item that is not known
            has no results.

        Raises:
            DataError: If a key is unknown.
            ConfigError: If the model knows neither IDs nor vectors of items.
        """
        shelf = self._shelf
        unknown = Unknown(on_unknown)
        k = min(whole_number(k, "k", usual=10), shelf.catalogue.num_items)
        keys, many = read_keys(items, "items")
        flat = KeyLists(keys, np.arange(len(keys) + 1), True)
        rows = shelf.look_up(flat, "items", unknown)
        only = None if allow is None else read_lists(allow, "allow")
        out = None if exclude is None else read_lists(exclude, "exclude")
        limits = Limits.read(only, out, shelf, unknown, 1, many=False)
        found = shelf.nearest(rows, k, shelf.mask_with(limits.mask))
        popular = np.zeros(len(keys), dtype=bool)
        return shelf.answer(
            *found,
            owners=keys,
            popular=popular,
            many=many,
            whole_numbers=given_as_numbers(keys),
            owner_name="target_item_id",
        )

    def add_items(self, items: Any, *, vectors: npt.NDArray[Any] | None = None) -> None:
        """Add items, which are recommended from the next call on; no model is trained.

        They get IDs from the run's quantiser; no old ID moves. An item that was removed comes
        back as it was, with a warning that its new title, text or vector is not used.

        Args:
            items: A table of polars or pandas, or columns by name: ``item_id``, ``title`` where
                there is one, and ``text`` or ``vector``. Or rows ``(item_id, title, text)`` or
                ``(item_id, title, vector)``. Texts must be made as those of the data set were,
                and vectors by its encoder.
            vectors: Instead of a column of them, shape ``(R, D)``.

        Raises:
            DataError: If something is missing, or a key is known already.
            ConfigError: If the model knows no IDs, or its text encoder is not at hand.
            ArtifactError: If the vectors are of another width, or no ID is left.
            MissingPathError: If the run holds no quantiser.
        """
        new = NewItems.read(items, vectors)
        self._change(lambda shelf: _with_items(shelf, new))

    def _change(self, change: Callable[[Shelf], Shelf]) -> None:
        """Put another shelf in the place of this one; begin anew where a thread was faster."""
        while True:
            before = self._shelf
            after = change(before)
            with _EXCHANGE:
                if self._shelf is before:
                    self._shelf = after
                    return

    def remove_items(self, items: Key | Keys, *, on_unknown: str = "raise") -> None:
        """Never recommend some items again; once more does nothing. Histories may still hold them.

        Args:
            items: Item keys.
            on_unknown: As in :meth:`recommend`.

        Raises:
            DataError: If a key is unknown.
        """
        keys = list(items) if isinstance(items, (set, frozenset)) else read_keys(items, "items")[0]
        lists = read_lists(keys, "items")

        def without(shelf: Shelf) -> Shelf:
            removed = ~shelf.available
            removed[shelf.look_up(lists, "items", Unknown(on_unknown)).rows] = True
            return shelf.with_removed(removed, shelf.run)

        self._change(without)

    def save(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
        """Write one folder that holds all: weights, IDs, items, titles, what was added, removed.

        It has safetensors, arrays and JSON only, and opens with :meth:`from_pretrained` where
        nothing but torch, numpy, safetensors and xxhash is installed. The histories of users stay
        out.

        Args:
            path: The folder to make.
            overwrite: Whether to replace an older one.

        Returns:
            The folder.

        Raises:
            ConfigError: If the folder is not empty, or the recommender came from no run.
        """
        return save_run(self._run("saved"), path, overwrite=overwrite)

    def save_onnx(
        self,
        path: str | os.PathLike[str],
        *,
        precision: str = "fp32",
        least_share: float = 0.99,
        num_users: int = 1000,
        overwrite: bool = False,
    ) -> dict[str, Any]:
        """Write what recommends as one folder that onnxruntime serves without torch.

        :class:`~genrec.serving.onnx.OnnxRecommender` opens it. It is compared with this
        recommender before it is kept.

        Args:
            path: The folder to make.
            precision: ``fp32``; ``fp16`` or ``bf16``, in which weights are kept in 16 bits and
                computed with in 32; or ``int8``, which multiplies in 8 bits.
            least_share: Share of the users who must get the same top ten, in ``[0, 1]``.
            num_users: Users to compare, >= 1: of the data set where it is at its place, else with
                histories that are drawn.
            overwrite: Whether to replace an older folder.

        Returns:
            What the folder says of itself; in ``check`` how many users get the same items.

        Raises:
            ConfigError: If the model cannot be exported or loses too much by it, a package of the
                extra ``onnx`` is missing, or the folder is not empty.
        """
        from genrec.serving.onnx_export import check_histories, export_onnx

        run = self._run("exported")
        num_users = whole_number(num_users, "num_users", usual=1000)
        try:
            data = self.data
        except (ArtifactError, MissingPathError):
            data = None
        histories = check_histories(run.catalogue, data, num_users, run.ranker.max_history)
        return export_onnx(
            run,
            path,
            self.recommend,
            histories,
            precision=precision,
            least_share=least_share,
            overwrite=overwrite,
        )

    def _run(self, what: str) -> Trained:
        """Return the run with the items as they are now; refuse a recommender of none."""
        run = self._shelf.run
        if run is None:
            raise ConfigError(
                f"only a recommender of a run can be {what}, got {self._shelf.ranker.name}; open "
                "one with Recommender.from_pretrained"
            )
        return replace(run, catalogue=self._shelf.catalogue)

    def save_pretrained(self, path: str | os.PathLike[str]) -> Path:
        """Write what :meth:`save` writes, over an older one, as users of Hugging Face expect."""
        return self.save(path, overwrite=True)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        private: bool = False,
        token: str | None = None,
        revision: str | None = None,
        commit_message: str = "Add recommender",
    ) -> str:
        """Put what :meth:`save` writes on the Hugging Face hub, with a card of the run's metrics.

        Args:
            repo_id: ``owner/name``; made when missing.
            private: Whether a new place shall be private.
            token: Of the hub; None takes the one of ``hf auth login``.
            revision: Branch; the main one when None.
            commit_message: What the hub shows.

        Returns:
            Address of the commit.

        Raises:
            ConfigError: If the hub refuses or does not answer.
        """
        return push(
            self.save, repo_id, private, token=token, revision=revision, message=commit_message
        )

    def rows(self, keys: Keys, *, on_unknown: str = "raise") -> Rows:
        """Look item keys up.

        Args:
            keys: The catalogue's own item ids.
            on_unknown: As in :meth:`recommend`.

        Returns:
            Rows of the catalogue, one a key that is known, int64.

        Raises:
            DataError: If a key is unknown.
        """
        return self._shelf.look_up(read_lists(keys, "keys"), "keys", Unknown(on_unknown)).rows

    def titles(self, rows: npt.NDArray[np.integer[Any]]) -> list[str]:
        """Name rows of the catalogue, ``(K,)``, for a person; by their keys without titles.

        Raises:
            DataError: If they are no rows of it.
        """
        return self._shelf.titles(rows)


def _with_items(shelf: Shelf, new: NewItems) -> Shelf:
    """Put new items on a shelf, or removed ones back; see :meth:`Recommender.add_items`."""
    rows = np.array([shelf.row_of.get(key, -1) for key in new.keys], dtype=np.int64)
    here = (rows >= 0) & shelf.available[np.maximum(rows, 0)]
    if here.any():
        raise DataError(
            f"new items must have new keys, got {int(here.sum())} that are known, the first "
            f"{new.keys[int(here.argmax())]!r}; leave them out"
        )
    back, fresh = rows[rows >= 0], np.flatnonzero(rows < 0)
    if len(back):
        warnings.warn(
            f"{len(back)} of the new items were removed before and come back with the ID and "
            f"title they had, the first {new.keys[int((rows >= 0).argmax())]!r}; give a "
            "changed item a key of its own",
            stacklevel=depth_of_caller(),
        )
    run = shelf.run
    if len(fresh):
        if run is None:
            raise ConfigError(
                f"new items need a model of semantic IDs in a run's folder, got "
                f"{shelf.ranker.name}; open one with Recommender.from_pretrained"
            )
        run = with_items(run, new.take(fresh))
    catalogue = shelf.catalogue if run is None else run.catalogue
    removed = np.zeros(catalogue.num_items, dtype=bool)
    removed[: len(shelf.available)] = ~shelf.available
    removed[back] = False
    return shelf.with_removed(removed, run)
