"""Text encoders: sentence-transformers, and the choice of one by name.

Shape legend: N = items, D = width of the embeddings.
"""

from __future__ import annotations

import hashlib
import os
import socket
import sys
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol, runtime_checkable
from urllib.parse import urlsplit

import numpy as np
import numpy.typing as npt

from genrec.atomic import atomic_file
from genrec.data.prepared import open_array
from genrec.data.text.tfidf import TfidfSvdEncoder
from genrec.data.text.vectors import PrecomputedEncoder
from genrec.errors import ConfigError, DataError

__all__ = [
    "DEFAULT_SENTENCE_MODEL",
    "SentenceTransformerEncoder",
    "TextEncoder",
    "embed_texts",
    "fitted",
    "make_encoder",
]

DEFAULT_SENTENCE_MODEL = "sentence-transformers/sentence-t5-base"

Embeddings = npt.NDArray[np.floating[Any]]


@runtime_checkable
class TextEncoder(Protocol):
    """Anything that turns the catalogue's texts into vectors."""

    @property
    def name(self) -> str:
        """What to call it."""
        ...

    @property
    def identity(self) -> str:
        """All that its vectors depend on besides the texts; caches are keyed by it."""
        ...

    @property
    def cacheable(self) -> bool:
        """Whether the result is worth keeping on disk."""
        ...

    def encode(self, texts: Sequence[str], *, item_keys: Sequence[str] | None = None) -> Embeddings:
        """Embed texts.

        Args:
            texts: One text an item, ``N``.
            item_keys: The items' ids, for encoders that look vectors up by id.

        Returns:
            Embeddings, shape ``(N, D)``, float32 or float16, finite.
        """
        ...


@dataclass(frozen=True)
class SentenceTransformerEncoder:
    """Embed with a sentence-transformers model from the hub, its cache or a folder.

    Attributes:
        name: Name on the hub, or a folder.
        batch_size: Texts at a time, >= 1; texts of like length share a batch.
        device: For example ``"cuda"``; None chooses the fastest there is.
        num_processes: Processes, >= 1; above 1 each takes a share, one device each.
        normalize: Bring every vector to length 1.
    """

    name: str = DEFAULT_SENTENCE_MODEL
    _: KW_ONLY
    batch_size: int = 64
    device: str | None = None
    num_processes: int = 1
    normalize: bool = True
    cacheable: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.batch_size < 1 or self.num_processes < 1:
            raise ConfigError(
                "encoder batch_size and num_processes must be >= 1, got "
                f"{self.batch_size} and {self.num_processes}; 64 and 1 are the defaults"
            )

    @property
    def identity(self) -> str:
        """Model and normalisation."""
        return f"{self.name}:{self.normalize}"

    def encode(self, texts: Sequence[str], *, item_keys: Sequence[str] | None = None) -> Embeddings:
        """Embed texts.

        Args:
            texts: One text an item, ``N``.
            item_keys: Not used.

        Returns:
            Embeddings, shape ``(N, D)``, float32.

        Raises:
            ConfigError: If the model is neither here nor can be fetched.
        """
        model = self._load()
        pool = None
        if self.num_processes > 1:
            pool = model.start_multi_process_pool(self._devices())
        try:
            # encode() sorts by length itself, so a batch carries little padding.
            vectors = model.encode(
                list(texts),
                batch_size=self.batch_size,
                pool=pool,
                normalize_embeddings=self.normalize,
                show_progress_bar=sys.stderr.isatty(),
                convert_to_numpy=True,
            )
        finally:
            if pool is not None:
                model.stop_multi_process_pool(pool)
        return np.ascontiguousarray(vectors, dtype=np.float32)  # (N, D)

    def _devices(self) -> list[str]:
        """Name one device a process: the GPUs in turn, else the CPU that many times."""
        import torch

        if self.device is not None:
            return [self.device] * self.num_processes
        gpus = torch.cuda.device_count()
        return [f"cuda:{i % gpus}" if gpus else "cpu" for i in range(self.num_processes)]

    def _load(self) -> Any:
        # Loading it takes seconds, and only this encoder needs it.
        from sentence_transformers import SentenceTransformer

        # Without a network the hub's client retries for a minute; a model on disk needs none.
        offline = not _hub_answers()
        try:
            return SentenceTransformer(self.name, device=self.device, local_files_only=offline)
        except Exception as error:  # the hub's client raises many kinds
            reason = " ".join(str(error).split())[:160]
            if offline:
                reason = "not on this machine, and the hub cannot be reached"
            raise ConfigError(
                f"encoder_model_name must be a sentence-transformers model that is on this machine "
                f"or can be fetched, got {self.name!r} ({reason}); "
                "give a folder with the model, 'tfidf' (needs no download), or a .npy file"
            ) from None


def _hub_answers(timeout_s: float = 3.0) -> bool:
    """Tell whether the model hub may be reached; behind a proxy only trying tells."""
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "TRUE", "YES", "ON"):
        return False
    if any(os.environ.get(name) for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY")):
        return True
    address = urlsplit(os.environ.get("HF_ENDPOINT") or "https://huggingface.co")
    port = address.port or (80 if address.scheme == "http" else 443)
    try:
        socket.create_connection((address.hostname or "", port), timeout=timeout_s).close()
    except OSError:
        return False
    return True


def make_encoder(name: str, **options: Any) -> TextEncoder:
    """Choose an encoder by name.

    Args:
        name: ``"tfidf"`` or ``"tfidf:128"``; a path that ends in ``.npy``; else a name or folder
            of sentence-transformers.
        options: More arguments of that encoder.

    Returns:
        The encoder.

    Raises:
        ConfigError: If the name is empty or the width after ``tfidf:`` is no number.
        MissingPathError: If the ``.npy`` file is not there.

    Example:
        >>> make_encoder("tfidf:128").name
        'tfidf:128'
    """
    if not name or not name.strip():
        raise ConfigError(
            f"encoder_model_name must not be empty, got {name!r}; give 'tfidf', a "
            "sentence-transformers name or a .npy file"
        )
    if name.endswith(".npy"):
        return PrecomputedEncoder(name, **options)
    kind, _, width = name.partition(":")
    if kind == "tfidf":
        if width and not width.isdigit():
            raise ConfigError(
                f"encoder_model_name must be 'tfidf' or 'tfidf:<width>', got {name!r}; "
                "for example 'tfidf:256'"
            )
        return TfidfSvdEncoder(int(width) if width else 256, **options)
    return SentenceTransformerEncoder(name, **options)


def fitted(encoder: TextEncoder, texts: Sequence[str]) -> TextEncoder:
    """Fit an encoder to a catalogue's texts, ``N``, where it is one that learns from them."""
    return encoder.fit(texts) if isinstance(encoder, TfidfSvdEncoder) else encoder


def embed_texts(
    encoder: TextEncoder,
    texts: Sequence[str],
    *,
    item_keys: Sequence[str] | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
) -> Embeddings:
    """Embed texts once; the same encoder on the same texts is read back from the disk.

    Args:
        encoder: The encoder.
        texts: One text an item, ``N``.
        item_keys: The items' ids.
        cache_dir: Folder of the cache; None keeps none.

    Returns:
        Embeddings, shape ``(N, D)``, memory-mapped where they came from a file.

    Raises:
        DataError: If the encoder gave a wrong shape or values that are not finite.
    """
    if cache_dir is None or not encoder.cacheable:
        return _checked(encoder.encode(texts, item_keys=item_keys), len(texts), encoder.name)
    path = Path(cache_dir) / f"{_digest(encoder.identity, texts)}.npy"
    if path.is_file():
        try:
            vectors = open_array(path, np.float16, np.float32, np.float64, ndim=2)
            return _checked(vectors, len(texts), encoder.name)
        except (OSError, ValueError):  # DataError is one
            path.unlink(missing_ok=True)  # damaged: embed again
    vectors = _checked(encoder.encode(texts, item_keys=item_keys), len(texts), encoder.name)
    with atomic_file(path) as temporary, temporary.open("wb") as file:
        np.save(file, vectors)
    return vectors


def _digest(identity: str, texts: Sequence[str]) -> str:
    """Digest encoder and texts; lengths keep the borders between texts apart."""
    digest = hashlib.sha256(identity.encode())
    for text in texts:
        raw = text.encode("utf-8")
        digest.update(f"\n{len(raw)}\n".encode())
        digest.update(raw)
    return digest.hexdigest()[:32]


def _checked(vectors: Embeddings, count: int, name: str) -> Embeddings:
    if vectors.ndim != 2 or len(vectors) != count or vectors.shape[1] == 0:
        raise DataError(
            f"embeddings of {name} must have shape ({count}, dim), got {vectors.shape}; "
            "give one row an item"
        )
    # Block by block: a mask of all would take a quarter of the vectors' own memory.
    blocks = (vectors[start : start + 65_536] for start in range(0, count, 65_536))
    if not all(np.isfinite(block).all() for block in blocks):
        raise DataError(f"embeddings of {name} must be finite, got NaN or Inf; use another encoder")
    return vectors
