"""The folder that a table of semantic IDs is kept in.

It holds ``ids.npy`` (``(N, L)``, int32), the item keys and ``meta.json``, and needs nothing else
to be used. Shape legend: N = items, L = levels of an ID.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from genrec.atomic import FolderKind, atomic_directory, read_json, write_json_atomic
from genrec.data.prepared import StringArray, open_array
from genrec.digests import sealed, verify
from genrec.errors import ArtifactError, MissingPathError

__all__ = [
    "ARTIFACT_NAME",
    "ID_TABLE",
    "check_codes",
    "join_keys",
    "pack_keys",
    "read_artifact",
    "read_codes",
    "row_keys",
    "write_artifact",
]

ARTIFACT_NAME = "semantic_ids"  # folder inside a stage-one run

_FORMAT = "genrec-semantic-ids"
_FORMAT_VERSION = 1
_AGAIN = "make them again with `genrec tokenize RUN_DIR`"

ID_TABLE = FolderKind(
    "an ID table",
    needed=frozenset({"meta.json"}),
    others=frozenset({"ids.npy", "item_keys.npy", "item_keys.offsets.npy"}),
    format=_FORMAT,
)


def write_artifact(
    path: str | os.PathLike[str],
    *,
    ids: npt.NDArray[np.int32],
    item_keys: StringArray,
    meta: dict[str, Any],
) -> None:
    """Write a table; an older one at the same path is replaced when all is written.

    Args:
        path: The folder.
        ids: Codes, shape ``(N, L)``.
        item_keys: The catalogue's own item ids, ``N``.
        meta: What else describes the table; JSON-able.

    Raises:
        ConfigError: If something else lies at the path.
    """
    ID_TABLE.check_replaceable(path, "folder of an ID table")
    with atomic_directory(path) as folder:
        np.save(folder / "ids.npy", ids.astype("<i4", copy=False))
        item_keys.save(folder, "item_keys")
        head = {"format": _FORMAT, "version": _FORMAT_VERSION}
        shape = {"num_items": ids.shape[0], "num_levels": ids.shape[1]}
        write_json_atomic(folder / "meta.json", sealed(folder, head | shape | meta))


def read_artifact(
    path: str | os.PathLike[str],
) -> tuple[Path, npt.NDArray[np.int32], StringArray, dict[str, Any]]:
    """Open a table; its arrays stay memory-mapped.

    Args:
        path: The folder, or a run folder that holds it as ``semantic_ids``.

    Returns:
        ``(folder, ids, item keys, meta)``.

    Raises:
        MissingPathError: If there is none.
        ArtifactError: If it is damaged or of another version.
    """
    folder = Path(path)
    if (folder / ARTIFACT_NAME / "meta.json").is_file():
        folder = folder / ARTIFACT_NAME
    if not (folder / "meta.json").is_file() or not (folder / "ids.npy").is_file():
        raise MissingPathError(
            f"semantic IDs must be a folder with ids.npy and meta.json, got {path}; "
            "make them with `genrec tokenize RUN_DIR`"
        )
    try:
        meta = read_json(folder / "meta.json")
        if (meta.get("format"), meta.get("version")) != (_FORMAT, _FORMAT_VERSION):
            raise ArtifactError(
                f"semantic IDs must have format {_FORMAT} version {_FORMAT_VERSION}, got "
                f"{meta.get('format')} version {meta.get('version')} in {folder}; {_AGAIN}"
            )
        verify(folder, meta, what="semantic IDs", fix=_AGAIN)
        ids = open_array(folder / "ids.npy", np.int32, ndim=2)
        keys = StringArray.load(folder, "item_keys")
    except ArtifactError:
        raise
    except (AttributeError, OSError, ValueError) as error:
        raise ArtifactError(
            f"semantic IDs must be complete, got {folder} with {error}; {_AGAIN}"
        ) from error
    return folder, ids, keys, meta


def read_codes(path: str | os.PathLike[str]) -> npt.NDArray[Any]:
    """Read whatever array a ``.npy`` file holds.

    Raises:
        MissingPathError: If there is no such file.
        ArtifactError: If it is no array.
    """
    if not Path(path).is_file():
        raise MissingPathError(f"table of codes must exist, got {path}; check the path")
    try:
        array: npt.NDArray[Any] = np.array(open_array(Path(path), ndim=None))
    except ValueError as error:
        raise ArtifactError(
            f"table of codes must be a .npy file, got {path} with {error}; save it with np.save"
        ) from error
    return array


def check_codes(ids: npt.NDArray[Any], level_sizes: Sequence[int], *, num_keys: int) -> None:
    """Refuse a table that contradicts itself.

    Args:
        ids: Codes, to be of shape ``(N, L)``.
        level_sizes: Codes of each level, to be ``L``.
        num_keys: Number of item keys, to be ``N``.

    Raises:
        ArtifactError: If something does not fit.
    """
    if ids.ndim != 2 or not np.issubdtype(ids.dtype, np.integer):
        raise ArtifactError(
            f"ids must be whole numbers of shape (N, L), got {ids.dtype} of shape {ids.shape}; "
            "give one row of codes an item"
        )
    if len(level_sizes) != ids.shape[1]:
        raise ArtifactError(
            f"level_sizes must have one entry a level, {ids.shape[1]}, got {len(level_sizes)}; "
            "give the number of codes of each column"
        )
    if num_keys != len(ids):
        raise ArtifactError(
            f"item_keys must have one entry an item, {len(ids)}, got {num_keys}; "
            "use the keys of the items that were embedded"
        )
    for level, size in enumerate(level_sizes):
        low, high = ids[:, level].min(initial=0), ids[:, level].max(initial=0)
        if len(ids) and (low < 0 or high >= size):
            raise ArtifactError(
                f"codes of level {level + 1} must lie in [0, {size}), got {low} to {high}; "
                "set level_sizes to the sizes of the codebooks"
            )


def pack_keys(strings: Iterable[str]) -> StringArray:
    """Pack strings, unless they are packed already."""
    return strings if isinstance(strings, StringArray) else StringArray.from_strings(strings)


def join_keys(first: StringArray, second: StringArray) -> StringArray:
    """Put two packed arrays one after the other, without unpacking them."""
    head, tail = first.offsets, second.offsets
    data = np.concatenate([first.data[: head[-1]], second.data[: tail[-1]]])
    return StringArray(data, np.concatenate([head, head[-1] + tail[1:]]))


def row_keys(count: int) -> StringArray:
    """Write the numbers ``0 .. count - 1`` as keys, without a Python string for each."""
    data, lengths = [np.zeros(0, dtype=np.uint8)], [np.zeros(1, dtype=np.int64)]
    width, start = 1, 0
    while start < count:
        stop = min(count, 10**width)
        numbers = np.arange(start, stop)
        digits = np.empty((stop - start, width), dtype=np.uint8)
        for place in reversed(range(width)):
            numbers, digits[:, place] = np.divmod(numbers, 10)
        digits += ord("0")
        data.append(digits.ravel())
        lengths.append(np.full(stop - start, width, dtype=np.int64))
        width, start = width + 1, stop
    return StringArray(np.concatenate(data), np.cumsum(np.concatenate(lengths)))
