"""The softmax over items on the encoder's state.

Shape legend: M = targets of a batch, B = users, S = history items, N = items, G = first codes,
Q = negatives, R = results, D = width.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from genrec.decoding.trie import PrefixIndex
from genrec.models.item_settings import ItemHeadSettings
from genrec.models.item_tokens import ItemTokens
from genrec.models.seen_items import SeenItems, SeenPairs
from genrec.modules.kernels.group_logsumexp import RowGroups, linear_group_logsumexp
from genrec.modules.kernels.linear_cross_entropy import (
    ListedPairs,
    head_dtype,
    linear_cross_entropy,
)

__all__ = ["first_code_scores", "item_loss", "item_scores"]


def item_loss(
    states: Tensor,
    tokens: ItemTokens,
    index: PrefixIndex,
    wanted: Tensor,
    settings: ItemHeadSettings,
    *,
    seen: SeenItems | None,
    seen_weight: Tensor | None,
    skip_history: bool,
    first: Tensor | None = None,
) -> Tensor:
    """Compute the mean cross-entropy of the next items.

    Args:
        states: Encoder's states, shape ``(M, D)``.
        tokens: Vectors of the items.
        index: The catalogue.
        wanted: The next items, shape ``(M,)``, int64.
        settings: Whether all items are compared, or some that are drawn.
        seen: Items that the user has, or None where they do not count.
        seen_weight: Added to their scores, scalar, or None.
        skip_history: Whether they are left out.
        first: :func:`first_code_scores` of the states, where they are at hand: all that is left
            to do is the targets' own scores.

    Returns:
        Scalar. With drawn items it estimates the loss over all.
    """
    if first is not None:
        own = (states * tokens(wanted, index)).sum(dim=1).float()
        if seen is not None:
            pairs, extra = _pairs(seen, wanted, seen_weight, skip_history)
            own = own.index_add(0, pairs.rows, _of_own(pairs, extra, wanted))
        return (first.logsumexp(dim=1) - own).mean()
    if settings.num_negatives is None:
        listed = None if seen is None else _listed(seen, wanted, seen_weight, skip_history)
        dtype = head_dtype(settings.item_head_dtype, states.device)
        return linear_cross_entropy(states, tokens.table(index), wanted, listed, dtype=dtype)
    drawn = torch.randint(index.num_items, (settings.num_negatives,), device=states.device)
    drawn = drawn.sort().values
    again = F.pad(drawn[1:] == drawn[:-1], (1, 0))
    num_drawn = len(drawn) - again.sum()  # each once; read from the device by nobody
    others = F.linear(states, tokens(drawn, index)).float()  # (M, Q)
    own = (states * tokens(wanted, index)).sum(dim=1, keepdim=True).float()
    # Each drawn item stands for as many others as there are to draw from.
    others = others + (index.num_items / num_drawn).log()
    if seen is not None:
        pairs, extra = _pairs(seen, wanted, seen_weight, skip_history)
        place = torch.searchsorted(drawn, pairs.items).clamp(max=len(drawn) - 1)
        hit = extra.where(drawn[place] == pairs.items, 0.0)
        others = others.index_put((pairs.rows, place), hit, accumulate=True)
        own = own.index_add(0, pairs.rows, _of_own(pairs, extra, wanted).unsqueeze(1))
    others = others.masked_fill(again | (drawn == wanted.unsqueeze(1)), -torch.inf)
    return F.cross_entropy(torch.cat([own, others], dim=1), torch.zeros_like(wanted))


def first_code_scores(
    states: Tensor,
    table: Tensor,
    index: PrefixIndex,
    wanted: Tensor | None,
    dtype: torch.dtype,
    *,
    seen: SeenItems | None,
    seen_weight: Tensor | None,
    skip_history: bool,
) -> Tensor:
    """Score each first code by all items below it.

    Args:
        states: Encoder's states, shape ``(M, D)``.
        table: Tokens of all items, shape ``(N, D)``.
        index: The catalogue.
        wanted: Items that count even where the user has them, shape ``(M,)``, int64, or None.
        dtype: Of the products.
        seen: Items that the user has, or None where they do not count.
        seen_weight: As in :func:`item_loss`.
        skip_history: As in :func:`item_loss`.

    Returns:
        Logarithm of the sum of exponentials of the item head's scores, shape ``(M, G)``, float32.
    """
    listed = None if seen is None else _listed(seen, wanted, seen_weight, skip_history)
    paths = index.paths
    groups = RowGroups.of(paths.states[:, 0], index.leaf_items, paths.num_below[0])
    return linear_group_logsumexp(states, table, groups, listed, dtype=dtype)


def item_scores(
    states: Tensor,
    tokens: ItemTokens,
    index: PrefixIndex,
    items: Tensor,
    history: Tensor,
    seen_weight: Tensor | None,
    table: Tensor | None = None,
) -> Tensor:
    """Score some items of each user.

    Args:
        states: Encoder's states, shape ``(B, D)``.
        tokens: Vectors of the items.
        index: The catalogue.
        items: Shape ``(B, R)``, int64; -1 counts as item 0.
        history: Items that the user has, shape ``(B, S)``, int64; -1 for padding.
        seen_weight: Added to the scores of these, or None.
        table: Tokens of all items, shape ``(N, D)``, where they are at hand.

    Returns:
        Log-probabilities up to a constant of each user, shape ``(B, R)``.
    """
    ids = items.clamp(min=0)
    vectors = tokens(ids, index) if table is None else F.embedding(ids, table)
    scores = (vectors @ states.unsqueeze(2)).squeeze(2)
    if seen_weight is not None:
        had = (items.unsqueeze(2) == history.unsqueeze(1)).any(dim=2)
        scores = scores + seen_weight * had
    return scores


def _pairs(
    seen: SeenItems, wanted: Tensor | None, weight: Tensor | None, skip_history: bool
) -> tuple[SeenPairs, Tensor]:
    """List each target's items of the history and what is added to their scores, ``(P,)``."""
    pairs = seen.pairs()
    extra = torch.zeros(len(pairs.rows), device=pairs.rows.device)
    if weight is not None:
        extra = extra + weight
    if skip_history:
        gone = pairs.items >= 0 if wanted is None else pairs.items != wanted[pairs.rows]
        extra = extra.masked_fill(gone, -torch.inf)
    return pairs, pairs.extra(extra)


def _listed(
    seen: SeenItems, wanted: Tensor | None, weight: Tensor | None, skip_history: bool
) -> ListedPairs:
    """The same as the kernels take it."""
    pairs, extra = _pairs(seen, wanted, weight, skip_history)
    return ListedPairs(pairs.rows, pairs.items, extra, pairs.each)


def _of_own(pairs: SeenPairs, extra: Tensor, wanted: Tensor) -> Tensor:
    """Keep what is added to the targets' own scores; elsewhere it may be -inf."""
    return extra.where(pairs.items == wanted[pairs.rows], 0.0)
