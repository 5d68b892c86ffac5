"""What passes between the layers: batches, rules and rankings, with their shapes.

Shape legend: B = rows of a batch, S = history items, G = targets of a row, L = levels, N = items
of the catalogue, E = excluded items, A = allowed items, R = results.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

__all__ = ["Ranking", "Rules", "SequenceBatch", "TokenizedBatch"]


@dataclass(frozen=True)
class SequenceBatch:
    """Histories and targets as item ids; knows no semantic IDs.

    Attributes:
        history: Items, oldest first, shape ``(B, S)``, int64; -1 for padding, at the end.
        targets: Shape ``(B, G)``, int64; -1 for none. With ``packed`` target ``g`` follows item
            ``g`` of the history and ``G = S``; otherwise ``G = 1`` and it follows the whole.
        user_ids: Row of each user in the data set, shape ``(B,)``, int64.
        packed: Whether every item of the row has its own target.
        padded: Whether ``history`` has padding; known on the host, so that no mask is made and
            nothing is read from the device where there is none.
        weight: Of the batch's mean loss among those of the step's shards, 1 on average, so that
            every target of the step counts the same wherever it is.
        live: Places of the M targets that exist among the ``B * G``, rising, shape ``(M,)``,
            int64; None where the host does not know them.
    """

    history: Tensor
    targets: Tensor
    user_ids: Tensor
    packed: bool = False
    padded: bool = True
    weight: float = 1.0
    live: Tensor | None = None


@dataclass(frozen=True)
class TokenizedBatch:
    """Histories and targets as semantic IDs.

    Attributes:
        history: Codes, shape ``(B, S, L)``, int64; -1 for padding, at the end.
        targets: Codes, shape ``(B, G, L)``, int64; -1 for none.
        user_ids: Hashed users, shape ``(B,)``, int64.
        packed: As in :class:`SequenceBatch`.
        padded: As in :class:`SequenceBatch`.
    """

    history: Tensor
    targets: Tensor
    user_ids: Tensor
    packed: bool = False
    padded: bool = True


@dataclass(frozen=True)
class Rules:
    """What may be recommended; an item must pass every rule that is given.

    Attributes:
        exclude: Items that each user shall not get, shape ``(B, E)``, int64; -1 for padding.
        allow: The only items that each user may get, shape ``(B, A)``, int64; -1 for padding. A
            user whose row is all padding gets nothing.
        mask: Which items anybody may get, shape ``(N,)``, bool.
    """

    exclude: Tensor | None = None
    allow: Tensor | None = None
    mask: Tensor | None = None


@dataclass(frozen=True)
class Ranking:
    """Recommendations, best first.

    Attributes:
        items: Rows of the catalogue, shape ``(B, R)``, int64; -1 where none is left.
        scores: Comparable within one ranker only, shape ``(B, R)``, float32, falling along each
            row; ``-inf`` where no item is left.
    """

    items: Tensor
    scores: Tensor
