"""The items that a run knows, kept in the run's folder so that it can be used without its data.

Shape legend: N = items, L = levels of a semantic ID.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from genrec.atomic import atomic_directory, read_json, write_json_atomic
from genrec.data.prepared import PreparedDataset, StringArray, open_array
from genrec.data.text.known_vectors import NUM_COMPARED, NUM_PROJECTIONS, vector_sketch
from genrec.digests import sealed, verify
from genrec.errors import ArtifactError

__all__ = ["CATALOGUE_NAME", "Catalogue"]

CATALOGUE_NAME = "catalogue"  # folder inside a run

_FORMAT = "genrec-catalogue"
_FORMAT_VERSION = 1
#: Beside keys and titles, where they are known; catalogues of older runs have none of them.
_ARRAYS: dict[str, tuple[type, tuple[tuple[int, ...], ...]]] = {
    "counts": (np.int64, ((),)),
    "removed": (np.bool_, ((),)),
    "sketch": (np.float32, ((NUM_PROJECTIONS,), (NUM_COMPARED,))),
}


@dataclass(frozen=True, eq=False)
class Catalogue:
    """Items by row, as a run was trained on them.

    Attributes:
        item_keys: The source's own item ids, ``N``.
        item_titles: What to show a person, ``N``.
        codes: Semantic IDs, shape ``(N, L)``, int32, or None where there are none.
        level_sizes: Codes of each level, ``L`` numbers, with ``codes``.
        groups: Equal where the codes before repair are equal, shape ``(N,)``, int64, with
            ``codes``; SID-level metrics count an item of the target's group as a hit.
        counts: How often each item was taken, shape ``(N,)``, int64; None where unknown.
        removed: Which items shall not be recommended any more, shape ``(N,)``, bool; None for
            none. They keep their rows, so that histories may hold them.
        sketch: Of the text vectors, by which equal ones and neighbours are known, from
            :func:`~genrec.data.text.known_vectors.vector_sketch`, shape ``(N, P)``, float32; NaN
            where an item's is unknown, None where all are. In older runs P is 8.
    """

    item_keys: StringArray
    item_titles: StringArray
    codes: npt.NDArray[np.int32] | None = None
    level_sizes: tuple[int, ...] | None = None
    groups: npt.NDArray[np.int64] | None = None
    counts: npt.NDArray[np.int64] | None = None
    removed: npt.NDArray[np.bool_] | None = None
    sketch: npt.NDArray[np.float32] | None = None

    @classmethod
    def from_data(cls, data: PreparedDataset) -> Catalogue:
        """Take the items of a data set and count all its interactions; without codes."""
        counts = np.bincount(data.sequence_items, minlength=data.num_items)
        return cls(
            data.item_keys,
            data.item_titles,
            counts=counts.astype(np.int64),
            sketch=vector_sketch(data.item_embeddings),
        )

    def extended(
        self,
        keys: Sequence[str],
        titles: Sequence[str],
        vectors: npt.NDArray[np.floating[Any]] | None = None,
    ) -> Catalogue:
        """Add items behind the known ones; without codes, which another table must bring.

        Args:
            keys: Theirs.
            titles: Likewise.
            vectors: Their text vectors, where they are known.

        Returns:
            The larger catalogue.
        """
        new = len(keys)
        known = self.sketch
        if known is not None:
            more = np.full((new, known.shape[1]), np.nan, dtype=np.float32)
            if vectors is not None:
                more = vector_sketch(vectors)[:, : known.shape[1]]
            known = np.concatenate([known, more])
        return Catalogue(
            StringArray.from_strings([*self.item_keys, *keys]),
            StringArray.from_strings([*self.item_titles, *titles]),
            counts=None if self.counts is None else np.pad(self.counts, (0, new)),
            removed=None if self.removed is None else np.pad(self.removed, (0, new)),
            sketch=known,
        )

    @property
    def num_items(self) -> int:
        """Number of items ``N``."""
        return len(self.item_keys)

    @cached_property
    def items_fingerprint(self) -> str:
        """Digest of the item keys and their order, as that of a prepared data set."""
        return self.item_keys.digest()

    def save(self, run_folder: str | os.PathLike[str]) -> None:
        """Write keys, titles, counts and removals as ``catalogue/``; codes have their own place.

        Args:
            run_folder: The run's folder; an older catalogue in it is replaced when all is written.
        """
        with atomic_directory(Path(run_folder) / CATALOGUE_NAME) as folder:
            self.item_keys.save(folder, "item_keys")
            self.item_titles.save(folder, "item_titles")
            for name in _ARRAYS:
                if (array := getattr(self, name)) is not None:
                    np.save(folder / f"{name}.npy", array)
            meta = {"format": _FORMAT, "version": _FORMAT_VERSION, "num_items": self.num_items}
            write_json_atomic(folder / "meta.json", sealed(folder, meta))

    @classmethod
    def load(cls, run_folder: str | os.PathLike[str]) -> Catalogue | None:
        """Open the catalogue of a run, memory-mapped and without codes.

        Args:
            run_folder: The run's folder.

        Returns:
            The catalogue, or None where the run has none.

        Raises:
            ArtifactError: If it is damaged or of another version.
        """
        folder = Path(run_folder) / CATALOGUE_NAME
        if not folder.is_dir():
            return None
        try:
            meta = read_json(folder / "meta.json")
            version, count = (meta["format"], meta["version"]), meta["num_items"]
            if version == (_FORMAT, _FORMAT_VERSION):
                verify(folder, meta, what="catalogue", fix="train the run again")
            keys, titles = (StringArray.load(folder, f"item_{what}") for what in ("keys", "titles"))
            files = {name: folder / f"{name}.npy" for name in _ARRAYS}
            arrays: dict[str, Any] = {
                name: open_array(file, ndim=None) for name, file in files.items() if file.is_file()
            }
        except ArtifactError:
            raise
        except (EOFError, KeyError, OSError, TypeError, ValueError) as error:
            raise ArtifactError(
                f"catalogue must be complete, got {folder} with {error}; train the run again"
            ) from error
        found = (*version, len(keys), len(titles))
        if found != (_FORMAT, _FORMAT_VERSION, count, count):
            raise ArtifactError(
                f"catalogue must have format {_FORMAT} version {_FORMAT_VERSION} and {count} keys "
                f"and titles, got {found} in {folder}; train the run again"
            )
        for name, array in arrays.items():
            kind, widths = _ARRAYS[name]
            if array.shape not in [(count, *width) for width in widths] or array.dtype != kind:
                raise ArtifactError(
                    f"{name} of a catalogue must be {count} values of {kind.__name__}, "
                    f"got {array.dtype} of shape {array.shape} in {folder}; train the run again"
                )
        return cls(keys, titles, **arrays)
