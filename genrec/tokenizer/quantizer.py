"""What a tokenizer needs of a quantiser, and the streaming pass over a catalogue.

Shape legend: B = items in a batch, N = catalogue items, L = code levels, D = embedding width,
E = latent width, K_l = codes of level l.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from genrec.errors import ArtifactError, DataError

__all__ = ["ItemQuantizer", "encode_ids", "encode_rows", "evaluation_mode", "read_rows"]

# A scattered row of a memory map makes up to 2 MiB of the file beside it resident as well.
_READ_ROWS = 64


@runtime_checkable
class ItemQuantizer(Protocol):
    """A frozen model that turns item embeddings into tuples of codes.

    Attributes:
        codebook_sizes: Codes of each level, ``(K_1, ..., K_L)``.
        input_dim: Width ``D`` of the embeddings it takes.
        distance: ``"l2"`` or ``"cosine"``: what "nearest code" means.
    """

    @property
    def codebook_sizes(self) -> Sequence[int]: ...  # noqa: D102
    @property
    def input_dim(self) -> int: ...  # noqa: D102
    @property
    def distance(self) -> str: ...  # noqa: D102

    def encode(self, x: Tensor) -> Tensor:
        """Map embeddings ``(B, D)`` to the latents ``(B, E)`` that are quantised."""
        ...

    def get_codebook(self) -> list[Tensor]:
        """Return the codes of each level, ``(K_l, E)``; an item's latent is about their sum."""
        ...

    def get_semantic_ids(self, x: Tensor) -> Tensor:
        """Map embeddings ``(B, D)`` to codes ``(B, L)``, int64."""
        ...


def encode_ids(
    quantizer: ItemQuantizer,
    embeddings: npt.NDArray[Any],
    *,
    batch_size: int = 4096,
    device: torch.device | str | None = None,
) -> npt.NDArray[np.int32]:
    """Compute the codes of every item, reading the embeddings block by block.

    Every call of the quantiser gets exactly ``batch_size`` rows, the last block filled up
    with zeros: a matrix product may round differently for another number of rows, and a
    rounding decides between two codes that are equally near. So the codes of a row are the
    same whatever N is, whatever rows are beside it, and however many processes share the
    catalogue. Another ``batch_size``, device or number of threads may decide such a tie
    differently; tables are therefore built once and read by everyone.

    Args:
        quantizer: The frozen quantiser, in evaluation mode.
        embeddings: Shape ``(N, D)``, an array or a memory map, finite.
        batch_size: Rows of one block, >= 1.
        device: Where the quantiser lives; the device of its first parameter by default.

    Returns:
        Codes, shape ``(N, L)``, int32.

    Raises:
        DataError: If the embeddings are not finite.
        ArtifactError: If their width is not the quantiser's.
    """
    sizes = tuple(quantizer.codebook_sizes)
    ids = np.empty((len(embeddings), len(sizes)), dtype=np.int32)
    for start, codes in _blocks(
        quantizer.get_semantic_ids, quantizer, embeddings, None, batch_size, device
    ):
        ids[start : start + len(codes)] = codes.cpu().numpy()
    return ids


def encode_rows(
    quantizer: ItemQuantizer,
    embeddings: npt.NDArray[Any],
    rows: npt.NDArray[np.int64],
    *,
    batch_size: int = 4096,
    device: torch.device | str | None = None,
) -> Iterator[tuple[int, Tensor]]:
    """Yield the latents ``(<= batch_size, E)`` of some items, and their position in ``rows``.

    Args:
        quantizer: The frozen quantiser.
        embeddings: Shape ``(N, D)``, an array or a memory map.
        rows: Item ids to read, shape ``(R,)``; ascending order reads a file once.
        batch_size: Rows of one block.
        device: Where the quantiser lives.
    """
    yield from _blocks(quantizer.encode, quantizer, embeddings, rows, batch_size, device)


def read_rows(embeddings: npt.NDArray[Any], rows: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
    """Copy rows of ``(N, D)``, a file's pages not kept resident: ``(R, D)``, float32."""
    found = np.empty((len(rows), embeddings.shape[1]), dtype=np.float32)
    for start in range(0, len(rows), _READ_ROWS):
        found[start : start + _READ_ROWS] = embeddings[rows[start : start + _READ_ROWS]]
        _release_pages(embeddings)
    return found


@contextmanager
def evaluation_mode(quantizer: ItemQuantizer) -> Iterator[None]:
    """Switch dropout and batch statistics off for a while, where the quantiser has them."""
    module: object = quantizer
    if not isinstance(module, torch.nn.Module) or not module.training:
        yield
        return
    module.eval()
    try:
        yield
    finally:
        module.train()


@torch.no_grad()
def _blocks(
    function: Callable[[Tensor], Tensor],
    quantizer: ItemQuantizer,
    embeddings: npt.NDArray[Any],
    rows: npt.NDArray[np.int64] | None,
    batch_size: int,
    device: torch.device | str | None,
) -> Iterator[tuple[int, Tensor]]:
    """Apply a function to blocks of exactly ``batch_size`` rows."""
    if batch_size < 1:
        raise ValueError(f"batch_size must be >= 1, got {batch_size}; use 4096")
    if embeddings.ndim != 2 or embeddings.shape[1] != quantizer.input_dim:
        raise ArtifactError(
            f"embeddings must have shape (N, {quantizer.input_dim}) as in the tokenizer's "
            f"training, got {embeddings.shape}; embed the items with the same text encoder"
        )
    device = _device_of(quantizer) if device is None else torch.device(device)
    total = len(embeddings) if rows is None else len(rows)
    block = np.zeros((batch_size, embeddings.shape[1]), dtype=np.float32)
    for start in range(0, total, batch_size):
        stop = min(start + batch_size, total)
        if rows is None:
            block[: stop - start] = embeddings[start:stop]
            _release_pages(embeddings)
        else:
            block[: stop - start] = read_rows(embeddings, rows[start:stop])
        block[stop - start :] = 0
        if not np.isfinite(block).all():
            bad = int((~np.isfinite(block)).any(axis=1).sum())
            raise DataError(
                f"embeddings must be finite, got {bad} items with NaN or inf among items "
                f"{start} to {stop - 1}; embed them again or replace the values with 0"
            )
        yield start, function(torch.from_numpy(block).to(device))[: stop - start]


def _device_of(quantizer: ItemQuantizer) -> torch.device:
    """Find the device on which the quantiser's codes live."""
    return quantizer.get_codebook()[0].device


def _release_pages(array: npt.NDArray[Any]) -> None:
    """Drop the pages of a memory-mapped file that were read, which else count as resident."""
    base: Any = array
    while isinstance(base, np.ndarray):
        if isinstance(base, np.memmap) and base.mode == "c":
            return  # copy-on-write: dropping pages would drop what was written to them
        base = base.base
    if isinstance(base, mmap.mmap) and hasattr(base, "madvise"):
        base.madvise(mmap.MADV_DONTNEED)
