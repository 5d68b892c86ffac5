"""Embedding, tokenizing and recommending on several machines, through Ray Data.

The classes are what ``map_batches`` calls: each loads its model once a worker, and then does what
one process does, by the same function. The functions below them put results together as one
process does. A worker must see the folders that it is told of at the same paths.

Shape legend: B = rows of a batch, N = items, D = width of the embeddings, L = code levels.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from genrec.data.prepared import PreparedDataset
from genrec.data.text.encoders import TextEncoder, embed_texts
from genrec.data.text.kept_encoder import load_encoder
from genrec.device import pick_device
from genrec.serving.files import Chunks, recommend_chunk, recommend_to_file
from genrec.serving.recommender import Recommender
from genrec.serving.workers import Opening, check_workers, on_workers
from genrec.tokenizer.quantizer import encode_ids, evaluation_mode
from genrec.tokenizer.semantic_id import SemanticIdTokenizer
from genrec.trained import load_quantizer, quantizer_inputs

if TYPE_CHECKING:
    import pyarrow

__all__ = ["Embed", "Recommend", "Tokenize", "codes_on", "embed_on", "recommend_on"]

Batch = dict[str, npt.NDArray[Any]]
Codes = npt.NDArray[np.int32]
#: Items of a task: whole chunks of those that an item space places, so that it rounds alike.
_ITEMS = 1 << 16
_TEXTS = 1 << 12


class Embed:
    """Gives item texts their vectors: batches gain ``embedding``, ``(B, D)``.

    Args:
        encoder: An encoder, or the folder of a prepared data set or stage-one run that keeps one.
        column: Column of the texts.

    Example:
        ``ds.map_batches(Embed, fn_constructor_args=["runs/rqvae/sample"], compute=pool)``
    """

    def __init__(self, encoder: TextEncoder | str | os.PathLike[str], column: str = "text") -> None:
        known = isinstance(encoder, TextEncoder)
        self.encoder: TextEncoder = encoder if known else load_encoder(encoder).encoder  # type: ignore
        self.column = column

    def __call__(self, batch: Batch) -> Batch:
        """Embed a batch of numpy columns."""
        texts = [str(text) for text in batch[self.column]]
        return {**batch, "embedding": np.asarray(self.encoder.encode(texts))}


class Tokenize:
    """Gives vectors their codes: batches gain ``codes``, ``(B, L)``, int32.

    Args:
        run: A stage-one run without item space, such as one that trained on text vectors alone.
        column: Column of the vectors, ``(B, D)``.
        checkpoint: See :func:`~genrec.trained.load_quantizer`.
        device: Where to compute; a GPU where there is one when None.
        batch_size: Items encoded at once. Codes do not depend on the batches of the data set.
    """

    def __init__(
        self,
        run: str | os.PathLike[str],
        column: str = "embedding",
        *,
        checkpoint: str | None = None,
        device: str | None = None,
        batch_size: int = 4096,
    ) -> None:
        self.quantizer = load_quantizer(run, device=pick_device(device), checkpoint=checkpoint)
        self.column, self.batch_size = column, batch_size

    def __call__(self, batch: Batch) -> Batch:
        """Encode a batch of numpy columns."""
        vectors = np.stack(list(batch[self.column]))
        with evaluation_mode(self.quantizer):
            codes = encode_ids(self.quantizer, vectors, batch_size=self.batch_size)
        return {**batch, "codes": codes}


class Recommend:
    """Recommends: from ``user_id`` and perhaps ``history`` to the long form, one row an item.

    Use it with ``batch_format="pyarrow"``.

    Args:
        run: Any run that recommends.
        device: Where to compute; a GPU where there is one when None.
        **options: Of :meth:`~genrec.serving.recommender.Recommender.recommend`.
    """

    def __init__(
        self, run: str | os.PathLike[str], *, device: str | None = None, **options: Any
    ) -> None:
        self.recommender = Recommender.from_pretrained(run, device=device)
        self.options = options

    def __call__(self, batch: pyarrow.Table) -> pyarrow.Table:
        """Recommend to the users of a batch: ``user_id, item_id, score, rank, popular``."""
        import polars as pl

        frame = pl.DataFrame(pl.from_arrow(batch)).rename({"user_id": "user"})
        return recommend_chunk(self.recommender, frame, {}, self.options).to_arrow()


def embed_on(workers: int, device: str | None = None) -> Callable[..., npt.NDArray[Any]]:
    """Make what stands in for :func:`~genrec.data.text.encoders.embed_texts`, on so many workers.

    Vectors are equal to the last bit where each depends on its own text alone, as those of TF-IDF;
    a sentence-transformers model pads batches otherwise, and may round otherwise.

    Args:
        workers: Workers, >= 1.
        device: Whether a worker shall have a GPU: None for where there are any, else ``cpu``.
    """
    check_workers(workers)

    def embed(encoder: TextEncoder, texts: Sequence[str], **options: Any) -> npt.NDArray[Any]:
        return embed_texts(_SpreadEncoder(encoder, workers, device), texts, **options)

    return embed


@dataclass(frozen=True)
class _SpreadEncoder:
    """An encoder whose texts are shared out."""

    encoder: TextEncoder
    workers: int
    device: str | None

    @property
    def name(self) -> str:
        return self.encoder.name

    @property
    def identity(self) -> str:
        return self.encoder.identity

    @property
    def cacheable(self) -> bool:
        return self.encoder.cacheable

    def encode(
        self, texts: Sequence[str], *, item_keys: Sequence[str] | None = None
    ) -> npt.NDArray[Any]:
        starts = range(0, len(texts), _TEXTS)
        keys: list[Any] = [
            None if item_keys is None else list(item_keys[s : s + _TEXTS]) for s in starts
        ]
        tasks = [(list(texts[s : s + _TEXTS]), k) for s, k in zip(starts, keys, strict=True)]
        opening = Opening(_open_encoder, (self.encoder,))
        found = dict(on_workers(opening, tasks, workers=self.workers, device=self.device))
        return np.concatenate([found[number] for number in range(len(tasks))])


def codes_on(
    workers: int,
    run: Path,
    data: PreparedDataset,
    *,
    checkpoint: str | None = None,
    device: str | None = None,
    batch_size: int = 4096,
    replace_non_finite: bool = False,
) -> Codes:
    """Encode a catalogue on several workers.

    Args:
        workers: Workers, >= 1.
        run: A stage-one run.
        data: Its items, or others of the same encoder.
        checkpoint: See :func:`~genrec.trained.load_quantizer`.
        device: Where a worker computes; None gives each a GPU where there are as many.
        batch_size: Items encoded at once.
        replace_non_finite: Put 0 for NaN and Inf.

    Returns:
        What :func:`~genrec.tokenizer.quantizer.encode_ids` returns, bit for bit, where each worker
        has as many threads as the one process.
    """
    check_workers(workers)
    details = (run, data.path, checkpoint, device, batch_size, replace_non_finite)
    tasks = [(s, min(s + _ITEMS, data.num_items)) for s in range(0, data.num_items, _ITEMS)]
    found = dict(
        on_workers(Opening(_open_quantizer, details), tasks, workers=workers, device=device)
    )
    return np.concatenate([found[number] for number in range(len(tasks))])


def recommend_on(
    workers: int,
    run: Path,
    out: Path,
    *,
    ids: Path | None = None,
    data: Path | None = None,
    device: str | None = None,
    histories: Path | None = None,
    allow: Path | None = None,
    exclude: Path | None = None,
    chunk_size: int = 8192,
    **options: Any,
) -> int:
    """Recommend to many users on several workers.

    Args:
        workers: Workers, >= 1.
        run: Any run that recommends.
        out: See :func:`~genrec.serving.files.recommend_to_file`, which writes the same bytes where
            each worker computes on the same kind of device.
        ids: ID table with new items.
        data: A prepared data set.
        device: Where a worker computes; None gives each a GPU where there are as many.
        histories: As there, at a path that all workers see; so are ``allow`` and ``exclude``.
        allow: As there.
        exclude: As there.
        chunk_size: Users of a task, >= 1.
        **options: Of :meth:`~genrec.serving.recommender.Recommender.recommend`.

    Returns:
        Number of users.
    """
    check_workers(workers)
    place = (run, ids, data, device)
    given = (histories, allow, exclude, options)

    def compute(chunks: Chunks, todo: Sequence[tuple[int, int]]) -> Iterator[tuple[int, bytes]]:
        opening = Opening(_open_chunks, (place, given))
        for number, part in on_workers(opening, todo, workers=workers, device=device):
            yield todo[number][0], part

    return recommend_to_file(
        _open_recommender(run, ids, data, "cpu"),
        out,
        histories=histories,
        allow=allow,
        exclude=exclude,
        chunk_size=chunk_size,
        compute=compute,
        **options,
    )


def _open_encoder(encoder: TextEncoder) -> Callable[[Any], Any]:
    return lambda task: encoder.encode(task[0], item_keys=task[1])


def _open_quantizer(
    run: Path,
    data_path: Path,
    checkpoint: str | None,
    device: str | None,
    batch_size: int,
    replace_non_finite: bool,
) -> Callable[[Any], Any]:
    tokenize = Tokenize(run, checkpoint=checkpoint, device=device, batch_size=batch_size)
    data = PreparedDataset.load(data_path)

    def work(task: tuple[int, int]) -> Codes:
        vectors: Any = quantizer_inputs(run, data, slice(*task))
        if replace_non_finite:
            vectors = np.nan_to_num(np.asarray(vectors), nan=0.0, posinf=0.0, neginf=0.0)
        with evaluation_mode(tokenize.quantizer):
            return encode_ids(tokenize.quantizer, vectors, batch_size=batch_size)

    return work


def _open_recommender(
    run: Path, ids: Path | None, data: Path | None, device: str | None
) -> Recommender:
    table = None if ids is None else SemanticIdTokenizer.load(ids)
    return Recommender.from_pretrained(run, tokenizer=table, data=data, device=device)


def _open_chunks(place: tuple[Any, ...], given: tuple[Any, ...]) -> Callable[[Any], Any]:
    histories, allow, exclude, options = given
    chunks = Chunks.open(_open_recommender(*place), histories, allow, exclude, options)
    return lambda task: chunks.part(*task)
