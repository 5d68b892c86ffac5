"""Recommendations from a trained run, by the catalogue's own item ids.

Shape legend: B = users, S = history items, K = results, N = items.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from genrec.data.prepared import StringArray
from genrec.data.schemas import Rules
from genrec.data.sequence_dataset import hash_users
from genrec.errors import ConfigError, DataError
from genrec.rankers import Ranker, SearchingRanker
from genrec.tokenizer.semantic_id import SemanticIdTokenizer
from genrec.trained import load_trained

__all__ = ["Recommender"]

Key = str | int
Keys = Iterable[Key]
Rows = npt.NDArray[np.int64]

_ONE_KEY = (str, int, np.integer)


class Recommender:
    """Finds the next items of users, given what they had before.

    Items go in by the catalogue's own ids (ASIN, movie id, ...) and come out as rows of the
    catalogue, which :meth:`keys` and :meth:`titles` turn into words. One user gives vectors,
    several give matrices with the same numbers. A run's folder is all that it needs, whatever
    model the run trained.

    Args:
        ranker: Whatever recommends.
        item_titles: What to show a person, ``N``; the keys when None.

    Attributes:
        ranker: See above.
        item_keys: The catalogue's own item ids, ``N``.
        num_items: Number of items ``N``.

    Example:
        >>> from genrec.rankers import Popularity
        >>> counts = np.array([5, 9])
        >>> recommender = Recommender(Popularity(StringArray.from_strings(["a", "b"]), counts))
        >>> ids, scores = recommender.recommend(["a"], k=3)
        >>> recommender.keys(ids), ids.tolist(), scores.tolist()
        (['b'], [1, -1, -1], [9.0, -inf, -inf])
    """

    def __init__(self, ranker: Ranker, *, item_titles: Sequence[str] | None = None) -> None:
        self.ranker = ranker
        self.item_keys, self.num_items = ranker.item_keys, ranker.num_items
        self._titles: Sequence[str] = self.item_keys if item_titles is None else item_titles
        self._row_of = {key: row for row, key in enumerate(self.item_keys)}

    @classmethod
    def from_pretrained(
        cls,
        path: str | os.PathLike[str],
        *,
        tokenizer: SemanticIdTokenizer | None = None,
        device: torch.device | str | None = None,
    ) -> Recommender:
        """Open a run of any training that recommends.

        Args:
            path: The run's folder. Its best step is used.
            tokenizer: The run's ID table with new items added, which then are recommended too;
                None takes the run's own.
            device: Where to compute; a GPU where there is one when None.

        Returns:
            The recommender. It knows titles where the run holds its catalogue, or its data set
            is still at its place.

        Raises:
            MissingPathError: If the run is not there.
            ArtifactError: If a file of it is damaged, or ``tokenizer`` does not go on from its
                table.
        """
        if device is None:
            device = "cuda" if torch.cuda.is_available() else "cpu"
        run = load_trained(path, device=device, table=tokenizer)
        return cls(run.ranker, item_titles=run.catalogue.item_titles)

    def recommend(
        self,
        histories: Keys | Sequence[Keys],
        k: int = 10,
        *,
        users: Key | Sequence[Key] | None = None,
        exclude_seen: bool = True,
        exclude: Keys | Sequence[Keys] | None = None,
        allow: Keys | Sequence[Keys] | None = None,
        num_beams: int | None = None,
        unknown: str = "error",
        batch_size: int = 128,
    ) -> tuple[Rows, npt.NDArray[np.float32]]:
        """Find the items that users will most likely want next.

        Args:
            histories: Item keys of one user, oldest first; or one such list for each of several
                users. Numbers stand for their decimal text. Only the newest items count, as
                many as in training.
            k: Items for each user, >= 1.
            users: The users' own ids, one or as many as histories; needed by models with user
                tokens and without effect on others.
            exclude_seen: Leave out the items of the history, all of them.
            exclude: Item keys to leave out, for everybody or a list for each user.
            allow: The only item keys to choose from, likewise. What is excluded stays out.
            num_beams: Beams of the search, at least ``k``; those of the run when None. More beams
                come closer to the exact ranking and cost more. Only for models that search.
            unknown: What to do with keys that the catalogue lacks: ``error``, or ``skip`` them.
            batch_size: Users searched at once.

        Returns:
            ``(ids, scores)``, both ``(K,)`` for one user and ``(B, K)`` for several, best first:
            rows of the catalogue, int64, and the model's scores, float32: log-probabilities of
            the items' IDs where it generates them. Where there are fewer results the rest is -1
            and ``-inf``. A user whose history is empty gets none: the model continues histories,
            and who has none is better served by what is popular, or new.

        Raises:
            DataError: If a key is unknown, or lists for each user are not as many as histories.
            ConfigError: If a number is out of range, beams are set for a model without them, or a
                model with user tokens gets no users.
        """
        if k < 1:
            raise ConfigError(f"k must be >= 1, got {k}; 10 is usual")
        if unknown not in ("error", "skip"):
            raise ConfigError(f"unknown must be error or skip, got {unknown!r}; use skip")
        ranker = self._searching(num_beams)
        many, lists = _as_lists(histories)
        rows = self._rows(lists, "histories", unknown)
        hashes = self._hashes(users, len(rows))
        limits = self._limits(allow, exclude, unknown, len(rows), many)
        seen = rows if exclude_seen else None
        ids = np.full((len(rows), k), -1, dtype=np.int64)
        scores = np.full((len(rows), k), -np.inf, dtype=np.float32)
        longest = ranker.max_history
        lengths = np.array([min(len(row), longest) for row in rows])
        order = np.argsort(lengths, kind="stable")  # like lengths together: little padding
        order = order[lengths[order] > 0]
        for begin in range(0, len(order), batch_size):
            part = order[begin : begin + batch_size]
            found = ranker.rank(
                _padded([rows[user][-longest:] for user in part]).to(ranker.device),
                k,
                users=None if hashes is None else hashes[part].to(ranker.device),
                rules=limits.of(part, seen),
            )
            ids[part] = found.items.cpu().numpy()
            scores[part] = found.scores.cpu().numpy()
        return (ids, scores) if many else (ids[0], scores[0])

    def rows(self, keys: Keys, *, unknown: str = "error") -> Rows:
        """Look item keys up.

        Args:
            keys: The catalogue's own item ids.
            unknown: What to do with keys that the catalogue lacks: ``error``, or ``skip`` them.

        Returns:
            Rows of the catalogue, one a key that is known, int64.

        Raises:
            DataError: If a key is unknown.
        """
        return self._rows([list(keys)], "keys", unknown)[0]

    def keys(self, ids: npt.NDArray[np.integer[Any]]) -> list[Any]:
        """Turn results into the catalogue's own item ids.

        Args:
            ids: Rows of the catalogue, ``(K,)`` or ``(B, K)``; -1 for none.

        Returns:
            A list of keys, or one for each user; without the places that hold none.
        """
        return _named(self.item_keys, ids)

    def titles(self, ids: npt.NDArray[np.integer[Any]]) -> list[Any]:
        """Turn results into what to show a person.

        Args:
            ids: Rows of the catalogue, ``(K,)`` or ``(B, K)``; -1 for none.

        Returns:
            A list of titles, or of keys where titles are unknown, as :meth:`keys` gives them.
        """
        return _named(self._titles, ids)

    def _rows(self, lists: list[list[Key]], what: str, unknown: str) -> list[Rows]:
        """Look item keys up, all users at once."""
        missing: dict[str, None] = {}
        found = []
        for keys in lists:
            rows = np.array([self._row_of.get(str(key), -1) for key in keys], dtype=np.int64)
            missing |= {str(keys[place]): None for place in np.flatnonzero(rows < 0)}
            found.append(rows[rows >= 0])
        if missing and unknown == "error":
            named = ", ".join(repr(key) for key in list(missing)[:5])
            more = ", ..." if len(missing) > 5 else ""
            raise DataError(
                f"{what} must hold items of the catalogue, got {len(missing)} that are not among "
                f"its {self.num_items}: {named}{more}; leave them out, or pass unknown='skip'"
            )
        return found

    def _searching(self, num_beams: int | None) -> Ranker:
        """Return the ranker, with another number of beams where one is given."""
        if num_beams is None:
            return self.ranker
        if not isinstance(self.ranker, SearchingRanker):
            raise ConfigError(
                f"num_beams must be left out for a model that ranks all items, got {num_beams} for "
                f"{self.ranker.name}; it needs no beams"
            )
        return self.ranker.with_beams(num_beams)

    def _hashes(self, users: Key | Sequence[Key] | None, count: int) -> Tensor | None:
        """Hash the users' own ids, shape ``(B,)``, int64."""
        if users is None:
            return None
        given: list[Any] = [users] if isinstance(users, _ONE_KEY) else list(users)
        _check_count("users", len(given), count)
        keys = StringArray.from_strings(str(key) for key in given)
        return torch.from_numpy(hash_users(keys))

    def _limits(
        self,
        allow: Keys | Sequence[Keys] | None,
        exclude: Keys | Sequence[Keys] | None,
        unknown: str,
        count: int,
        many: bool,
    ) -> _Limits:
        """Sort allow and exclude lists into those for everybody and those of each user."""
        mask = np.ones(self.num_items, dtype=bool)  # (N,)
        own: dict[str, list[Rows] | None] = {"allow": None, "exclude": None}
        for name, value in (("allow", allow), ("exclude", exclude)):
            if value is None:
                continue
            per_user, lists = _as_lists(value)
            rows = self._rows(lists, name, unknown)
            if per_user:
                if not many:
                    raise DataError(
                        f"{name} must be one list of item keys for one user, got {len(lists)} "
                        "lists; give histories as a list of lists too"
                    )
                _check_count(name, len(rows), count)
                own[name] = rows
            else:
                listed = np.zeros_like(mask)
                listed[rows[0]] = True
                mask &= listed if name == "allow" else ~listed
        shared = None if mask.all() else torch.from_numpy(mask).to(self.ranker.device)
        return _Limits(shared, own["allow"], own["exclude"], self.ranker.device)


@dataclass(frozen=True)
class _Limits:
    """What may be recommended: to everybody, and to each user."""

    mask: Tensor | None
    allow: list[Rows] | None
    exclude: list[Rows] | None
    device: torch.device

    def of(self, part: Rows, seen: list[Rows] | None) -> Rules | None:
        """Return the rules of some users, who shall not get what they have ``seen``."""
        lists = [rows for rows in (seen, self.exclude) if rows is not None]
        exclude = allow = None
        if lists:
            drop = [np.concatenate([rows[user] for rows in lists]) for user in part]
            exclude = _padded(drop).to(self.device)
        if self.allow is not None:
            allow = _padded([self.allow[user] for user in part]).to(self.device)
        if exclude is None and allow is None and self.mask is None:
            return None
        return Rules(exclude, allow, self.mask)


def _as_lists(value: Keys | Sequence[Keys]) -> tuple[bool, list[list[Any]]]:
    """Tell one list of keys from a list of them; return it as a list of lists in both cases."""
    if isinstance(value, str):
        raise DataError(f"item keys must come in a list, got the text {value!r}; write [{value!r}]")
    items: list[Any] = list(value)
    many = bool(items) and not isinstance(items[0], _ONE_KEY)
    return many, [list(keys) for keys in items] if many else [items]


def _check_count(name: str, got: int, wanted: int) -> None:
    if got != wanted:
        raise DataError(
            f"{name} must be as many as histories, {wanted}, got {got}; give one for each user"
        )


def _padded(rows: Sequence[Rows]) -> Tensor:
    """Stack lists of different lengths, shape ``(B, longest)``, int64; -1 at the end."""
    table = np.full((len(rows), max(map(len, rows))), -1, dtype=np.int64)
    for user, row in enumerate(rows):
        table[user, : len(row)] = row
    return torch.from_numpy(table)


def _named(names: Sequence[str], ids: npt.NDArray[np.integer[Any]]) -> list[Any]:
    if np.ndim(ids) > 1:
        return [_named(names, row) for row in ids]
    return [names[int(row)] for row in ids if row >= 0]
