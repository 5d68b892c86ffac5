"""Ranking for many users: batches of like length, side by side.

Shape legend: B = users, S = history items, K = results.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from genrec.data.prepared import StringArray
from genrec.data.schemas import Ranking
from genrec.data.sequence_dataset import hash_users
from genrec.errors import ConfigError
from genrec.rankers import Ranker, SearchingRanker
from genrec.serving.keys import Key, Lists, whole_number
from genrec.serving.shelf import Limits
from genrec.threads import side_by_side

__all__ = ["rank_all", "with_beams"]

Rows = npt.NDArray[np.int64]


def rank_all(
    ranker: Ranker,
    popular: Ranker | None,
    rows: Lists,
    k: int,
    limits: Limits,
    seen: Lists | None,
    names: Sequence[Key] | None,
    batch_size: int | None,
) -> tuple[Tensor, Tensor]:
    """Rank for all users in batches of like length.

    Args:
        ranker: For users with a history.
        popular: For those without; they get nothing when None.
        rows: The histories as rows of the catalogue.
        k: Items for each user ``K``.
        limits: What may be recommended.
        seen: What each user shall not get besides, or None.
        names: The users' own ids, for models with user tokens.
        batch_size: Users of a batch; as many as compute fastest when None.

    Returns:
        Rows of the catalogue and scores, both ``(B, K)``, on the CPU; -1 and -inf where there are
        fewer.
    """
    count = len(rows.lengths)
    items = torch.full((count, k), -1, dtype=torch.long)
    scores = torch.full((count, k), -torch.inf)
    hashes = None
    if names is not None:
        keys = StringArray.from_strings(str(name) for name in names)
        hashes = torch.from_numpy(hash_users(keys))
    lengths = np.minimum(rows.lengths, ranker.max_history)
    order = np.argsort(lengths, kind="stable")  # like lengths together: little padding
    empty = int((lengths == 0).sum())
    parts = _parts(order[empty:], lengths, batch_size, on_cpu=ranker.device.type == "cpu")
    most = batch_size or _MOST_USERS
    without = [order[at : min(at + most, empty)] for at in range(0, empty, most)]
    num_popular = 0 if popular is None else len(without)

    def answer(number: int) -> tuple[Rows, Ranking]:
        if number < len(parts):
            part = parts[number]
            given = rows.padded(part, ranker.max_history).to(ranker.device)
            users = None if hashes is None else hashes[part].to(ranker.device)
            return part, ranker.rank(given, k, users=users, rules=limits.of(part, seen))
        part = without[number - len(parts)]
        assert popular is not None
        nothing = torch.empty(len(part), 0, dtype=torch.long, device=ranker.device)
        return part, popular.rank(nothing, k, rules=limits.of(part, None))

    for part, found in side_by_side(answer, len(parts) + num_popular, ranker.device):
        where = torch.from_numpy(part)
        items[where], scores[where] = found.items.cpu(), found.scores.cpu()
    return items, scores


#: Users of a batch, and on a CPU history items too: more of both leaves its caches.
_MOST_USERS, _MOST_USERS_CPU, _MOST_ITEMS_CPU = 256, 128, 1024


def _parts(order: Rows, lengths: Rows, batch_size: int | None, *, on_cpu: bool) -> list[Rows]:
    """Cut users who stand in the order of their histories' lengths into batches.

    The longest come first, so that memory runs out at once or not at all.
    """
    parts, end = [], len(order)
    while end > 0:
        size = batch_size or _MOST_USERS
        if batch_size is None and on_cpu:
            size = max(1, min(_MOST_USERS_CPU, _MOST_ITEMS_CPU // int(lengths[order[end - 1]])))
        parts.append(order[max(0, end - size) : end])
        end -= size
    return parts


def with_beams(ranker: Ranker, num_beams: int | None) -> Ranker:
    """Return the ranker, with another number of beams where one is given."""
    if num_beams is None:
        return ranker
    num_beams = whole_number(num_beams, "num_beams", usual=30)
    if not isinstance(ranker, SearchingRanker):
        raise ConfigError(
            f"num_beams must be left out for a model that ranks all items, got {num_beams} for "
            f"{ranker.name}; it needs no beams"
        )
    return ranker.with_beams(num_beams)
