"""What a call reads of the items, and what may be recommended to whom; without torch.

Shape legend: B = users, K = results, N = items, E = excluded items, A = allowed items.
"""

from __future__ import annotations

import re
import sys
import warnings
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from genrec.data.catalogue import Catalogue
from genrec.errors import ConfigError, DataError, did_you_mean
from genrec.serving.keys import Key, KeyLists, Lists
from genrec.serving.recommendations import Recommendations

__all__ = ["Limits", "NothingLeft", "Stock", "Unknown", "check_count", "depth_of_caller"]

Rows = npt.NDArray[np.int64]

#: Whole numbers as usually written, which fit into 64 bits.
_PLAIN = re.compile(r"0|[1-9][0-9]{0,17}")

ON_UNKNOWN = ("raise", "warn", "ignore")


class NothingLeft(UserWarning):
    """Users get no item at all, since lists and histories leave none."""


@dataclass(frozen=True)
class Stock:
    """The items of a catalogue, found by their keys.

    Attributes:
        catalogue: The items.
    """

    catalogue: Catalogue

    @cached_property
    def row_of(self) -> dict[str, int]:
        """Rows by key."""
        return {key: row for row, key in enumerate(self.catalogue.item_keys)}

    @cached_property
    def available(self) -> npt.NDArray[np.bool_]:
        """Which items may be recommended, shape ``(N,)``."""
        removed = self.catalogue.removed
        return np.ones(self.catalogue.num_items, dtype=bool) if removed is None else ~removed

    @cached_property
    def plain_keys(self) -> bool:
        """Whether all keys are whole numbers as usually written: ``"7"``, never ``"007"``."""
        keys = self.catalogue.item_keys
        return all(map(_PLAIN.fullmatch, keys))

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

    def answer(
        self,
        rows: Rows,
        scores: npt.NDArray[np.float32],
        *,
        owners: Sequence[Key],
        popular: npt.NDArray[np.bool_],
        many: bool,
        whole_numbers: bool,
        owner_name: str = "user_id",
    ) -> Recommendations:
        """Put padded results, ``(B, K)`` each, into words."""
        kept = rows >= 0
        offsets = np.zeros(len(rows) + 1, dtype=np.int64)
        np.cumsum(kept.sum(axis=1), out=offsets[1:])
        return Recommendations(
            owners=owners,
            offsets=offsets,
            flat_rows=rows[kept],
            flat_scores=scores[kept],
            popular=popular,
            many=many,
            keys_of=self.catalogue.item_keys,
            titles_of=self.catalogue.item_titles,
            whole_numbers=whole_numbers and self.plain_keys,
            owner_name=owner_name,
        )


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
            warnings.warn(f"{text}; left out", stacklevel=depth_of_caller())
            return
        near = did_you_mean(missing[0], known) if len(known) <= 100_000 else ""
        hint = f" ({near})" if near.startswith("did") else ""
        raise DataError(f"{text}{hint}; leave them out, or set on_unknown to ignore")


def depth_of_caller() -> int:
    """How many frames above the caller of this the first one outside of serving is."""
    depth, frame = 1, sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__package__") == __package__:
        depth, frame = depth + 1, frame.f_back
    return depth


@dataclass(frozen=True)
class Limits:
    """What may be recommended: to everybody, and to each user.

    Attributes:
        mask: Items that this call leaves to everybody, shape ``(N,)``, bool; None for all.
        allow: The only items of each user, or None.
        exclude: Items that each user shall not get, or None.
        allowed: How many entries of a list of allowed items are known; None without such a list.
    """

    mask: npt.NDArray[np.bool_] | None
    allow: Lists | None
    exclude: Lists | None
    allowed: int | None = None

    @classmethod
    def read(
        cls,
        allow: KeyLists | None,
        exclude: KeyLists | None,
        stock: Stock,
        unknown: Unknown,
        count: int,
        many: bool,
    ) -> Limits:
        """Sort allow and exclude lists into those for everybody and those of each user."""
        own: dict[str, Lists | None] = {"allow": None, "exclude": None}
        mask: npt.NDArray[np.bool_] | None = None
        allowed = None
        for name, given in (("allow", allow), ("exclude", exclude)):
            if given is None:
                continue
            rows = stock.look_up(given, name, unknown)
            allowed = len(rows.rows) if name == "allow" else allowed
            if given.many:
                if not many:
                    raise DataError(
                        f"{name} must be one list of item keys for one user, got "
                        f"{len(rows.lengths)} lists; give histories as a list of lists too"
                    )
                check_count(name, len(rows.lengths), count)
                own[name] = rows
            else:
                listed = np.zeros(stock.catalogue.num_items, dtype=bool)
                listed[rows.rows] = True
                kept = listed if name == "allow" else ~listed
                mask = kept if mask is None else mask & kept
        return cls(mask, own["allow"], own["exclude"], allowed)

    def of(self, part: Rows, seen: Lists | None) -> tuple[Rows | None, Rows | None]:
        """List what some users shall not get, ``(B, E)``, and all they may, ``(B, A)``, by -1.

        Either is None where nothing is listed. What they have ``seen`` is excluded too.
        """
        lists = [each.padded(part) for each in (seen, self.exclude) if each is not None]
        exclude = np.concatenate(lists, axis=1) if lists else None
        return exclude, None if self.allow is None else self.allow.padded(part)


def check_count(name: str, got: int, wanted: int) -> None:
    """Refuse lists for each user that are not as many as histories."""
    if got != wanted:
        raise DataError(
            f"{name} must be as many as histories, {wanted}, got {got}; give one for each user"
        )
