"""Ranking for many users: batches of like length, side by side.

Shape legend: B = users, S = history items, K = results.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from genrec.data.prepared import StringArray
from genrec.data.schemas import Ranking, Rules
from genrec.data.sequence_dataset import hash_users
from genrec.rankers import Ranker, SearchingRanker
from genrec.serving.request import Request, read_beams
from genrec.threads import side_by_side

__all__ = ["rank_all", "with_beams"]

Rows = npt.NDArray[np.int64]


def rank_all(
    ranker: Ranker,
    popular: Ranker | None,
    request: Request,
    mask: Tensor | None,
    batch_size: int | None,
) -> tuple[Rows, npt.NDArray[np.float32]]:
    """Rank for all users of a request in batches of like length.

    Args:
        ranker: For users with a history.
        popular: For those without; they get nothing when None.
        request: Whom to recommend what.
        mask: What may be recommended at all, shape ``(N,)``, bool; everything when None.
        batch_size: Users of a batch; as many as compute fastest when None.

    Returns:
        Rows of the catalogue and scores, both ``(B, K)``; -1 and -inf where there are fewer.
    """
    count = len(request.rows.lengths)
    items = np.full((count, request.k), -1, dtype=np.int64)
    scores = np.full((count, request.k), -np.inf, dtype=np.float32)
    hashes = None
    if request.names is not None:
        keys = StringArray.from_strings(str(name) for name in request.names)
        hashes = torch.from_numpy(hash_users(keys))
    on_cpu = ranker.device.type == "cpu"
    batches = list(request.batches(ranker.max_history, batch_size, on_cpu=on_cpu))
    if popular is None:
        batches = [(part, known) for part, known in batches if known]

    def answer(number: int) -> tuple[Rows, Ranking]:
        part, known = batches[number]
        listed = request.limits.of(part, request.seen if known else None)
        exclude, allow = (
            None if each is None else torch.from_numpy(each).to(ranker.device) for each in listed
        )
        rules = None
        if any(each is not None for each in (exclude, allow, mask)):
            rules = Rules(exclude, allow, mask)
        if not known:
            assert popular is not None
            nothing = torch.empty(len(part), 0, dtype=torch.long, device=ranker.device)
            return part, popular.rank(nothing, request.k, rules=rules)
        given = torch.from_numpy(request.rows.padded(part, ranker.max_history)).to(ranker.device)
        users = None if hashes is None else hashes[part].to(ranker.device)
        return part, ranker.rank(given, request.k, users=users, rules=rules)

    for part, found in side_by_side(answer, len(batches), ranker.device):
        items[part], scores[part] = found.items.cpu().numpy(), found.scores.cpu().numpy()
    return items, scores


def with_beams(ranker: Ranker, num_beams: int | None) -> Ranker:
    """Return the ranker, with another number of beams where one is given."""
    beams = read_beams(num_beams, ranker.name, searches=isinstance(ranker, SearchingRanker))
    if beams is None:
        return ranker
    assert isinstance(ranker, SearchingRanker)
    return ranker.with_beams(beams)
