"""Item-to-item baselines behind the ranking contract: item-KNN and EASE.

Both learn one number for a pair of items from who took both in the training part, and score a
user's items by adding up those of the history. Shape legend: B = users, S = history items,
N = items, R = neighbours of an item.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
import torch
from scipy.linalg.lapack import dpotrf, dpotri
from torch import Tensor
from torch.nn.functional import embedding_bag

from genrec.data.prepared import PreparedDataset, StringArray
from genrec.data.schemas import Ranking, Rules
from genrec.errors import ConfigError, DataError
from genrec.models.score_ranker import top_items

__all__ = ["Ease", "ItemKnn"]

#: Products of one block of the co-occurrence matrix.
_BLOCK = 1 << 24


@dataclass(frozen=True)
class ItemKnn:
    """Nearest items by the cosine of who took them.

    Attributes:
        neighbours: Most similar items of each, shape ``(N, R)``, int64; where there are fewer,
            any item with similarity 0.
        similarities: Theirs, shape ``(N, R)``, float32.
        item_keys: The catalogue's own item ids, ``N``.
        decay: What each step back in the history multiplies an item's weight with.
        max_history: Longest history that it is asked with.

    Source:
        Sarwar et al. 2001, https://doi.org/10.1145/371920.372071; the shrinkage as in Dacrema
        et al. 2019, https://arxiv.org/abs/1907.06902. Differs: newer items weigh more.
    """

    neighbours: Tensor
    similarities: Tensor
    item_keys: StringArray
    decay: float
    max_history: int
    name = "item-KNN"
    groups = None

    @classmethod
    def fit(
        cls,
        data: PreparedDataset,
        *,
        num_neighbours: int = 200,
        shrinkage: float = 30.0,
        decay: float = 0.5,
        max_history: int = 20,
        device: torch.device | str = "cpu",
    ) -> ItemKnn:
        """Count who took which two items; reads the training part only.

        Args:
            data: The data set.
            num_neighbours: Items kept for each ``R``, >= 1.
            shrinkage: Added to the cosine's denominator, >= 0, in users; larger trusts pairs
                with few users less.
            decay: In ``(0, 1]``; 1 counts the whole history alike.
            max_history: Longest history that it is asked with, >= 1.
            device: Where it ranks.

        Returns:
            The ranker.

        Raises:
            ConfigError: If a setting is out of range.
        """
        if num_neighbours < 1:
            raise ConfigError(
                f"num_neighbours must be >= 1, got {num_neighbours}; 200 is a usual value"
            )
        if shrinkage < 0:
            raise ConfigError(f"shrinkage must be >= 0, got {shrinkage}; 30 is a usual value")
        _check_history(decay, max_history)
        taken = _taken(data)
        lengths = np.sqrt(taken.sum(axis=0))  # (N,)
        width = min(num_neighbours, data.num_items)
        neighbours = np.zeros((data.num_items, width), np.int64)
        similarities = np.zeros((data.num_items, width), np.float32)
        for begin, counts in _common_users(taken):
            rows = np.repeat(np.arange(counts.shape[0]), np.diff(counts.indptr))
            columns = counts.indices
            values = counts.data / (lengths[begin + rows] * lengths[columns] + shrinkage)
            values[columns == begin + rows] = 0  # an item is not its own neighbour
            order = np.lexsort((columns, -values, rows))
            place = np.arange(len(rows)) - counts.indptr[rows]  # rows stay where they are
            kept = place < width
            at = (begin + rows[kept], place[kept])
            neighbours[at], similarities[at] = columns[order][kept], values[order][kept]
        return cls(
            torch.from_numpy(neighbours).to(device),
            torch.from_numpy(similarities).to(device),
            data.item_keys,
            float(decay),
            max_history,
        )

    @property
    def num_items(self) -> int:
        """Number of items ``N``."""
        return len(self.neighbours)

    @property
    def device(self) -> torch.device:
        """Where histories are expected and results lie."""
        return self.neighbours.device

    def rank(
        self, history: Tensor, k: int, *, users: Tensor | None = None, rules: Rules | None = None
    ) -> Ranking:
        """Recommend what is near to the history; see :meth:`~genrec.rankers.Ranker.rank`."""
        return top_items(self._scores(history), k, rules)

    def _scores(self, history: Tensor) -> Tensor:
        """Add up the similarities to each item, ``(B, S)`` to ``(B, N)``."""
        weights = _recency(history, self.decay)
        near = self.neighbours[history.clamp(min=0)].flatten(1)  # (B, S * R)
        values = self.similarities[history.clamp(min=0)] * weights.unsqueeze(-1)
        scores = values.new_zeros(len(history), self.num_items)
        return scores.scatter_add_(1, near, values.flatten(1))


@dataclass(frozen=True)
class Ease:
    """A linear autoencoder without self-similarity, solved in closed form.

    Attributes:
        weights: What an item of the history adds to each item's score, shape ``(N, N)``,
            float32; the diagonal is zero.
        item_keys: The catalogue's own item ids, ``N``.
        decay: What each step back in the history multiplies an item's weight with.
        max_history: Longest history that it is asked with.

    Source:
        Steck 2019, https://arxiv.org/abs/1905.03375. Differs: newer items may weigh more.
    """

    weights: Tensor
    item_keys: StringArray
    decay: float
    max_history: int
    name = "EASE"
    groups = None

    @classmethod
    def fit(
        cls,
        data: PreparedDataset,
        *,
        ridge: float = 100.0,
        decay: float = 0.7,
        max_history: int = 20,
        max_bytes: int = 8 << 30,
        device: torch.device | str = "cpu",
    ) -> Ease:
        """Solve for the weights; reads the training part only.

        Args:
            data: The data set.
            ridge: Penalty of the squared weights, > 0, in users.
            decay: In ``(0, 1]``; 1 counts the whole history alike.
            max_history: Longest history that it is asked with, >= 1.
            max_bytes: Memory that it may take; it needs 12 bytes for each pair of items.
            device: Where it ranks.

        Returns:
            The ranker.

        Raises:
            ConfigError: If a setting is out of range.
            DataError: If the catalogue is too large.
        """
        if ridge <= 0:
            raise ConfigError(f"ridge must be > 0, got {ridge}; 100 is a usual value")
        _check_history(decay, max_history)
        num_items = data.num_items
        if 12 * num_items**2 > max_bytes:
            raise DataError(
                f"EASE must fit in {max_bytes / 1e9:.1f} GB at 12 bytes a pair of items, got "
                f"{num_items} items, {12e-9 * num_items**2:.1f} GB; leave it out or raise max_bytes"
            )
        gram = np.zeros((num_items, num_items), order="F")
        for begin, counts in _common_users(_taken(data)):
            pairs = counts.tocoo()
            gram[begin + pairs.row, pairs.col] = pairs.data
        gram[np.diag_indices(num_items)] += ridge
        # Both in place and of the lower triangle alone: there is one large matrix.
        root, failed = dpotrf(gram, lower=1, overwrite_a=1)
        assert not failed, "a Gram matrix with a positive ridge is positive definite"
        inverse, _ = dpotri(root, lower=1, overwrite_c=1)
        diagonal = np.diagonal(inverse).copy()
        weights = np.empty((num_items, num_items), np.float32)
        for begin in range(0, num_items, 512):
            end = min(begin + 512, num_items)
            lower = np.tril(inverse[begin:end], begin)
            upper = np.triu(inverse[:, begin:end].T, begin + 1)
            weights[begin:end] = (lower + upper) / -diagonal
        weights[np.diag_indices(num_items)] = 0
        return cls(torch.from_numpy(weights).to(device), data.item_keys, float(decay), max_history)

    @property
    def num_items(self) -> int:
        """Number of items ``N``."""
        return len(self.weights)

    @property
    def device(self) -> torch.device:
        """Where histories are expected and results lie."""
        return self.weights.device

    def rank(
        self, history: Tensor, k: int, *, users: Tensor | None = None, rules: Rules | None = None
    ) -> Ranking:
        """Recommend what the history foretells; see :meth:`~genrec.rankers.Ranker.rank`."""
        return top_items(self._scores(history), k, rules)

    def _scores(self, history: Tensor) -> Tensor:
        """Add up the rows of the history's items, ``(B, S)`` to ``(B, N)``."""
        return embedding_bag(
            history.clamp(min=0),
            self.weights,
            mode="sum",
            per_sample_weights=_recency(history, self.decay),
        )


def _check_history(decay: float, max_history: int) -> None:
    if not 0 < decay <= 1:
        raise ConfigError(
            f"decay must lie in (0, 1], got {decay}; 1 counts the whole history alike"
        )
    if max_history < 1:
        raise ConfigError(f"max_history must be >= 1, got {max_history}; 20 is the usual value")


def _taken(data: PreparedDataset) -> sp.csr_array:
    """Mark which user took which item in the training part, ``(U, N)``, float64 of ones."""
    begins, ends = np.asarray(data.sequence_offsets[:-1]), np.asarray(data.train_ends)
    users = np.repeat(np.arange(data.num_users), np.diff(data.sequence_offsets))
    inside = np.arange(data.num_interactions) < ends[users]
    rows, columns = users[inside], np.asarray(data.sequence_items)[inside]
    shape = (len(begins), data.num_items)
    taken = sp.coo_array((np.ones(len(rows)), (rows, columns)), shape=shape).tocsr()
    taken.data[:] = 1  # tocsr has added up repeats
    return taken


def _common_users(taken: sp.csr_array) -> Iterator[tuple[int, sp.csr_array]]:
    """Count the users of each pair of items, a block of rows at a time.

    Yields ``(begin, counts)``: the users that items ``begin, begin + 1, ...`` share with every
    item, ``(rows, N)``. A block takes a bounded number of products, so that a few users with
    very long runs cost time and not memory.
    """
    takers = sp.csr_array(taken.T)
    products = np.cumsum(takers @ taken.sum(axis=1))  # (N,)
    begin = 0
    while begin < takers.shape[0]:
        done = products[begin - 1] if begin else 0
        end = max(begin + 1, int(np.searchsorted(products, done + _BLOCK, side="right")))
        yield begin, sp.csr_array(takers[begin:end] @ taken)
        begin = end


def _recency(history: Tensor, decay: float) -> Tensor:
    """Weigh the items of each history by their age, ``(B, S)``: 1, the newest; 0, padding."""
    there = history >= 0
    ages = there.sum(dim=1, keepdim=True) - 1 - torch.arange(history.shape[1], device=there.device)
    return decay ** ages.clamp(min=0).float() * there
