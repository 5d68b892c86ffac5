"""What a recommender reads in a call: items with whatever recommends them, and users.

Shape legend: B = users, K = results, N = items.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from genrec.data.catalogue import Catalogue
from genrec.data.prepared import PreparedDataset, StringArray, is_prepared
from genrec.data.text.known_vectors import NUM_COMPARED, SAME_VECTOR
from genrec.errors import ArtifactError, ConfigError, MissingPathError
from genrec.rankers import Popularity, Ranker
from genrec.serving.items import item_vectors
from genrec.serving.keys import Key, Lists
from genrec.serving.stock import Stock, Unknown
from genrec.trained import Trained

__all__ = ["Shelf", "Users"]

#: What a shelf makes of its items when first asked, whichever of them are removed.
_MADE = ("row_of", "plain_keys", "codes", "sketch", "vectors")


@dataclass(frozen=True)
class Shelf(Stock):
    """All that a call reads of the catalogue: replaced as a whole, never changed."""

    ranker: Ranker
    mask: Tensor | None  # (N,) bool, where something was removed
    popular: Ranker | None
    run: Trained | None

    @cached_property
    def codes(self) -> Tensor | None:
        """Semantic IDs, shape ``(N, L)``, int32, or None where there are none."""
        codes = self.catalogue.codes
        return None if codes is None else torch.from_numpy(np.array(codes))

    @cached_property
    def vectors(self) -> Tensor | None:
        """Vectors of the items, shape ``(N, E)``, or None where there are none."""
        return item_vectors(self.run, self.ranker)

    @cached_property
    def sketch(self) -> Tensor | None:
        """Sketches of the text vectors, shape ``(N, P)``, or None where there are none."""
        sketch = self.catalogue.sketch
        return None if sketch is None else torch.from_numpy(np.array(sketch))

    @classmethod
    def of(cls, ranker: Ranker, catalogue: Catalogue, run: Trained | None = None) -> Shelf:
        """Prepare what calls need of a catalogue; ``run`` is where ranker and items are from."""
        available = Stock(catalogue).available
        mask = None if available.all() else torch.from_numpy(available).to(ranker.device)
        popular = None
        if catalogue.counts is not None:
            popular = Popularity(catalogue.item_keys, catalogue.counts, device=ranker.device)
        return cls(catalogue, ranker, mask, popular, run)

    def with_removed(self, removed: npt.NDArray[np.bool_], run: Trained | None) -> Shelf:
        """Return the shelf with some items removed, and perhaps a run with more of them."""
        catalogue = self.catalogue if run is None else run.catalogue
        catalogue = replace(catalogue, removed=removed)
        if run is not self.run:
            return Shelf.of(self.ranker if run is None else run.ranker, catalogue, run)
        # The same items: what was made of them, which for many of them takes long, stays.
        available = ~removed
        mask = None if available.all() else torch.from_numpy(available).to(self.ranker.device)
        shelf = replace(self, catalogue=catalogue, mask=mask)
        kept = {name: self.__dict__[name] for name in _MADE if name in self.__dict__}
        shelf.__dict__.update(kept)
        return shelf

    def mask_with(self, listed: npt.NDArray[np.bool_] | None) -> Tensor | None:
        """Mark what is here and listed, shape ``(N,)``, bool; None where that is everything."""
        if listed is None:
            return self.mask  # the very same in all calls: rankers keep what they make of it
        kept = torch.from_numpy(listed).to(self.ranker.device)
        return kept if self.mask is None else self.mask & kept

    def nearest(
        self, targets: Lists, k: int, mask: Tensor | None
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
        """Rank items by likeness to each target; ``(B, K)`` rows and scores, -1 and -inf."""
        table, vectors = self.codes, self.vectors
        if table is None and vectors is None:
            raise ConfigError(
                f"similar items need a model with semantic IDs or vectors of items, got "
                f"{self.ranker.name}; use a run of another model"
            )
        count = len(targets.lengths)
        rows = torch.full((count, k), -1, dtype=torch.long)
        scores = torch.full((count, k), -torch.inf)
        places = np.flatnonzero(targets.lengths)
        keep = None if mask is None else mask.cpu()
        step = max(1, 50_000_000 // max(1, self.catalogue.num_items))  # 200 MB of scores
        for begin in range(0, len(targets.rows), step):
            part = torch.from_numpy(targets.rows[begin : begin + step])
            near = torch.zeros(len(part), self.catalogue.num_items)
            if vectors is not None:
                near = 1 / (1 + torch.cdist(vectors[part], vectors))
            if table is not None:
                same = torch.ones_like(near, dtype=torch.bool)
                for column in table.unbind(dim=1):
                    same &= column[part, None] == column
                    near += same
            near.masked_fill_(self._twins(part), 1.0 + (0 if table is None else table.shape[1]))
            near.scatter_(1, part[:, None], -torch.inf)
            if keep is not None:
                near.masked_fill_(~keep, -torch.inf)
            best, order = near.sort(dim=1, descending=True, stable=True)
            best, order = best[:, :k], order[:, :k].masked_fill(best[:, :k].isinf(), -1)
            where = torch.from_numpy(places[begin : begin + step])
            rows[where], scores[where] = order, best
        return rows.numpy(), scores.numpy()

    def _twins(self, part: Tensor) -> Tensor:
        """Mark items of the same text vector as some others, where that is all one knows of one.

        ``(B,)`` rows to ``(B, N)`` bool.
        """
        catalogue, sketch = self.catalogue, self.sketch
        if sketch is None:
            return torch.zeros(len(part), catalogue.num_items, dtype=torch.bool)
        untaken = torch.ones(catalogue.num_items, dtype=torch.bool)
        if catalogue.counts is not None:
            untaken = torch.from_numpy(catalogue.counts == 0)
        sketch = sketch[:, :NUM_COMPARED]
        own = sketch[part]
        length = own.double().norm(dim=1, keepdim=True)  # squares of large ones overflow in float32
        same = (length > 0) & (untaken[part, None] | untaken)
        for mine, others in zip(own.unbind(dim=1), sketch.unbind(dim=1), strict=True):
            # Rounding of the vectors, as by float16, is all that may lie between.
            same &= (mine[:, None] - others).abs() <= SAME_VECTOR * length
        return same


class Users:
    """The users of a data set by their own ids; opened when first asked for."""

    def __init__(self, data: PreparedDataset | None, prepared: str | None = None) -> None:
        self._data, self._prepared = data, prepared
        self._row_of: dict[str, int] | None = None
        self._rows: npt.NDArray[np.int64] | None = None

    def histories(self, names: Sequence[Key], shelf: Shelf, unknown: Unknown) -> Lists:
        """Find all that users had, as rows of the catalogue; nothing for unknown ones."""
        data = self.open(shelf)
        if self._row_of is None:
            self._row_of = {key: row for row, key in enumerate(data.user_keys)}
        users = np.array([self._row_of.get(str(name), -1) for name in names], dtype=np.int64)
        if (users < 0).any():
            missing = [str(names[place]) for place in np.flatnonzero(users < 0).tolist()]
            unknown.say("users must be users of the data set", missing, self._row_of)
        offsets = np.asarray(data.sequence_offsets)
        safe = np.maximum(users, 0)
        begins = offsets[safe]
        lengths = np.where(users >= 0, offsets[safe + 1] - begins, 0) if len(offsets) > 1 else users
        ends = np.concatenate([[0], np.cumsum(lengths)])
        places = np.arange(ends[-1]) + np.repeat(begins - ends[:-1], lengths)
        return Lists(self.rows(np.asarray(data.sequence_items[places])), ends)

    def rows(self, items: npt.NDArray[np.int32] | npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Turn rows of the data set, which is open, into rows of the catalogue, same shape."""
        return items.astype(np.int64) if self._rows is None else self._rows[items]

    def open(self, shelf: Shelf) -> PreparedDataset:
        """Open the data set; refuse one with other items than the catalogue.

        It has the items that the catalogue begins with, in their order; or it was prepared with
        new ones, whose keys stand between the others, and the catalogue knows all of them.
        """
        data = self._data
        if data is not None and self._rows is not None:  # rows of the catalogue never move
            return data
        if data is None:
            if self._prepared is None or not is_prepared(self._prepared):
                where = f"at {self._prepared}" if self._prepared else "(a saved folder keeps none)"
                raise MissingPathError(
                    "the data set, which holds users, their histories and text vectors, must be "
                    f"at hand, got none {where}; open the recommender with data=FOLDER, or give "
                    "item keys as histories"
                )
            data = PreparedDataset.load(self._prepared)
        keys = shelf.catalogue.item_keys
        if keys.offsets is not data.item_keys.offsets:  # the recommender may know more behind them
            first = StringArray(keys.data, keys.offsets[: data.num_items + 1])
            if len(first) != data.num_items or first.digest() != data.item_keys.digest():
                self._rows = _rows_of(data, shelf)
        self._data = data
        return data


def _rows_of(data: PreparedDataset, shelf: Shelf) -> npt.NDArray[np.int64]:
    """Find the catalogue's row of each item of a data set, ``(N,)``, by their keys.

    Keys that are numbers are found in anybody's data set; so it must have all that anybody took.
    """
    rows = np.array([shelf.row_of.get(key, -1) for key in data.item_keys], dtype=np.int64)
    counts = shelf.catalogue.counts
    taken = np.ones(shelf.catalogue.num_items, dtype=bool) if counts is None else counts > 0
    taken[rows[rows >= 0]] = False
    if taken.any():
        raise ArtifactError(
            f"data set must have the items that the run was trained on, got {data.num_items} "
            f"without {int(taken.sum())} of them in {data.path}, the first "
            f"{shelf.catalogue.item_keys[int(taken.argmax())]!r}; give the run's own, or item keys"
        )
    if (rows < 0).any():
        raise ArtifactError(
            f"data set must have items that the run knows, got {int((rows < 0).sum())} that it "
            f"does not in {data.path}, the first {data.item_keys[int((rows < 0).argmax())]!r}; "
            "give them IDs with `genrec tokenize --extend` and name the table with --ids, or add "
            "them with add_items first"
        )
    return rows
