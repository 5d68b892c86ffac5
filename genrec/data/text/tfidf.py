"""TF-IDF with a truncated SVD: fitted to one catalogue, kept as arrays, used on later ones.

Shape legend: N = items, V = words and word pairs, D = width of the embeddings.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from genrec.data.prepared import StringArray, open_array
from genrec.errors import ConfigError, DataError

__all__ = ["FittedTfidf", "TfidfSvdEncoder"]

_MAX_WORDS = 200_000


@dataclass(frozen=True)
class TfidfSvdEncoder:
    """Embed by word counts: TF-IDF of words and word pairs, reduced by a truncated SVD.

    It needs no download and no accelerator, which makes it the offline default. It learns from
    the catalogue that it embeds; vectors of another catalogue can be compared with them only
    where :meth:`fit`'s result made both.

    Attributes:
        dim: Width of the embeddings, >= 1. A catalogue with fewer items or words gets fewer.
        seed: Seed of the randomised SVD.
    """

    dim: int = 256
    _: KW_ONLY
    seed: int = 0
    cacheable: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.dim < 1:
            raise ConfigError(f"tfidf width must be >= 1, got {self.dim}; 256 is the default")

    @property
    def name(self) -> str:
        """For example ``"tfidf:256"``."""
        return f"tfidf:{self.dim}"

    @property
    def identity(self) -> str:
        """Width, seed, and a number that counts changes of the recipe."""
        return f"tfidf:{self.dim}:{self.seed}:3"

    def fit(self, texts: Sequence[str]) -> FittedTfidf:
        """Learn words, weights and directions from a catalogue.

        Args:
            texts: One text an item, ``N``.

        Returns:
            The encoder of this catalogue and of items added to it later.

        Raises:
            DataError: If no text holds a word.
        """
        from sklearn.utils.extmath import randomized_svd

        # Words of a single item tell near duplicates apart; only large catalogues drop them.
        vectorizer = _vectorizer(min_df=2 if len(texts) >= 100_000 else 1, max_features=_MAX_WORDS)
        try:
            counts = vectorizer.fit_transform(texts)  # (N, V), sparse
        except ValueError as error:
            raise DataError(
                f"item texts must hold words to embed, got {len(texts)} texts without a usable one "
                f"({error}); choose other text columns or give vectors (.npy)"
            ) from None
        dim = min(self.dim, *counts.shape)
        components = randomized_svd(counts, dim, n_iter=5, random_state=self.seed)[2]  # (D, V)
        return FittedTfidf(
            self.name,
            StringArray.from_strings(vectorizer.get_feature_names_out().tolist()),
            vectorizer.idf_.astype(np.float32),
            # Half the space on disk; rounded before the first use, so that all uses agree.
            components.astype(np.float16),
        )

    def encode(
        self, texts: Sequence[str], *, item_keys: Sequence[str] | None = None
    ) -> npt.NDArray[np.floating[Any]]:
        """Fit to texts and embed them, see :meth:`FittedTfidf.encode`."""
        return self.fit(texts).encode(texts)


@dataclass(frozen=True)
class FittedTfidf:
    """Embed with the words, weights and directions of one catalogue: same text, same vector.

    Attributes:
        name: For example ``"tfidf:256"``.
        vocabulary: Words and word pairs, ``V``.
        idf: Weight of each, shape ``(V,)``, float32.
        components: Directions of the SVD, shape ``(D, V)``, float16.
    """

    name: str
    vocabulary: StringArray
    idf: npt.NDArray[np.float32]
    components: npt.NDArray[np.float16]
    cacheable: ClassVar[bool] = False

    @property
    def identity(self) -> str:
        """Name, and a digest of all arrays."""
        digest = hashlib.sha256(self.vocabulary.digest().encode())
        for array in (self.idf, self.components):
            digest.update(np.ascontiguousarray(array).data)
        return f"{self.name}:{digest.hexdigest()[:16]}"

    def encode(
        self, texts: Sequence[str], *, item_keys: Sequence[str] | None = None
    ) -> npt.NDArray[np.floating[Any]]:
        """Embed texts; rows have length 1, a text without a known word gives a row of zeros.

        Args:
            texts: One text an item, ``N``.
            item_keys: Not used.

        Returns:
            Embeddings, shape ``(N, D)``, float32; each depends on its own text alone.
        """
        vectorizer = _vectorizer(vocabulary=list(self.vocabulary))
        vectorizer.idf_ = self.idf
        counts = vectorizer.transform(texts)  # (N, V), sparse
        vectors = np.asarray(counts @ self.components.T.astype(np.float32))  # (N, D)
        norms = np.linalg.norm(vectors, axis=1, keepdims=True)
        return (vectors / np.maximum(norms, np.finfo(np.float32).tiny)).astype(np.float32)

    def save(self, folder: Path) -> None:
        """Write the arrays into an existing folder."""
        self.vocabulary.save(folder, "vocabulary")
        np.save(folder / "idf.npy", self.idf)
        np.save(folder / "components.npy", self.components)

    @classmethod
    def load(cls, folder: Path, name: str) -> FittedTfidf:
        """Open what :meth:`save` wrote; arrays that do not belong together are a ``ValueError``."""
        words = StringArray.load(folder, "vocabulary")
        idf = np.array(open_array(folder / "idf.npy", np.float32))
        components = np.array(open_array(folder / "components.npy", np.float16, ndim=2))
        counts = {len(words), len(set(words)), len(idf), components.shape[1]}
        if len(counts) > 1 or 0 in components.shape:
            raise ValueError(
                f"a weight and a column for each of {len(words)} words, of which "
                f"{len(set(words))} differ, {len(idf)} weights and components {components.shape}"
            )
        return cls(name, words, idf, components)


def _vectorizer(**options: Any) -> Any:
    from sklearn.feature_extraction.text import TfidfVectorizer

    return TfidfVectorizer(
        sublinear_tf=True,
        ngram_range=(1, 2),
        token_pattern=r"(?u)\b\w+\b",
        dtype=np.float32,
        **options,
    )
