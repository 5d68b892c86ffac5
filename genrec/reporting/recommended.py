"""Recommendations to some users as runs make them, with the codes that were generated.

Shape legend: B = users, S = history items, R = results, L = levels of an ID.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from genrec.data.prepared import PreparedDataset, StringArray
from genrec.data.schemas import Rules, SequenceBatch
from genrec.data.sequence_dataset import hash_users
from genrec.models.beam_ranker import BeamRanker
from genrec.trained import Trained

__all__ = ["Answer", "Offer", "UserSample", "sample_users"]

_HISTORY_SHOWN = 6


@dataclass(frozen=True)
class Offer:
    """An item that was recommended.

    Attributes:
        row: Row of the catalogue.
        codes: Its semantic ID; empty for a model that writes none.
        probabilities: Of each code given those before it; empty likewise.
        taken: Whether the user took it next.
    """

    row: int
    codes: tuple[int, ...]
    probabilities: tuple[float, ...]
    taken: bool

    @property
    def probability(self) -> float:
        """Of the whole ID."""
        return float(np.prod(self.probabilities))


@dataclass(frozen=True)
class Answer:
    """What one run recommends to one user: the run's name, and items, best first."""

    name: str
    offers: tuple[Offer, ...]


@dataclass(frozen=True)
class UserSample:
    """A user of the data set.

    Attributes:
        key: The user's own id.
        history: The newest items before the held-out one, oldest first.
        length: How many there are.
        taken: The held-out item; None where there is none.
        answers: One a run.
    """

    key: str
    history: tuple[int, ...]
    length: int
    taken: int | None
    answers: tuple[Answer, ...]

    def rows(self) -> set[int]:
        """All items that show."""
        offered = {offer.row for answer in self.answers for offer in answer.offers}
        return {*self.history, *offered} | ({self.taken} if self.taken is not None else set())


def sample_users(
    runs: Sequence[tuple[str, Trained]], data: PreparedDataset, users: Sequence[int], *, k: int = 5
) -> list[UserSample]:
    """Recommend to users what may follow all but their test item; what they had is left out.

    Args:
        runs: Names and runs, all on this data set.
        data: The data set.
        users: Rows of its users; those without any item are left out.
        k: Items for each.

    Returns:
        One entry a user.
    """
    offsets = np.asarray(data.sequence_offsets)
    users = [user for user in users if offsets[user] < offsets[user + 1]]
    histories, taken = [], []
    for user in users:
        cut = max(int(data.valid_ends[user]), int(offsets[user]) + 1)
        items = np.asarray(data.sequence_items[offsets[user] : offsets[user + 1]], dtype=np.int64)
        histories.append(items[: cut - offsets[user]])
        taken.append(int(items[cut - offsets[user]]) if cut < offsets[user + 1] else None)
    answers = [_answers(run, data, users, histories, taken, k) for _, run in runs]
    return [
        UserSample(
            key=data.user_keys[int(user)],
            history=tuple(histories[place][-_HISTORY_SHOWN:].tolist()),
            length=len(histories[place]),
            taken=taken[place],
            answers=tuple(
                Answer(name, found[place]) for (name, _), found in zip(runs, answers, strict=True)
            ),
        )
        for place, user in enumerate(users)
    ]


def _answers(
    run: Trained,
    data: PreparedDataset,
    users: Sequence[int],
    histories: Sequence[np.ndarray],
    taken: Sequence[int | None],
    k: int,
) -> list[tuple[Offer, ...]]:
    """Ask one run; an entry a user."""
    if not histories:
        return []
    ranker = run.ranker
    seen = _padded(histories).to(ranker.device)
    history = _padded([had[-ranker.max_history :] for had in histories]).to(ranker.device)
    names = StringArray.from_strings(data.user_keys[int(user)] for user in users)
    hashes = torch.from_numpy(hash_users(names)).to(ranker.device)
    items = ranker.rank(history, k, users=hashes, rules=Rules(exclude=seen)).items  # (B, R)
    codes, likely = run.catalogue.codes, None
    if isinstance(ranker, BeamRanker) and ranker.code_log_probs is not None:
        rows = torch.tensor(list(users), device=ranker.device)
        owners, places = (items >= 0).nonzero(as_tuple=True)
        batch = SequenceBatch(history[owners], items[owners, places][:, None], rows[owners])
        found = ranker.code_log_probs(batch, users=hashes[owners], temperatures=(1.0,)).own.exp()
        likely = torch.zeros(*items.shape, found.shape[1]).to(found)
        likely[owners, places] = found
    return [
        tuple(
            Offer(
                row=row,
                codes=() if codes is None or likely is None else tuple(codes[row].tolist()),
                probabilities=() if likely is None else tuple(likely[user, place].tolist()),
                taken=row == taken[user],
            )
            for place, row in enumerate(rows)
            if row >= 0
        )
        for user, rows in enumerate(items.tolist())
    ]


def _padded(lists: Sequence[np.ndarray]) -> Tensor:
    """Lay lists of items side by side, ``(B, S)``, with -1 at the end."""
    rows = torch.full((len(lists), max(map(len, lists))), -1, dtype=torch.long)
    for row, items in zip(rows, lists, strict=True):
        row[: len(items)] = torch.from_numpy(np.array(items))
    return rows
