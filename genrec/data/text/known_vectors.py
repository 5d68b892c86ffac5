"""What a run remembers of its items' vectors, to tell later ones of the same space from others.

Shape legend: N = items, D = width of the vectors, P = numbers kept of each vector.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from genrec.atomic import atomic_directory, read_json, write_json_atomic
from genrec.data.prepared import PreparedDataset, StringArray, open_array
from genrec.digests import sealed, verify
from genrec.errors import ArtifactError

__all__ = [
    "KNOWN_VECTORS_NAME",
    "NUM_COMPARED",
    "NUM_PROJECTIONS",
    "SAME_VECTOR",
    "KnownVectors",
    "vector_sketch",
]

KNOWN_VECTORS_NAME = "known_vectors"  # folder inside a stage-one run

#: Numbers kept of each vector: 256 bytes an item, whatever the width. Older runs kept the first
#: eight, by which equal vectors are known; neighbours need all.
NUM_PROJECTIONS = 64
NUM_COMPARED = 8
#: Two sketches are of one vector if they differ by less of its length: float16 copies and other
#: batch sizes of a GPU stay below it.
_TOLERANCE = 0.01
#: The same for single numbers of a sketch of one vector that was never rounded otherwise.
SAME_VECTOR = 1e-3
#: Share of the shared items whose vectors may differ, since texts of a few are edited now and then.
_MAX_EDITED = 0.1


@dataclass(frozen=True)
class KnownVectors:
    """Random projections of every item's vector.

    Attributes:
        item_keys: The items, ``N``.
        sketch: Their projections, shape ``(N, P)``, float32.
        width: Width of the vectors, ``D``.
    """

    item_keys: StringArray
    sketch: npt.NDArray[np.float32]
    width: int

    @classmethod
    def of(cls, data: PreparedDataset) -> KnownVectors:
        """Remember the vectors of a data set."""
        return cls(data.item_keys, vector_sketch(data.item_embeddings), data.embedding_dim)

    def save(self, run: Path) -> None:
        """Write into the folder of a run."""
        with atomic_directory(run / KNOWN_VECTORS_NAME) as folder:
            self.item_keys.save(folder, "item_keys")
            np.save(folder / "sketch.npy", self.sketch)
            np.save(folder / "width.npy", np.array(self.width))
            write_json_atomic(folder / "meta.json", sealed(folder, {}))

    @classmethod
    def load(cls, run: str | os.PathLike[str]) -> KnownVectors:
        """Open what :meth:`save` wrote.

        Raises:
            ArtifactError: If the run does not have it, or it is damaged.
        """
        folder = Path(run) / KNOWN_VECTORS_NAME
        try:
            if (folder / "meta.json").is_file():  # older runs have no digests
                verify(
                    folder,
                    read_json(folder / "meta.json"),
                    what=f"{KNOWN_VECTORS_NAME}/",
                    fix="train the run again",
                )
            width = open_array(folder / "width.npy", ndim=0)
            return cls(
                StringArray.load(folder, "item_keys"),
                np.array(open_array(folder / "sketch.npy", np.float32, ndim=2)),
                int(width),
            )
        except ArtifactError:
            raise
        except (AttributeError, EOFError, OSError, TypeError, ValueError) as error:
            raise ArtifactError(
                f"run must say with which vectors it was trained, got {run} without a readable "
                f"{KNOWN_VECTORS_NAME}/ ({error}); train it again"
            ) from error

    def check(self, data: PreparedDataset) -> int:
        """Refuse a data set whose items do not lie where the run's items lie.

        Args:
            data: A data set with items of the run and others; one without any cannot be told.

        Returns:
            Number of items whose vectors differ, few enough to be edited texts.

        Raises:
            ArtifactError: If the width is another one, or more than a tenth of the shared items
                have other vectors.
        """
        if data.embedding_dim != self.width:
            raise ArtifactError(
                f"item vectors must be {self.width} wide as those of the run, got "
                f"{data.embedding_dim} in {data.path}; {_FIX}"
            )
        row_of = {key: row for row, key in enumerate(self.item_keys)}
        known = np.array([row_of.get(key, -1) for key in data.item_keys], dtype=np.int64)  # (N,)
        here = np.flatnonzero(known >= 0)
        if len(here) == 0:
            return 0
        before = self.sketch[known[here], :NUM_COMPARED]
        now = vector_sketch(data.item_embeddings)[here, :NUM_COMPARED]
        length = np.linalg.norm(before, axis=1).clip(min=np.linalg.norm(before, axis=1).mean())
        moved = np.linalg.norm(now - before, axis=1) > _TOLERANCE * length + 1e-6
        if moved.mean() > _MAX_EDITED:
            raise ArtifactError(
                f"items of the run must have the vectors that it was trained on, got other ones "
                f"for {int(moved.sum())} of {len(here)} in {data.path}; {_FIX}"
            )
        return int(moved.sum())


_FIX = "prepare it with `genrec prepare ... --like RUN_DIR`, which uses the run's own encoder"


def vector_sketch(vectors: npt.NDArray[Any], *, block: int = 65_536) -> npt.NDArray[np.float32]:
    """Project vectors, ``(N, D)``, memory-mapped or not, to ``(N, P)``; NaN and Inf count as 0."""
    # The same directions for ever: a run compares with what another version wrote.
    draw, width = np.random.RandomState(0), vectors.shape[1]
    parts = (NUM_COMPARED, NUM_PROJECTIONS - NUM_COMPARED)
    drawn = [draw.standard_normal((width, count)) for count in parts]
    directions = np.concatenate(drawn, axis=1).astype(np.float32)
    result = np.empty((len(vectors), NUM_PROJECTIONS), dtype=np.float32)
    for start in range(0, len(vectors), block):
        rows = np.nan_to_num(np.asarray(vectors[start : start + block], dtype=np.float32))
        result[start : start + block] = rows @ directions
    return result
