"""The space that stage one quantises: what an item's text says, beside who takes it with what.

Shape legend: N = items, B = rows, D = width of the text, C = width of the collaborative vectors.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from genrec.atomic import atomic_directory, read_json, write_json_atomic
from genrec.data.prepared import PreparedDataset, open_array
from genrec.digests import sealed, verify
from genrec.errors import ArtifactError, ConfigError, DataError, MissingPathError

__all__ = ["SPACE_NAME", "FusedSpace"]

SPACE_NAME = "item_space"  # folder inside a run

_FORMAT = "genrec-fused-space"
_FORMAT_VERSION = 1
#: Their names and numbers of axes.
_ARRAYS = {"text_mean": 1, "coefficients": 2, "intercept": 1, "vectors": 2}

Floats = npt.NDArray[np.floating[Any]]
Array = npt.NDArray[np.float32]


@dataclass(frozen=True)
class FusedSpace:
    """Text and collaborative vectors of unit length side by side, for known and new items.

    A row is ``((1 - weight) * text, weight * collaborative)``, scaled to length one, so that a
    quantiser's loss means the same at every weight. Items without a collaborative vector (new
    ones, and those that the training part does not show) get the one that their text foretells
    by ridge regression.

    Attributes:
        weight: Share of the collaborative part, in ``[0, 1]``. At 0 rows are the text vectors
            as they are, at 1 the collaborative ones alone.
        text_mean: Taken off every text vector, shape ``(D,)``, float32.
        coefficients: From centred text of unit length to collaborative vectors, ``(D, C)``.
        intercept: Shape ``(C,)``, float32.
        vectors: Of the catalogue that was fitted, shape ``(N, C)``, float32; zero where an item
            has none. ``C`` is 0 at weight 0.
        items_fingerprint: Digest of that catalogue's keys and their order.
    """

    weight: float
    text_mean: Array
    coefficients: Array
    intercept: Array
    vectors: Array
    items_fingerprint: str

    @classmethod
    def fit(
        cls,
        data: PreparedDataset,
        *,
        weight: float,
        dim: int = 64,
        window: int = 5,
        ridge: float = 0.1,
        seed: int = 0,
        setting: str = "weight",
    ) -> FusedSpace:
        """Learn the space of a catalogue; reads the training part and the texts only.

        Args:
            data: The data set.
            weight: Share of the collaborative part, in ``[0, 1]``.
            dim: Width ``C`` of the collaborative vectors, >= 1.
            window: Farthest distance at which two items of a user count, >= 1.
            ridge: Penalty of the regression, in mean squares of one coordinate of the text, > 0;
                larger brings new items nearer to the mean.
            seed: Seed of the SVD.
            setting: What ``weight`` is called where it was set, for errors.

        Returns:
            The space.

        Raises:
            ConfigError: If a setting is out of range.
            DataError: If the training part holds no pair of items, or a text vector is not
                finite.
        """
        if not 0 <= weight <= 1:
            raise ConfigError(
                f"collaborative weight must lie in [0, 1], got {weight}; 0 is text alone, 0.5 both"
            )
        if ridge <= 0:
            raise ConfigError(f"collaborative ridge must be > 0, got {ridge}; 0.1 is usual")
        width = data.embedding_dim
        if weight == 0:
            vectors = np.zeros((data.num_items, 0), np.float32)
            nothing = np.zeros((width, 0), np.float32)
            mean = np.zeros(width, np.float32)
            return cls(0.0, mean, nothing, nothing[0], vectors, data.items_fingerprint)
        from genrec.data.text.collaborative import collaborative_vectors  # brings SciPy

        try:
            vectors = collaborative_vectors(data, dim=dim, window=window, seed=seed)
        except DataError as error:
            raise DataError(f"{error}; set {setting}=0 for text alone") from None
        texts = data.item_embeddings
        total = np.zeros(width)
        for part in _chunks(len(texts)):
            total += texts[part].sum(axis=0, dtype=np.float64)
        if not np.isfinite(total).all():
            raise DataError(
                f"item embeddings must be finite, got NaN or inf in {data.path}; embed them again"
            )
        mean = (total / len(texts)).astype(np.float32)
        coefficients, intercept = _ridge(texts, mean, vectors, ridge)
        return cls(float(weight), mean, coefficients, intercept, vectors, data.items_fingerprint)

    @property
    def dim(self) -> int:
        """Width of the space: ``D + C``, or ``D`` or ``C`` where one part has no weight."""
        text, collaborative = self.coefficients.shape
        return text * (self.weight < 1) + collaborative

    @property
    def num_known(self) -> int:
        """Items of the catalogue that have a collaborative vector of their own."""
        return int(self.vectors.any(axis=1).sum())

    def transform(
        self,
        text_embeddings: Floats,
        known_rows: npt.NDArray[np.integer[Any]] | None = None,
    ) -> Array:
        """Place items in the space.

        Args:
            text_embeddings: From the same encoder as the fitted ones, shape ``(B, D)``, in
                memory or memory-mapped.
            known_rows: Row of each item in the fitted catalogue, shape ``(B,)``, -1 for a new
                item; None where all are new. The catalogue itself: ``np.arange(N)``.

        Returns:
            Shape ``(B, dim)``, float32.

        Raises:
            ArtifactError: If the text vectors have another width.
            DataError: If ``known_rows`` does not fit the items or the catalogue.
        """
        count, width = text_embeddings.shape
        if width != len(self.text_mean):
            raise ArtifactError(
                f"text vectors must be {len(self.text_mean)} wide, got {width}; "
                "embed the items with the encoder that the run was trained with"
            )
        rows = np.full(count, -1) if known_rows is None else np.asarray(known_rows)
        low, high = rows.min(initial=-1), rows.max(initial=-1)
        if rows.shape != (count,) or low < -1 or high >= len(self.vectors):
            raise DataError(
                f"known_rows must hold {count} rows in [-1, {len(self.vectors)}), got shape "
                f"{rows.shape} from {low} to {high}; use -1 for new items"
            )
        result = np.empty((count, self.dim), np.float32)
        for part in _chunks(count):
            result[part] = self._rows(text_embeddings[part], rows[part])
        return result

    def _rows(self, texts: Floats, rows: npt.NDArray[np.integer[Any]]) -> Array:
        """Place one chunk: ``(B, D)`` and ``(B,)`` to ``(B, dim)``."""
        if self.weight == 0:
            return texts.astype(np.float32)
        text = _unit(texts.astype(np.float32) - self.text_mean)
        collaborative = self.vectors[np.maximum(rows, 0)]
        lacking = (rows < 0) | ~collaborative.any(axis=1)
        foretold = text[lacking] @ self.coefficients + self.intercept
        collaborative[lacking] = _unit(foretold)
        if self.weight == 1:
            return collaborative
        length = math.hypot(1 - self.weight, self.weight)
        shares = np.array([1 - self.weight, self.weight], np.float32) / np.float32(length)
        return np.concatenate([text * shares[0], collaborative * shares[1]], axis=1)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the space; an older one at the same path is replaced when all is written.

        Args:
            path: The folder to make.
        """
        arrays = {name: getattr(self, name) for name in _ARRAYS}
        meta = {
            "format": _FORMAT,
            "version": _FORMAT_VERSION,
            "weight": self.weight,
            "items_fingerprint": self.items_fingerprint,
        }
        with atomic_directory(path) as folder:
            for name, array in arrays.items():
                np.save(folder / f"{name}.npy", array)
            write_json_atomic(folder / "meta.json", sealed(folder, meta))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> FusedSpace:
        """Read a space that :meth:`save` wrote.

        Args:
            path: Its folder.

        Returns:
            The space.

        Raises:
            MissingPathError: If there is none.
            ArtifactError: If it is damaged or of another version.
        """
        folder = Path(path)
        if not (folder / "meta.json").is_file():
            raise MissingPathError(
                f"fused space must be a folder with meta.json, got {folder}; train stage one again"
            )
        try:
            meta = read_json(folder / "meta.json")
            version = (meta["format"], meta["version"])
            if version != (_FORMAT, _FORMAT_VERSION):
                raise ArtifactError(
                    f"fused space must have format {_FORMAT} version {_FORMAT_VERSION}, got "
                    f"{version[0]} version {version[1]} in {folder}; train stage one again"
                )
            verify(folder, meta, what="fused space", fix="train stage one again")
            arrays = {
                name: np.array(open_array(folder / f"{name}.npy", np.float32, ndim=ndim))
                for name, ndim in _ARRAYS.items()
            }
            weight, items = float(meta["weight"]), str(meta["items_fingerprint"])
        except ArtifactError:
            raise
        except (KeyError, OSError, TypeError, ValueError) as error:
            raise ArtifactError(
                f"fused space must be complete, got {folder} with {error}; train stage one again"
            ) from error
        return cls(weight=weight, items_fingerprint=items, **arrays)


def _chunks(count: int, size: int = 65_536) -> Iterator[slice]:
    """Cut ``count`` rows into slices that fit in memory."""
    return (slice(begin, min(begin + size, count)) for begin in range(0, count, size))


def _unit(rows: Array) -> Array:
    """Scale rows to length one; zero rows stay zero."""
    lengths = np.linalg.norm(rows, axis=1, keepdims=True).astype(np.float32)
    return rows / np.maximum(lengths, np.float32(1e-30))


def _ridge(texts: Floats, mean: Array, vectors: Array, ridge: float) -> tuple[Array, Array]:
    """Regress the collaborative vectors on the text of the items that have one.

    Returns ``(D, C)`` coefficients and the ``(C,)`` intercept, from sums over chunks.
    """
    width, dim = len(mean), vectors.shape[1]
    gram, cross = np.zeros((width, width)), np.zeros((width, dim))
    text_sum, vector_sum, count = np.zeros(width), np.zeros(dim), 0
    for part in _chunks(len(texts)):
        known = vectors[part].any(axis=1)
        text = _unit(texts[part][known].astype(np.float32) - mean).astype(np.float64)
        vector = vectors[part][known].astype(np.float64)
        gram += text.T @ text
        cross += text.T @ vector
        text_sum += text.sum(axis=0)
        vector_sum += vector.sum(axis=0)
        count += len(text)
    text_mean, vector_mean = text_sum / count, vector_sum / count
    gram -= count * np.outer(text_mean, text_mean)
    cross -= count * np.outer(text_mean, vector_mean)
    penalty = ridge * max(float(np.trace(gram)) / width, 1e-12)
    gram[np.diag_indices(width)] += penalty
    coefficients = np.linalg.solve(gram, cross)
    intercept = vector_mean - text_mean @ coefficients
    return coefficients.astype(np.float32), intercept.astype(np.float32)
