"""From what callers give for items and users to text keys, checked at the door; without torch.

Shape legend: B = users, M = keys of all lists together.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from genrec.errors import ConfigError, DataError

__all__ = [
    "Key",
    "KeyLists",
    "Lists",
    "given_as_numbers",
    "read_keys",
    "read_lists",
    "whole_number",
]

Key = str | int

_ONE_KEY = (str, int, np.integer)
_MOST_BITS = 1024


@dataclass(frozen=True)
class Lists:
    """Lists of rows of a catalogue, one for each user.

    Attributes:
        rows: All lists one after another, shape ``(M,)``, int64.
        offsets: Where each list begins, and the end, shape ``(B + 1,)``, int64.
    """

    rows: npt.NDArray[np.int64]
    offsets: npt.NDArray[np.int64]

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """Length of each list, shape ``(B,)``, int64."""
        return self.offsets[1:] - self.offsets[:-1]

    def known(self) -> Lists:
        """Drop the entries that are -1."""
        keep = self.rows >= 0
        if keep.all():
            return self
        before = np.concatenate([[0], np.cumsum(keep)])
        return Lists(self.rows[keep], before[self.offsets])

    def padded(
        self, part: npt.NDArray[np.int64], newest: int | None = None
    ) -> npt.NDArray[np.int64]:
        """Stack some users' lists, cut to their ``newest`` entries, -1 at the end, int64."""
        ends = self.offsets[part + 1]
        begins = self.offsets[part]
        if newest is not None:
            begins = np.maximum(begins, ends - newest)
        places = begins[:, None] + np.arange((ends - begins).max(initial=0))
        inside = places < ends[:, None]
        found = np.full(places.shape, -1, dtype=np.int64)
        found[inside] = self.rows[places[inside]]
        return found


@dataclass(frozen=True)
class KeyLists:
    """Item keys as they were given.

    Attributes:
        keys: All lists one after another, ``M`` keys.
        offsets: Where each list begins, and the end, shape ``(B + 1,)``, int64.
        many: Whether there was a list of lists, not one list.
    """

    keys: list[Key]
    offsets: npt.NDArray[np.int64]
    many: bool

    def look_up(self, row_of: Mapping[str, int]) -> Lists:
        """Find the keys' rows, -1 for those that are not known."""
        rows = (row_of.get(str(key), -1) for key in self.keys)
        return Lists(np.fromiter(rows, np.int64, len(self.keys)), self.offsets)

    def missing(self, found: Lists) -> list[str]:
        """Name the keys that were not found, each once."""
        if found.rows.min(initial=0) >= 0:
            return []
        at = np.flatnonzero(found.rows < 0).tolist()
        return list(dict.fromkeys(str(self.keys[place]) for place in at))


def read_lists(value: Any, what: str, *, ordered: bool = False) -> KeyLists:
    """Take one list of item keys, or a list of them.

    Args:
        value: Lists, tuples, numpy arrays, or columns of pandas or polars; sets too, unless
            ``ordered``.
        what: The argument's name, for errors.
        ordered: Whether the order of the keys means something.

    Returns:
        The keys.

    Raises:
        DataError: If it is anything else, or a key is neither text nor a whole number.
    """
    items = _as_list(value, what, ordered)
    many = any(not _is_key(item) for item in items)
    lists = [items]
    if many:
        for item in items:
            if _is_key(item):
                raise DataError(
                    f"{what} must be one list of item keys or a list of such lists, got "
                    f"{_shown(item)} beside lists; write [{item!r}]"
                )
        lists = [_as_list(item, what, ordered) for item in items]
    offsets = np.zeros(len(lists) + 1, dtype=np.int64)
    np.cumsum([len(keys) for keys in lists], out=offsets[1:])
    flat = [key for keys in lists for key in keys]
    _check_keys(flat, what)
    return KeyLists(flat, offsets, many)


def given_as_numbers(*given: Sequence[Key]) -> bool:
    """Tell whether a caller writes keys as whole numbers, so that the answer shall too.

    Args:
        *given: What he named: the keys of histories, users, and items to allow and to exclude, in
            this order. The first that holds any decides; a single text among them makes all text.

    Returns:
        Whether; without any key he gets text.
    """
    first = next((keys for keys in given if len(keys)), ())
    return bool(len(first)) and not any(isinstance(key, str) for key in first)


def read_keys(value: Any, what: str) -> tuple[list[Key], bool]:
    """Take one key or a column of keys; say whether it was a column.

    Raises:
        DataError: If a key is neither text nor a whole number.
    """
    if _is_key(value):
        return [value], False
    keys = _as_list(value, what, ordered=True)
    _check_keys(keys, what)
    return keys, True


def whole_number(value: Any, what: str, *, usual: int) -> int:
    """Check a number that must be whole and at least 1.

    Raises:
        ConfigError: If it is not.
    """
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
        raise ConfigError(
            f"{what} must be a whole number >= 1, got {_shown(value)}; {usual} is usual"
        )
    return int(value)


def _is_key(value: Any) -> bool:
    """Whether a value stands alone: a key, or what was wrongly given for one."""
    return isinstance(value, (*_ONE_KEY, float, bytes)) or value is None


def _is_tensor(value: Any) -> bool:
    """Whether a value is one of torch's, which is not imported here."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def _as_list(value: Any, what: str, ordered: bool) -> list[Any]:
    if isinstance(value, (str, bytes)):
        raise DataError(f"{what} must be a list of item keys, got the text {value!r}; add brackets")
    wrong = _is_tensor(value) or isinstance(value, Mapping) or not isinstance(value, Iterable)
    wrong |= isinstance(value, np.ndarray) and value.ndim == 0
    if wrong or hasattr(value, "columns"):  # a table
        raise DataError(
            f"{what} must be a list or a column of item keys, got {_shown(value)}; give keys as "
            "the catalogue has them, or one column of the table"
        )
    if ordered and isinstance(value, Set):
        raise DataError(
            f"{what} must be in order, the oldest first, got a set, which has none; give a list"
        )
    for name in ("to_list", "tolist"):  # of polars, of numpy and pandas: Python's own values
        if hasattr(value, name):
            found: list[Any] = getattr(value, name)()
            return found
    return list(value)


def _check_keys(keys: list[Any], what: str) -> None:
    for key in keys:
        endless = isinstance(key, int) and key.bit_length() > _MOST_BITS  # not to be written
        if isinstance(key, bool) or endless or not isinstance(key, _ONE_KEY):
            raise DataError(
                f"{what} must hold keys that are text or whole numbers, got {_shown(key)}; "
                "convert them, and leave out what is missing"
            )


def _shown(value: Any) -> str:
    if isinstance(value, int) and value.bit_length() > _MOST_BITS:
        return f"a whole number of {value.bit_length():,} bits"
    if value is None or isinstance(value, (str, int, float, np.generic)):
        return repr(value)
    return f"a {type(value).__name__}"
