"""Vectors that you bring yourself: a ``.npy`` file, with or without a list of item keys.

Shape legend: N = items, R = rows of the file, D = width of the vectors.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from genrec.data.prepared import open_array
from genrec.errors import DataError, MissingPathError

__all__ = ["PrecomputedEncoder", "read_item_keys"]


class PrecomputedEncoder:
    """Take the items' vectors from a ``.npy`` file instead of their texts.

    Args:
        path: Array of shape ``(R, D)``, floating point.
        keys: Item keys of the rows: a list, or a file with one key a line or a JSON list. None
            looks for ``<name>.keys.txt`` and ``<name>.keys.json`` beside the array; where there
            is neither, the rows must be the catalogue's items in their order.
        replace_non_finite: Put 0 where a value is NaN or Inf, instead of refusing the file.

    Attributes:
        name: The file's name.
        identity: Its path, size and time.
        cacheable: False; the file is on disk already.
        num_replaced: Values that the last call of :meth:`encode` put 0 for.
        num_unused: Rows of the file that the last call had no item for.
    """

    cacheable = False

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        keys: Sequence[str] | str | os.PathLike[str] | None = None,
        replace_non_finite: bool = False,
    ) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise MissingPathError(
                f"embeddings file must exist, got {self.path}; give the path of a .npy array "
                "with one row an item"
            )
        status = self.path.stat()
        self.name = self.path.name
        self.identity = f"{self.path.resolve()}:{status.st_size}:{status.st_mtime_ns}"
        self.replace_non_finite = replace_non_finite
        self.num_replaced = 0
        self.num_unused = 0
        self._keys = self._find_keys() if keys is None else keys

    def encode(
        self, texts: Sequence[str], *, item_keys: Sequence[str] | None = None
    ) -> npt.NDArray[np.floating[Any]]:
        """Look the items' vectors up.

        Args:
            texts: The items' texts; only their number matters.
            item_keys: The items' ids, needed where the file comes with keys.

        Returns:
            Vectors, shape ``(N, D)``; float16 and float32 stay what they are.

        Raises:
            DataError: If shape, kind, keys or values do not fit.
        """
        vectors = self._load()  # (R, D)
        self.num_unused = 0
        if self._keys is None:
            if len(vectors) != len(texts):
                raise DataError(
                    f"embeddings file must have one row an item, {len(texts)}, got "
                    f"{vectors.shape} in {self.path}; give the vectors of these very items in "
                    f"their order, or their keys in {self.path.with_suffix('.keys.txt').name}"
                )
        else:
            vectors = vectors[self._rows(len(vectors), item_keys)]  # (N, D)
        return self._finite(vectors)

    def _load(self) -> npt.NDArray[np.floating[Any]]:
        try:
            vectors = open_array(self.path, ndim=None)
        except (OSError, ValueError) as error:
            raise DataError(
                f"embeddings file must be a .npy array, got {self.path} ({error}); "
                "write it with numpy.save"
            ) from None
        if vectors.ndim != 2 or 0 in vectors.shape or not np.issubdtype(vectors.dtype, np.floating):
            raise DataError(
                f"embeddings file must hold floating point of shape (items, dim), got "
                f"{vectors.dtype} of shape {vectors.shape} in {self.path}; one row an item"
            )
        if vectors.dtype not in (np.float16, np.float32):
            vectors = vectors.astype(np.float32)
        return vectors

    def _find_keys(self) -> Path | None:
        beside = (self.path.with_suffix(".keys.txt"), self.path.with_suffix(".keys.json"))
        return next((path for path in beside if path.is_file()), None)

    def _rows(self, num_rows: int, item_keys: Sequence[str] | None) -> npt.NDArray[np.int64]:
        assert self._keys is not None
        if isinstance(self._keys, (str, os.PathLike)):
            keys = read_item_keys(self._keys)
        else:
            keys = [str(key) for key in self._keys]
        if len(keys) != num_rows:
            raise DataError(
                f"item keys must be as many as the rows of {self.path}, {num_rows}, got "
                f"{len(keys)}; write one key a row, in the order of the rows"
            )
        row_of = {key: row for row, key in enumerate(keys)}
        if len(row_of) != len(keys):
            raise DataError(
                f"item keys of {self.path} must be unique, got {len(keys) - len(row_of)} that "
                "repeat; keep one row an item"
            )
        if item_keys is None:
            raise DataError(
                f"embeddings with keys must be asked for with item_keys, got none for {self.path}; "
                "pass item_keys"
            )
        missing = [key for key in item_keys if key not in row_of]
        if missing:
            raise DataError(
                f"embeddings file must hold a row for each of the {len(item_keys)} items, got "
                f"{len(missing)} items without one in {self.path}, the first {missing[0]!r}; "
                "add their vectors"
            )
        self.num_unused = num_rows - len(item_keys)
        return np.fromiter((row_of[key] for key in item_keys), np.int64, len(item_keys))

    def _finite(self, vectors: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.floating[Any]]:
        finite = np.isfinite(vectors)
        self.num_replaced = int(finite.size - np.count_nonzero(finite))
        if not self.num_replaced:
            return vectors
        if not self.replace_non_finite:
            rows = int((~finite).any(axis=1).sum())
            raise DataError(
                f"embeddings must be finite, got {self.num_replaced} values NaN or Inf in {rows} "
                f"rows of {self.path}; repair them, or replace them with 0 by "
                "replace_non_finite=True (--replace-non-finite)"
            )
        return np.where(finite, vectors, np.zeros((), dtype=vectors.dtype))


def read_item_keys(path: str | os.PathLike[str]) -> list[str]:
    """Read item keys: one a line, or a JSON list where the file ends in ``.json``.

    Raises:
        MissingPathError: If there is no such file.
        DataError: If the JSON is no list.
    """
    file = Path(path)
    if not file.is_file():
        raise MissingPathError(f"file of item keys must exist, got {file}; write one key a line")
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(
            f"file of item keys must be UTF-8, got {file} ({error}); save it as UTF-8"
        ) from None
    if file.suffix != ".json":
        return text.splitlines()
    try:
        keys = json.loads(text)
    except (RecursionError, ValueError) as error:
        raise DataError(
            f"file of item keys must be JSON, got {file} ({error}); repair it"
        ) from None
    if not isinstance(keys, list):
        raise DataError(
            f"file of item keys must hold a JSON list, got {type(keys).__name__} in {file}; "
            'for example ["a", "b"]'
        )
    return [str(key) for key in keys]
