"""Ranking for models that score every item of the catalogue.

Shape legend: B = users, S = history items, N = items, R = results.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import pad

from genrec.data.catalogue import Catalogue
from genrec.data.prepared import StringArray
from genrec.data.schemas import Ranking, Rules

__all__ = ["ScoreRanker", "top_items"]


@dataclass(frozen=True)
class ScoreRanker:
    """Fulfils :class:`~genrec.rankers.Ranker` by the scores of all items.

    Attributes:
        name: What tables call it.
        catalogue: The items.
        scores: From histories, shape ``(B, S)``, to the scores of all items, shape ``(B, N)``.
        max_history: Most history items that the model takes.
        device: Where the model lives.
        vectors: Of all items, shape ``(N, D)``, where the model has them.
    """

    name: str
    catalogue: Catalogue
    scores: Callable[[Tensor], Tensor]
    max_history: int
    device: torch.device
    vectors: Tensor | None = None

    @property
    def item_keys(self) -> StringArray:
        """The catalogue's own item ids, ``N``."""
        return self.catalogue.item_keys

    @property
    def num_items(self) -> int:
        """Number of items ``N``."""
        return self.catalogue.num_items

    @property
    def groups(self) -> npt.NDArray[np.int64] | None:
        """None: items are told apart by their rows, whatever codes the catalogue has."""
        return None

    @torch.no_grad()
    def rank(
        self, history: Tensor, k: int, *, users: Tensor | None = None, rules: Rules | None = None
    ) -> Ranking:
        """Recommend the items with the best scores; see :meth:`~genrec.rankers.Ranker.rank`."""
        return top_items(self.scores(history), k, rules)


def top_items(scores: Tensor, k: int, rules: Rules | None = None) -> Ranking:
    """Pick each user's best items among those that the rules let pass.

    Args:
        scores: Shape ``(B, N)``, floating point; ``-inf`` is never picked.
        k: Items for each user ``R``, >= 1; may be more than ``N``.
        rules: What may be recommended, on the device of ``scores``; everything when None.

    Returns:
        Shape ``(B, R)``; of equal scores the lower row comes first.
    """
    scores = scores.float()
    num_items = scores.shape[1]
    if rules is not None:
        drop = torch.zeros(len(scores), num_items + 1, dtype=torch.bool, device=scores.device)
        if rules.allow is not None:  # padding lands in the spare last column
            drop = ~drop.scatter(1, rules.allow.where(rules.allow >= 0, num_items), True)
        if rules.exclude is not None:
            drop = drop.scatter(1, rules.exclude.where(rules.exclude >= 0, num_items), True)
        drop = drop[:, :-1]
        if rules.mask is not None:
            drop = drop | ~rules.mask
        scores = scores.masked_fill(drop, -torch.inf)
    width = min(k, num_items)
    best, items = scores.topk(min(k + 1, num_items), dim=1)
    # topk takes any of equal scores; where not all that equal the last one fit, take the lower.
    last, items = best[:, width - 1 : width], items[:, :width]
    crowded = (last == best[:, width:]).any(dim=1) & (last.squeeze(1) > -torch.inf)
    if crowded.any():
        some, last = scores[crowded], last[crowded]
        above, equal = some > last, some == last
        room = width - above.sum(dim=1, keepdim=True)
        chosen = above | (equal & (equal.cumsum(dim=1) <= room))  # width in each row
        items[crowded] = chosen.nonzero()[:, 1].view(-1, width)
    items = items.sort(dim=1).values  # the stable sort by score then leaves lower rows in front
    best, order = scores.gather(1, items).sort(dim=1, descending=True, stable=True)
    items = items.gather(1, order).masked_fill(best == -torch.inf, -1)
    missing = (0, k - items.shape[1])
    return Ranking(pad(items, missing, value=-1), pad(best, missing, value=-torch.inf))
