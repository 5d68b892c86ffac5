"""Item vectors from who is bought together: windowed counts, positive PMI, truncated SVD.

Only the training part is read. Shape legend: N = items, M = interactions, U = users, C = width
of the vectors.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp
from scipy.sparse.linalg import svds

from genrec.data.prepared import PreparedDataset
from genrec.errors import ConfigError, DataError

__all__ = ["collaborative_vectors", "cooccurrence_counts", "positive_pmi"]

#: Interactions read at once: some 100 MB for a window of five.
CHUNK = 1 << 20

#: Items whose vector before scaling is this much shorter than the longest lie outside the
#: directions that were kept: what is left of them is rounding.
FAINT = 1e-6


def collaborative_vectors(
    data: PreparedDataset,
    *,
    dim: int = 64,
    window: int = 5,
    smoothing: float = 0.75,
    seed: int = 0,
) -> npt.NDArray[np.float32]:
    """Place items near each other that the same users take close together.

    Time and memory grow with the pairs of items that occur, ``window`` a training interaction
    at most, and with ``N * dim`` (about 16 bytes times that for the SVD).

    Args:
        data: The data set; validation and test events are not read.
        dim: Width ``C`` of the vectors, >= 1.
        window: Farthest distance in a user's run at which two items count, >= 1.
        smoothing: Power of the context counts, in ``(0, 1]``; below 1 rare items pull less.
        seed: Seed of the SVD's first vector; the result differs by rounding only.

    Returns:
        Shape ``(N, C)``, float32, of length one; all zero for items that the training part
        shows with no other item, or in none of the ``C`` strongest directions.

    Raises:
        ConfigError: If a setting is out of range.
        DataError: If the training part holds no pair of items.

    Source:
        Levy and Goldberg 2014, https://papers.nips.cc/paper/5477 (PMI of words, square root of
        the singular values), and Levy et al. 2015, https://aclanthology.org/Q15-1016 (smoothed
        contexts). Differs: counts are weighted with 1 / distance, and an item is no context of
        itself, because repeats would drown everything else.
    """
    if dim < 1:
        raise ConfigError(f"collaborative dim must be >= 1, got {dim}; 64 is the usual value")
    counts = cooccurrence_counts(data, window=window)
    if counts.nnz == 0:
        raise DataError(
            "collaborative vectors need two different items of one user in the training part, "
            "got none"
        )
    left, singular = _truncated_svd(positive_pmi(counts, smoothing=smoothing), dim, seed)
    vectors = left * np.sqrt(singular)  # (N, C)
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    known = lengths > FAINT * lengths.max()
    return np.where(known, vectors / np.where(known, lengths, 1.0), 0.0).astype(np.float32)


def cooccurrence_counts(data: PreparedDataset, *, window: int = 5) -> sp.csr_array:
    """Count how often two items stand near each other in one user's training part.

    Args:
        data: The data set.
        window: Farthest distance that counts, >= 1.

    Returns:
        Symmetric counts, shape ``(N, N)``, float64, each pair at distance ``d`` worth ``1 / d``;
        the diagonal is empty.

    Raises:
        ConfigError: If the window is below 1.
    """
    if window < 1:
        raise ConfigError(f"collaborative window must be >= 1, got {window}; 5 is the usual value")
    shape = (data.num_items, data.num_items)
    total = sp.csr_array(shape, dtype=np.float64)
    offsets = np.asarray(data.sequence_offsets)
    for begin in range(0, data.num_interactions, CHUNK):
        end = min(begin + CHUNK, data.num_interactions)
        at = np.arange(begin, end)
        users = np.searchsorted(offsets, at, side="right") - 1
        left = np.minimum(np.asarray(data.train_ends)[users] - 1 - at, window)  # partners behind
        items = np.asarray(data.sequence_items[begin : end + window])
        parts = []
        for distance in range(1, window + 1):
            first = np.flatnonzero(left >= distance)
            one, other = items[first], items[first + distance]
            differ = one != other
            parts.append((one[differ], other[differ], np.full(differ.sum(), 1.0 / distance)))
        rows, columns, values = (np.concatenate(part) for part in zip(*parts, strict=True))
        total = total + sp.coo_array((values, (rows, columns)), shape=shape).tocsr()
    return sp.csr_array(total + total.T)


def positive_pmi(counts: sp.csr_array, *, smoothing: float = 0.75) -> sp.csr_array:
    """Turn counts into how much more often than by chance two items meet.

    Args:
        counts: Symmetric counts, shape ``(N, N)``, non-negative.
        smoothing: Power of the context counts, in ``(0, 1]``.

    Returns:
        ``max(0, log(P(i, j) / (P(i) P_smoothed(j))))``, shape ``(N, N)``, float64.

    Raises:
        ConfigError: If the power is out of range.
    """
    if not 0 < smoothing <= 1:
        raise ConfigError(
            f"collaborative smoothing must lie in (0, 1], got {smoothing}; 0.75 is the usual value"
        )
    sums = np.asarray(counts.sum(axis=1)).ravel()  # (N,)
    contexts = sums**smoothing
    contexts /= contexts.sum() or 1.0
    rows = np.repeat(np.arange(counts.shape[0]), np.diff(counts.indptr))
    values = np.maximum(np.log(counts.data / (sums[rows] * contexts[counts.indices])), 0.0)
    pmi = sp.csr_array((values, counts.indices, counts.indptr), shape=counts.shape)
    pmi.eliminate_zeros()
    return pmi


def _truncated_svd(
    matrix: sp.csr_array, dim: int, seed: int
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Find the strongest left vectors ``(N, dim)`` and values ``(dim,)``, zero where none is."""
    size = matrix.shape[0]
    left, singular = np.zeros((size, dim)), np.zeros(dim)
    if size <= 4 * dim:  # the iterative solver finds less than all of them only
        vectors, values, _ = np.linalg.svd(matrix.toarray())
    else:
        start = np.random.default_rng(seed).uniform(-1, 1, size)
        vectors, values, _ = svds(matrix, k=dim, v0=start, return_singular_vectors="u")
        order = np.argsort(-values, kind="stable")
        vectors, values = vectors[:, order], values[order]
    found = min(dim, int((values > 1e-9 * values.max(initial=0.0)).sum()))
    vectors = vectors[:, :found]
    largest = np.take_along_axis(vectors, np.abs(vectors).argmax(axis=0)[None], axis=0)
    left[:, :found], singular[:found] = vectors * np.sign(largest), values[:found]
    return left, singular
