"""What a recommender reads in a call: items, users, and what may be recommended to whom.

Shape legend: B = users, K = results, N = items.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from genrec.data.catalogue import Catalogue
from genrec.data.prepared import PreparedDataset, StringArray, is_prepared
from genrec.data.schemas import Rules
from genrec.data.text.known_vectors import SAME_VECTOR
from genrec.errors import ArtifactError, ConfigError, DataError, MissingPathError, did_you_mean
from genrec.rankers import Popularity, Ranker
from genrec.serving.items import item_vectors
from genrec.serving.keys import Key, KeyLists, Lists, read_lists
from genrec.serving.recommendations import Recommendations
from genrec.trained import Trained

__all__ = ["Limits", "Shelf", "Unknown", "Users", "check_count"]

Rows = npt.NDArray[np.int64]

#: Whole numbers as usually written, which fit into 64 bits.
_PLAIN = re.compile(r"0|[1-9][0-9]{0,17}")

ON_UNKNOWN = ("raise", "warn", "ignore")


@dataclass(frozen=True)
class Shelf:
    """All that a call reads of the catalogue: replaced as a whole, never changed."""

    ranker: Ranker
    catalogue: Catalogue
    row_of: dict[str, int]
    available: npt.NDArray[np.bool_]  # (N,)
    mask: Tensor | None  # (N,) bool, where something was removed
    popular: Ranker | None
    run: Trained | None

    @cached_property
    def plain_keys(self) -> bool:
        """Whether all keys are whole numbers as usually written: ``"7"``, never ``"007"``."""
        keys = self.catalogue.item_keys
        return all(map(_PLAIN.fullmatch, keys))

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
        removed = catalogue.removed
        available = np.ones(catalogue.num_items, dtype=bool) if removed is None else ~removed
        mask = None if available.all() else torch.from_numpy(available).to(ranker.device)
        popular = None
        if catalogue.counts is not None:
            popular = Popularity(catalogue.item_keys, catalogue.counts, device=ranker.device)
        row_of = {key: row for row, key in enumerate(catalogue.item_keys)}
        return cls(ranker, catalogue, row_of, available, mask, popular, run)

    def with_removed(self, removed: npt.NDArray[np.bool_], run: Trained | None) -> Shelf:
        """Return the shelf with some items removed, and perhaps a run with more of them."""
        catalogue = self.catalogue if run is None else run.catalogue
        catalogue = replace(catalogue, removed=removed)
        return Shelf.of(self.ranker if run is None else run.ranker, catalogue, run)

    def look_up(self, keys: KeyLists, what: str, unknown: Unknown) -> Lists:
        """Find the rows of item keys; those that are not known go, or are refused."""
        found = keys.look_up(self.row_of)
        if missing := keys.missing(found):
            gone = int((~self.available).sum())
            rule = f"{what} must hold items of the catalogue"
            unknown.say(rule, missing, self.row_of, f" ({gone:,} of them removed)" if gone else "")
        return found.known()

    def titles(self, rows: Any) -> list[str]:
        """Name rows of the catalogue; whatever else is given is refused."""
        names = self.catalogue.item_titles
        try:
            found = np.asarray(rows)
            known = found.ndim == 1 and (len(found) == 0 or np.issubdtype(found.dtype, np.integer))
            known = known and bool(((found >= 0) & (found < len(names))).all())
        except (OverflowError, TypeError, ValueError):
            known = False
        if not known:
            raise DataError(
                f"rows must be a list of whole numbers in [0, {len(names)}), got "
                f"{str(rows)[:60]!r}; give what rows() returned"
            )
        return [names[int(row)] for row in found]

    def nearest(self, targets: Lists, k: int, mask: Tensor | None) -> tuple[Tensor, Tensor]:
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
        return rows, scores

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
        own = sketch[part]
        length = own.norm(dim=1, keepdim=True)
        same = (length > 0) & (untaken[part, None] | untaken)
        for mine, others in zip(own.unbind(dim=1), sketch.unbind(dim=1), strict=True):
            # Rounding of the vectors, as by float16, is all that may lie between.
            same &= (mine[:, None] - others).abs() <= SAME_VECTOR * length
        return same

    def answer(
        self,
        found: tuple[Tensor, Tensor],
        *,
        owners: Sequence[Key],
        popular: npt.NDArray[np.bool_],
        many: bool,
        whole_numbers: bool,
        owner_name: str = "user_id",
    ) -> Recommendations:
        """Put padded results, ``(B, K)``, into words."""
        rows, scores = (tensor.numpy() for tensor in found)
        kept = rows >= 0
        offsets = np.zeros(len(rows) + 1, dtype=np.int64)
        np.cumsum(kept.sum(axis=1), out=offsets[1:])
        keys = self.catalogue.item_keys
        return Recommendations(
            owners=owners,
            offsets=offsets,
            flat_rows=rows[kept],
            flat_scores=scores[kept],
            popular=popular,
            many=many,
            keys_of=keys,
            titles_of=self.catalogue.item_titles,
            whole_numbers=whole_numbers and self.plain_keys,
            owner_name=owner_name,
        )


class Users:
    """The users of a data set by their own ids; opened when first asked for."""

    def __init__(self, data: PreparedDataset | None, prepared: str | None = None) -> None:
        self._data, self._prepared = data, prepared
        self._row_of: dict[str, int] | None = None

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
        return Lists(np.asarray(data.sequence_items[places], dtype=np.int64), ends)

    def open(self, shelf: Shelf) -> PreparedDataset:
        """Open the data set; refuse one with other items than the catalogue begins with."""
        data = self._data
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
                raise ArtifactError(
                    f"data set must have the items that the run was trained on, got "
                    f"{data.num_items} others in {data.path}; give the run's own, or item keys"
                )
        self._data = data
        return data


@dataclass(frozen=True)
class Unknown:
    """What to do with names that are not known."""

    how: str

    def __post_init__(self) -> None:
        if not isinstance(self.how, str) or self.how not in ON_UNKNOWN:
            raise ConfigError(
                f"on_unknown must be raise, warn or ignore, got {self.how!r}; use warn"
            )

    def say(self, rule: str, missing: list[str], known: Collection[str], note: str = "") -> None:
        """Raise, warn, or say nothing; the note says more of what is known."""
        if self.how == "ignore":
            return
        named = ", ".join(repr(name) for name in missing[:5])
        more = ", ..." if len(missing) > 5 else ""
        among = f"{len(known):,}{note}"
        text = f"{rule}, got {len(missing)} that are not among its {among}: {named}{more}"
        if self.how == "warn":
            warnings.warn(f"{text}; left out", stacklevel=4)
            return
        near = did_you_mean(missing[0], known) if len(known) <= 100_000 else ""
        hint = f" ({near})" if near.startswith("did") else ""
        raise DataError(f"{text}{hint}; leave them out, or set on_unknown to ignore")


@dataclass(frozen=True)
class Limits:
    """What may be recommended: to everybody, and to each user."""

    mask: Tensor | None
    allow: Lists | None
    exclude: Lists | None
    device: torch.device

    @classmethod
    def read(
        cls, allow: Any, exclude: Any, shelf: Shelf, unknown: Unknown, count: int, many: bool
    ) -> Limits:
        """Sort allow and exclude lists into those for everybody and those of each user."""
        own: dict[str, Lists | None] = {"allow": None, "exclude": None}
        device, mask = shelf.ranker.device, shelf.mask
        for name, value in (("allow", allow), ("exclude", exclude)):
            if value is None:
                continue
            given = read_lists(value, name)
            rows = shelf.look_up(given, name, unknown)
            if given.many:
                if not many:
                    raise DataError(
                        f"{name} must be one list of item keys for one user, got "
                        f"{len(rows.lengths)} lists; give histories as a list of lists too"
                    )
                check_count(name, len(rows.lengths), count)
                own[name] = rows
            else:
                listed = np.zeros(shelf.catalogue.num_items, dtype=bool)
                listed[rows.rows] = True
                kept = torch.from_numpy(listed if name == "allow" else ~listed).to(device)
                mask = kept if mask is None else mask & kept
        return cls(mask, own["allow"], own["exclude"], device)

    def of(self, part: Rows, seen: Lists | None) -> Rules | None:
        """Return the rules of some users, who shall not get what they have ``seen``."""
        lists = [each.padded(part) for each in (seen, self.exclude) if each is not None]
        exclude = torch.cat(lists, dim=1).to(self.device) if lists else None
        allow = None if self.allow is None else self.allow.padded(part).to(self.device)
        if exclude is None and allow is None and self.mask is None:
            return None
        return Rules(exclude, allow, self.mask)


def check_count(name: str, got: int, wanted: int) -> None:
    """Refuse lists for each user that are not as many as histories."""
    if got != wanted:
        raise DataError(
            f"{name} must be as many as histories, {wanted}, got {got}; give one for each user"
        )
