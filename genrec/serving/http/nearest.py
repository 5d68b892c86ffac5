"""Why an item is recommended: the item of the history that it is likest to.

Shape legend: K = results, S = history items, L = levels.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from genrec.serving.shelf import Shelf

__all__ = ["nearest_of"]

Rows = npt.NDArray[np.int64]


def nearest_of(shelf: Shelf, rows: Rows, had: Rows) -> tuple[Rows, list[int | None]] | None:
    """Find of each result the likest item of a history, and how many codes they share.

    The longest shared prefix wins, then the nearest vector, then the newest item.

    Returns:
        Rows of the history and numbers of shared codes (None without IDs), ``K`` of each; None
        where there is nothing to compare.
    """
    if len(rows) == 0 or len(had) == 0 or (shelf.codes is None and shelf.vectors is None):
        return None
    newest = had[::-1].copy()
    like = torch.zeros(len(rows), len(newest))
    shared = torch.zeros(len(rows), len(newest), dtype=torch.long)
    if shelf.vectors is not None:
        like = 1 / (1 + torch.cdist(shelf.vectors[rows], shelf.vectors[newest]))  # below 1 code
    if shelf.codes is not None:
        same = shelf.codes[rows][:, None] == shelf.codes[newest][None]  # (K, S, L)
        shared = same.long().cumprod(dim=2).sum(dim=2)
    best = (like + shared).argmax(dim=1)  # the first of equal ones, which is the newest
    counted: list[int | None] = [None] * len(rows)
    if shelf.codes is not None:
        counted = shared.gather(1, best[:, None])[:, 0].tolist()
    return newest[best.numpy()], counted
