"""A prepared data set: a folder of arrays that training, evaluation and serving read.

Shape legend: N = items, U = users, M = interactions. Needs numpy only, so that a set can be
prepared on one machine and used on another.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import tokenize
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from genrec.atomic import FolderKind, atomic_directory, read_json, write_json_atomic
from genrec.digests import sealed, verify
from genrec.errors import ArtifactError, DataError, MissingPathError

__all__ = [
    "PREPARED",
    "PreparedDataset",
    "StringArray",
    "is_prepared",
    "open_array",
    "write_prepared",
]

FORMAT = "genrec-dataset"
FORMAT_VERSION = 1

_INTEGERS = {
    "sequence_items": np.int32,
    "sequence_offsets": np.int64,
    "train_ends": np.int64,
    "valid_ends": np.int64,
}
#: What numpy raises of a header that is none; it reads it as Python.
_NO_ARRAY = (
    EOFError,
    MemoryError,
    OverflowError,
    RecursionError,
    SyntaxError,
    TypeError,
    ValueError,
    tokenize.TokenError,
)
_ARRAYS = ("item_embeddings", *_INTEGERS)
_STRINGS = ("item_keys", "item_titles", "item_texts", "user_keys")

PREPARED = FolderKind(
    "a prepared data set",
    needed=frozenset({"meta.json", "sequence_items.npy"}),
    others=frozenset(
        {f"{name}.npy" for name in (*_ARRAYS, *_STRINGS)}
        | {f"{name}.offsets.npy" for name in _STRINGS}
        | {"encoder"}
    ),
)


@dataclass(frozen=True, eq=False, repr=False)
class StringArray(Sequence[str]):
    """Strings as one array of UTF-8 bytes and one of offsets, so that they can be memory-mapped.

    Attributes:
        data: All bytes one after another, shape ``(bytes,)``, uint8.
        offsets: Where each string begins, and the end, shape ``(count + 1,)``, int64.
    """

    data: npt.NDArray[np.uint8]
    offsets: npt.NDArray[np.int64]

    @classmethod
    def from_strings(cls, strings: Iterable[str]) -> StringArray:
        """Pack any number of strings, in the same order.

        Raises:
            DataError: If one holds half a letter, which no file can.
        """
        try:
            encoded = [string.encode("utf-8") for string in strings]
        except UnicodeEncodeError as error:
            raise DataError(
                "keys, users and texts must be text that can be written, got "
                f"{error.object!a:.60}; read their source in the right encoding"
            ) from None
        offsets = np.zeros(len(encoded) + 1, dtype=np.int64)
        np.cumsum([len(raw) for raw in encoded], out=offsets[1:])
        return cls(np.frombuffer(b"".join(encoded), dtype=np.uint8), offsets)

    @classmethod
    def load(cls, folder: Path, name: str) -> StringArray:
        """Memory-map what :meth:`save` wrote into a folder under a name.

        Args:
            folder: The folder.
            name: What the files are named after.

        Returns:
            The strings.

        Raises:
            ValueError: If a file is no such array, or the offsets do not lie in the bytes.
            OSError: If a file cannot be read.
        """
        # Plain views of the mapped files: slices of np.memmap itself take ten times as long.
        data = np.asarray(open_array(folder / f"{name}.npy", np.uint8))
        offsets = np.asarray(open_array(folder / f"{name}.offsets.npy", np.int64))
        ordered = len(offsets) > 0 and offsets[0] == 0 and bool(np.all(offsets[:-1] <= offsets[1:]))
        if not ordered or offsets[-1] > len(data):
            raise ValueError(f"{name}.offsets.npy must rise from 0 to at most {len(data)}")
        return cls(data, offsets)

    def save(self, folder: Path, name: str) -> None:
        """Write ``<name>.npy`` and ``<name>.offsets.npy`` into an existing folder."""
        # An empty array cannot be memory-mapped, so a lone terminator stands in.
        data = self.data if len(self.data) else np.zeros(1, dtype=np.uint8)
        np.save(folder / f"{name}.npy", data)
        np.save(folder / f"{name}.offsets.npy", self.offsets)

    def digest(self) -> str:
        """Compute a digest of the strings and their order, 16 hexadecimal digits."""
        digest = hashlib.sha256(np.ascontiguousarray(self.offsets, dtype="<i8").data)
        digest.update(np.ascontiguousarray(self.data[: self.offsets[-1]]).data)
        return digest.hexdigest()[:16]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        position = int(index)
        if position < 0:
            position += len(self)
        if not 0 <= position < len(self):
            raise IndexError(f"index must be below {len(self)}, got {index}")
        start, end = int(self.offsets[position]), int(self.offsets[position + 1])
        return _text(self.data[start:end].tobytes())

    def take(self, rows: npt.NDArray[np.integer]) -> list[str]:
        """Read many strings at once, ``(R,)`` rows in ``[0, count)``: faster than one by one."""
        raw = self.data.data
        begins, ends = self.offsets[rows].tolist(), self.offsets[rows + 1].tolist()
        return [_text(raw[a:b]) for a, b in zip(begins, ends, strict=True)]

    def __iter__(self) -> Iterator[str]:
        raw = self.data.tobytes()
        ends = self.offsets.tolist()
        return (_text(raw[a:b]) for a, b in itertools.pairwise(ends))


def _text(raw: bytes | memoryview) -> str:
    """Decode a string; bytes that are none were damaged where no digest told."""
    try:
        return str(raw, "utf-8")
    except UnicodeDecodeError as error:
        raise ArtifactError(
            f"strings of an artefact must be UTF-8, got {bytes(raw[:40])!r} ({error.reason}); it "
            "was damaged, make its folder again"
        ) from error


@dataclass(frozen=True)
class PreparedDataset:
    """The arrays of one data set, memory-mapped.

    Interactions lie user after user, each user's in time order. Every user's run is cut in
    three: ``[offset, train_end)`` is for training, the items of ``[train_end, valid_end)``
    are validation targets, those of ``[valid_end, next offset)`` are test targets.

    Attributes:
        path: The folder.
        meta: Content of ``meta.json``: name, source, split rule, card, fingerprints.
        item_embeddings: Text embeddings, shape ``(N, dim)``, float32 or float16.
        item_keys: The source's own item ids, ``N``.
        item_titles: What to show a person, ``N``.
        item_texts: What was embedded, ``N``.
        user_keys: The source's own user ids, ``U``.
        sequence_items: Item ids from 0, shape ``(M,)``, int32.
        sequence_offsets: Where each user's run begins, shape ``(U + 1,)``, int64.
        train_ends: Shape ``(U,)``, int64, positions in ``sequence_items``.
        valid_ends: Shape ``(U,)``, int64, positions in ``sequence_items``.
    """

    path: Path
    meta: Mapping[str, Any]
    item_embeddings: npt.NDArray[np.floating[Any]]
    item_keys: StringArray
    item_titles: StringArray
    item_texts: StringArray
    user_keys: StringArray
    sequence_items: npt.NDArray[np.int32]
    sequence_offsets: npt.NDArray[np.int64]
    train_ends: npt.NDArray[np.int64]
    valid_ends: npt.NDArray[np.int64]

    @property
    def num_items(self) -> int:
        """Number of items ``N``."""
        return len(self.item_keys)

    @property
    def num_users(self) -> int:
        """Number of users ``U``."""
        return len(self.user_keys)

    @property
    def num_interactions(self) -> int:
        """Number of interactions ``M``."""
        return len(self.sequence_items)

    @property
    def embedding_dim(self) -> int:
        """Width of the item embeddings."""
        return int(self.item_embeddings.shape[1])

    @property
    def fingerprint(self) -> str:
        """Digest of items, interactions, split and embeddings."""
        return str(self.meta["fingerprint"])

    @property
    def items_fingerprint(self) -> str:
        """Digest of the item keys and their order; what an ID table is checked against."""
        return str(self.meta["items_fingerprint"])

    @property
    def log_fingerprint(self) -> str:
        """Digest of users, items and who interacted when with what; texts and vectors left out.

        Older sets do not have it: theirs is the digest of everything.
        """
        return str(self.meta.get("log_fingerprint", self.fingerprint))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> PreparedDataset:
        """Open a prepared data set without reading it into memory.

        Args:
            path: The folder that :func:`write_prepared` made.

        Returns:
            The data set.

        Raises:
            MissingPathError: If there is no such folder, or it is no prepared data set.
            ArtifactError: If it was written by a newer version, or a file is missing or damaged.
        """
        folder = Path(path)
        if not is_prepared(folder):
            raise MissingPathError(
                f"prepared data set must be a folder with meta.json, got {folder}; "
                "make one with `genrec prepare`"
            )
        meta = read_json(folder / "meta.json")
        if meta.get("format") != FORMAT or meta.get("version") != FORMAT_VERSION:
            raise ArtifactError(
                f"prepared data set must have format {FORMAT} version {FORMAT_VERSION}, got "
                f"{meta.get('format')} version {meta.get('version')} in {folder}; prepare it again"
            )
        verify(folder, meta, what="prepared data set", fix="prepare it again")
        try:
            arrays: dict[str, Any] = {
                name: open_array(folder / f"{name}.npy", dtype) for name, dtype in _INTEGERS.items()
            }
            arrays["item_embeddings"] = open_array(
                folder / "item_embeddings.npy", np.float16, np.float32, ndim=2
            )
            strings: dict[str, Any] = {name: StringArray.load(folder, name) for name in _STRINGS}
            _check_shapes(strings, arrays)
        except (OSError, ValueError) as error:
            raise ArtifactError(
                f"prepared data set must be complete, got {folder} with {error}; prepare it again"
            ) from error
        return cls(path=folder, meta=meta, **arrays, **strings)


def open_array(path: Path, *dtypes: npt.DTypeLike, ndim: int | None = 1) -> npt.NDArray[Any]:
    """Memory-map an array and make sure that it is one of the kind that is expected.

    Args:
        path: A ``.npy`` file.
        dtypes: Types that it may have; any when left out.
        ndim: Number of its axes; None for any.

    Returns:
        The array, read-only; a header that claims more than the file holds is refused.

    Raises:
        ValueError: If it is another array, or none.
        OSError: If the file cannot be read.
    """
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except _NO_ARRAY as error:
        raise ValueError(f"{path.name}: {error}") from error
    if not isinstance(array, np.ndarray):
        raise ValueError(f"{path.name}: an archive of arrays in place of one")
    if ndim not in (None, array.ndim) or (dtypes and array.dtype not in dtypes):
        raise ValueError(f"{path.name} of another kind")
    return array


def is_prepared(path: str | os.PathLike[str]) -> bool:
    """Tell whether :meth:`PreparedDataset.load` would find something to read at a path."""
    return PREPARED.is_at(path)


def write_prepared(
    path: str | os.PathLike[str],
    *,
    name: str,
    source: str,
    split_rule: str,
    encoder: str,
    card: Mapping[str, Any],
    write_more: Callable[[Path], None] | None = None,
    **columns: Any,
) -> PreparedDataset:
    """Write a prepared data set; an older one at the same path is replaced when all is written.

    Args:
        path: The folder to make.
        name: Short name, for example ``amazon-beauty``.
        source: Where the data came from, in words.
        split_rule: How training, validation and test are cut, in words.
        encoder: Which text encoder made the embeddings.
        card: The data card: counts, filters, what was rejected.
        write_more: Called with the folder before it is in its place, to write other files.
        columns: The strings and arrays of :class:`PreparedDataset`, every one by its name: any
            iterable of strings, and arrays of any integer type. Embeddings must be finite;
            float16 and float32 are kept.

    Returns:
        The data set, opened from the disk.

    Raises:
        DataError: If the arrays contradict each other.
        ConfigError: If something else lies at the path.
    """
    PREPARED.check_replaceable(path, "place to prepare into")
    assert set(columns) == {*_STRINGS, *_ARRAYS}, sorted(columns)
    strings = {key: _packed(columns[key]) for key in _STRINGS}
    arrays: dict[str, npt.NDArray[Any]] = {
        key: np.ascontiguousarray(columns[key], dtype=dtype) for key, dtype in _INTEGERS.items()
    }
    arrays["item_embeddings"] = _as_float(columns["item_embeddings"])
    _check(strings, arrays)
    digest, log = hashlib.sha256(), hashlib.sha256()
    for key in _STRINGS:
        digest.update(strings[key].digest().encode())
        if key in ("item_keys", "user_keys"):
            log.update(strings[key].digest().encode())
    for key in _ARRAYS:
        array = arrays[key]
        head, body = f"{key}{array.dtype.str}{array.shape}".encode(), np.ascontiguousarray(array)
        for one in (digest, log) if key in _INTEGERS else (digest,):
            one.update(head)
            one.update(body.data)
    meta = {
        "format": FORMAT,
        "version": FORMAT_VERSION,
        "name": name,
        "source": source,
        "split_rule": split_rule,
        "encoder": encoder,
        "num_items": len(strings["item_keys"]),
        "num_users": len(strings["user_keys"]),
        "num_interactions": len(arrays["sequence_items"]),
        "embedding_dim": int(arrays["item_embeddings"].shape[1]),
        "fingerprint": digest.hexdigest()[:16],
        "items_fingerprint": strings["item_keys"].digest(),
        "log_fingerprint": log.hexdigest()[:16],
        "card": dict(card),
    }
    with atomic_directory(path) as folder:
        for key, value in arrays.items():
            np.save(folder / f"{key}.npy", value)
        for key, packed in strings.items():
            packed.save(folder, key)
        if write_more is not None:
            write_more(folder)
        write_json_atomic(folder / "meta.json", sealed(folder, meta))
    return PreparedDataset.load(path)


def _packed(strings: Iterable[str]) -> StringArray:
    return strings if isinstance(strings, StringArray) else StringArray.from_strings(strings)


def _as_float(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    if array.dtype in (np.float16, np.float32):
        return array
    return np.ascontiguousarray(array, dtype=np.float32)


def _check(strings: Mapping[str, StringArray], arrays: Mapping[str, npt.NDArray[Any]]) -> None:
    """Refuse columns that contradict each other."""
    num_items = len(strings["item_keys"])
    counts = Counter(strings["item_keys"])
    if len(counts) < num_items:
        key, times = counts.most_common(1)[0]
        raise DataError(
            f"item_keys must be unique, got {key!r} {times} times; keep one row an item"
        )
    _check_shapes(strings, arrays)


def _check_shapes(
    strings: Mapping[str, StringArray], arrays: Mapping[str, npt.NDArray[Any]]
) -> None:
    """Refuse lengths and positions that do not fit, before anything is read by them."""
    num_items, num_users = len(strings["item_keys"]), len(strings["user_keys"])
    for key in ("item_titles", "item_texts"):
        if len(strings[key]) != num_items:
            raise DataError(
                f"{key} must have one entry an item, {num_items}, got {len(strings[key])}; "
                "build both from the same table"
            )
    embeddings = arrays["item_embeddings"]
    if embeddings.ndim != 2 or len(embeddings) != num_items:
        raise DataError(
            f"item_embeddings must have shape ({num_items}, dim), got {embeddings.shape}; "
            "give one row an item, in the order of the items"
        )
    items, offsets = arrays["sequence_items"], arrays["sequence_offsets"]
    if len(offsets) != num_users + 1 or offsets[0] != 0 or offsets[-1] != len(items):
        raise DataError(
            f"sequence_offsets must rise from 0 to {len(items)} in {num_users + 1} steps, got "
            f"{len(offsets)} from {offsets[:1]} to {offsets[-1:]}; build both from the same table"
        )
    if len(items) and (items.min() < 0 or items.max() >= num_items):
        raise DataError(
            f"sequence_items must lie in [0, {num_items}), got {items.min()} to {items.max()}; "
            "number the items from 0"
        )
    train, valid = arrays["train_ends"], arrays["valid_ends"]
    ordered = (
        len(train) == len(valid) == num_users
        and bool(np.all(offsets[:-1] <= train))
        and bool(np.all(train <= valid))
        and bool(np.all(valid <= offsets[1:]))
    )
    if not ordered:
        raise DataError(
            "train_ends and valid_ends must lie in order inside each user's run, got ends that "
            "do not; make them with genrec.data.splits"
        )
