"""Baselines in the same harness: popularity, last-item co-occurrence, models over item ids.

Shape legend: N = items, M = interactions, R = results, B = users.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from genrec.data.prepared import PreparedDataset
from genrec.data.schemas import SequenceBatch
from genrec.evaluation.evaluator import PredictFn

__all__ = ["ItemScorer", "cooccurrence", "last_items", "neural", "popularity"]


def popularity(
    data: PreparedDataset, num_results: int, device: torch.device | str = "cpu"
) -> PredictFn:
    """Recommend the items that are most frequent in the training part, to everybody.

    Args:
        data: The data set.
        num_results: Items for each user ``R``.
        device: Where the results live.

    Returns:
        The recommender; ties go to the lower item id.
    """
    top = torch.from_numpy(_popular(data)[:num_results].copy()).to(device)
    return lambda batch: top.expand(len(batch.history), -1)


def cooccurrence(
    data: PreparedDataset, num_results: int, device: torch.device | str = "cpu"
) -> PredictFn:
    """Recommend what most often came right after the user's last item, then what is popular.

    Args:
        data: The data set; only its training part is counted.
        num_results: Items for each user ``R``.
        device: Where the results live.

    Returns:
        The recommender; ties go to the more popular item.
    """
    table = torch.from_numpy(_successors(data, num_results)).to(device)
    return lambda batch: table[last_items(batch)]


class ItemScorer(Protocol):
    """A model that ranks all items for a history of item ids."""

    def recommend(self, history: Tensor, *, num_results: int, exclude_history: bool) -> Tensor:
        """Return the best items of ``(B, S)`` histories, shape ``(B, R)``, -1 for none."""


def neural(model: ItemScorer, num_results: int, *, exclude_history: bool = False) -> PredictFn:
    """Recommend what a model over item ids ranks first.

    Args:
        model: For example :class:`~genrec.models.sasrec.SasRec`, in evaluation mode.
        num_results: Items for each user ``R``.
        exclude_history: Whether items of the history are never recommended.

    Returns:
        The recommender.
    """
    return lambda batch: model.recommend(
        batch.history, num_results=num_results, exclude_history=exclude_history
    )


def last_items(batch: SequenceBatch) -> Tensor:
    """Return the newest item of each history, shape ``(B,)``, int64."""
    last = (batch.history >= 0).sum(dim=1) - 1
    return batch.history.gather(1, last.unsqueeze(1)).squeeze(1)


def _in_training(data: PreparedDataset) -> npt.NDArray[np.bool_]:
    """Mark the interactions of the training part, shape ``(M,)``."""
    step = np.zeros(data.num_interactions + 1, dtype=np.int64)
    np.add.at(step, np.asarray(data.sequence_offsets[:-1]), 1)
    np.add.at(step, np.asarray(data.train_ends), -1)
    return np.cumsum(step[:-1]) > 0


def _popular(data: PreparedDataset) -> npt.NDArray[np.int64]:
    """Sort all items by their count in the training part."""
    items = np.asarray(data.sequence_items)[_in_training(data)]
    counts = np.bincount(items, minlength=data.num_items)
    return np.argsort(-counts, kind="stable")


def _successors(data: PreparedDataset, num_results: int) -> npt.NDArray[np.int64]:
    """List for each item its successors by count, filled up with popular items, ``(N, R)``."""
    num_items = data.num_items
    popular = _popular(data)
    place = np.empty(num_items, dtype=np.int64)
    place[popular] = np.arange(num_items)
    items = np.asarray(data.sequence_items, dtype=np.int64)
    inside = _in_training(data)
    pair = inside[1:] & inside[:-1]
    starts = np.asarray(data.sequence_offsets[1:-1])  # no pair spans two users
    pair[starts[(starts > 0) & (starts < len(items))] - 1] = False
    keys, counts = np.unique(items[:-1][pair] * num_items + items[1:][pair], return_counts=True)
    source, follower = keys // num_items, keys % num_items
    order = np.lexsort((place[follower], -counts, source))
    source, follower = source[order], follower[order]
    first = np.searchsorted(source, np.arange(num_items))
    rank = np.arange(len(source)) - first[source]
    kept = rank < num_results
    table = np.full((num_items, num_results), -1, dtype=np.int64)
    table[source[kept], rank[kept]] = follower[kept]
    return _fill(table, popular[: 2 * num_results])


def _fill(table: npt.NDArray[np.int64], popular: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Fill the free places of each row with popular items that the row does not hold yet."""
    width = table.shape[1]
    filled = np.empty_like(table)
    for begin in range(0, len(table), 65_536):  # bounds the memory of the comparison
        rows = table[begin : begin + 65_536]
        known = (rows[:, :, None] == popular).any(axis=1)  # (rows, 2 R)
        extra = np.where(known, -1, popular)
        both = np.concatenate([rows, extra], axis=1)
        order = np.argsort(both < 0, axis=1, kind="stable")[:, :width]
        filled[begin : begin + 65_536] = np.take_along_axis(both, order, axis=1)
    return filled
