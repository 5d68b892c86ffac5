"""What a recommender answers: items with scores and titles, for one user or many.

Shape legend: B = users, K = results of a user, R = results of all users.
"""

from __future__ import annotations

import importlib
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from genrec.data.prepared import StringArray
from genrec.errors import ConfigError
from genrec.serving.keys import Key

if TYPE_CHECKING:
    import pandas as pd
    import polars as pl

__all__ = ["Recommendations"]


@dataclass(frozen=True, eq=False, repr=False)
class Recommendations:
    """Items for one user or for many, best first; ``items, scores = ...`` takes it apart.

    ``items``, ``titles``, ``rows`` and ``scores`` are of equal length: one entry a result for
    one user; for many a list with such a column for each user, which may differ in length.

    Attributes:
        owners: Whom the results are for: users' own ids or their places, or items, ``B``.
        offsets: Where each owner's results begin, and the end, shape ``(B + 1,)``, int64.
        flat_rows: Rows of the catalogue, shape ``(R,)``, int64.
        flat_scores: Shape ``(R,)``, float32, falling for each owner.
        popular: Whether an owner had no known item, so that the results are what is popular and
            the scores are counts, shape ``(B,)``, bool.
        many: Whether the call was for many.
        keys_of: The catalogue's keys by row.
        titles_of: The catalogue's titles by row.
        whole_numbers: Whether keys are given as numbers, as the caller did.
        owner_name: Column of the owners in tables.
    """

    owners: Sequence[Key]
    offsets: npt.NDArray[np.int64]
    flat_rows: npt.NDArray[np.int64]
    flat_scores: npt.NDArray[np.float32]
    popular: npt.NDArray[np.bool_]
    many: bool
    keys_of: StringArray
    titles_of: StringArray
    whole_numbers: bool = False
    owner_name: str = "user_id"

    @cached_property
    def items(self) -> list[Any]:
        """Item keys, in the type that the caller's keys had."""
        return self._split(self._item_column(object).tolist())

    @cached_property
    def titles(self) -> list[Any]:
        """What to show a person; keys where titles are unknown."""
        rows, places = self._distinct
        titles = np.array(self.titles_of.take(rows), dtype=object)
        return self._split(titles[places].tolist())

    @cached_property
    def rows(self) -> Any:
        """Rows of the catalogue, int64."""
        return self._split(self.flat_rows)

    @cached_property
    def scores(self) -> Any:
        """The model's scores, float32: comparable within one model only."""
        return self._split(self.flat_scores)

    def to_polars(self) -> pl.DataFrame:
        """Make a long table: ``user_id, item_id, score, rank`` (from 1); similar items differ."""
        table: pl.DataFrame = _library("polars").DataFrame(self._columns())
        return table

    def to_pandas(self) -> pd.DataFrame:
        """Make the table of :meth:`to_polars` in pandas."""
        table: pd.DataFrame = _library("pandas").DataFrame(self._columns())
        return table

    def __iter__(self) -> Iterator[Any]:
        return iter((self.items, self.scores))

    def __repr__(self) -> str:
        count = len(self.owners)
        who = "items" if self.owner_name != "user_id" else "users"
        head = f"{len(self.flat_rows)} items" + (f" for {count} {who}" if self.many else "")
        lines = [f"Recommendations({head})"]
        for place, row in enumerate(self.flat_rows[:10].tolist()):
            score = float(self.flat_scores[place])
            lines.append(f"  {score:9.4f}  {self.titles_of[row]}  [{self.keys_of[row]}]")
        return "\n".join([*lines, "  ..."] if len(self.flat_rows) > 10 else lines)

    @cached_property
    def _distinct(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Rows that occur, and the place of each result among them: fewer strings to read."""
        rows, places = np.unique(self.flat_rows, return_inverse=True)
        return rows, places

    def _item_column(self, kind: Any) -> npt.NDArray[Any]:
        """Item keys of all results, ``(R,)``, in a numpy type."""
        rows, places = self._distinct
        keys = self.keys_of.take(rows)
        return np.array(list(map(int, keys)) if self.whole_numbers else keys, dtype=kind)[places]

    def _split(self, flat: Any) -> Any:
        if not self.many:
            return flat
        ends = self.offsets.tolist()
        return [flat[begin:end] for begin, end in itertools.pairwise(ends)]

    def _columns(self) -> dict[str, Any]:
        """Lay the results out as columns of ``R`` values, typed even where there are none."""
        lengths = np.diff(self.offsets)
        owners = np.asarray(self.owners, dtype=None if len(self.owners) else np.int64)
        rank = np.arange(len(self.flat_rows)) - np.repeat(self.offsets[:-1], lengths) + 1
        return {
            self.owner_name: np.repeat(owners, lengths),
            "item_id": self._item_column(np.int64 if self.whole_numbers else np.str_),
            "score": self.flat_scores,
            "rank": rank.astype(np.int32),
        }


def _library(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        raise ConfigError(
            f"{name} must be installed for a {name} table, got none; pip install {name}"
        ) from None
