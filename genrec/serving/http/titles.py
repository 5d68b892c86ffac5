"""Search in titles: one array of bytes, walked by array operations only.

Shape legend: N = items, P = places in the bytes.
"""

from __future__ import annotations

import unicodedata

import numpy as np
import numpy.typing as npt

from genrec.data.prepared import StringArray

__all__ = ["TitleIndex"]

_MAX_WORDS = 16


class TitleIndex:
    """Finds titles that hold all words of a query, anywhere, whatever their case.

    Args:
        titles: ``N`` titles.
        counts: How often each item was taken, shape ``(N,)``: the more, the earlier; or None.

    Example:
        >>> titles = StringArray.from_strings(["Red cup", "Blue cup", "Cupboard, red"])
        >>> TitleIndex(titles, None).find("cup red", 5, None).tolist()
        [0, 2]
    """

    def __init__(self, titles: StringArray, counts: npt.NDArray[np.int64] | None) -> None:
        first, last = titles.offsets[0], titles.offsets[-1]
        raw = np.asarray(titles.data[first:last])
        raw = np.where(raw == 0, np.uint8(32), raw)  # NUL parts the titles
        parted = np.insert(raw, np.asarray(titles.offsets[1:-1]) - first, 0)
        self._bytes = np.frombuffer(_folded(parted.tobytes().decode("utf-8")), dtype=np.uint8)
        self._ends = np.flatnonzero(self._bytes == 0)
        self._frequency = np.bincount(self._bytes, minlength=256)
        self._counts = np.zeros(len(titles), dtype=np.int64) if counts is None else counts
        self._size = len(titles)

    def find(
        self, query: str, limit: int, keep: npt.NDArray[np.bool_] | None
    ) -> npt.NDArray[np.int64]:
        """Find titles: those with the most words that begin as asked for, then the most taken.

        Args:
            query: Words, or parts of words.
            limit: Most results, >= 1.
            keep: Which items may be found, shape ``(N,)``; all when None.

        Returns:
            Rows, at most ``limit``, int64; of equal ones the lower first. Without words: none.
        """
        words = list(dict.fromkeys(_folded(query.replace("\0", " ")).split()))[:_MAX_WORDS]
        if not words or self._size == 0:
            return np.empty(0, dtype=np.int64)
        found = np.ones(self._size, dtype=bool) if keep is None else keep.copy()
        begins = np.zeros(self._size, dtype=np.int64)
        for word in sorted(words, key=len, reverse=True):
            places = self._places(np.frombuffer(word, dtype=np.uint8))
            rows = np.searchsorted(self._ends, places)
            here = np.zeros(self._size, dtype=bool)
            here[rows] = True
            found &= here
            if not found.any():
                return np.empty(0, dtype=np.int64)
            starts = np.zeros(self._size, dtype=bool)
            starts[rows[_PARTING[self._bytes[places - 1]] | (places == 0)]] = True
            begins += starts
        rows = np.flatnonzero(found)
        order = np.lexsort((rows, -self._counts[rows], -begins[rows]))
        return rows[order[:limit]]

    def _places(self, word: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
        """Find where a word stands, ``(P,)``: its rarest byte first, so that few places stay."""
        width = len(word)
        if width > len(self._bytes):
            return np.empty(0, dtype=np.int64)
        order = np.argsort(self._frequency[word], kind="stable")
        first = int(order[0])
        stop = len(self._bytes) - width + 1
        places = np.flatnonzero(self._bytes[first : first + stop] == word[first])
        for at in order[1:].tolist():
            places = places[self._bytes[places + at] == word[at]]
        return places


def _folded(text: str) -> bytes:
    """Write a text as it is compared: without case and without two ways to write a letter."""
    return unicodedata.normalize("NFKC", text).casefold().encode("utf-8")


def _parting() -> npt.NDArray[np.bool_]:
    """Mark the bytes that no word holds: what is neither letter nor digit, of ASCII."""
    codes = np.arange(256)
    letters = ((codes >= 97) & (codes <= 122)) | ((codes >= 48) & (codes <= 57)) | (codes >= 128)
    return ~letters


_PARTING = _parting()
