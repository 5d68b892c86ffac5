"""The softmax over items on the encoder's state.

Shape legend: M = targets of a batch, B = users, S = history items, N = items, G = first codes,
Q = negatives, R = results, D = width.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from genrec.decoding.trie import PrefixIndex
from genrec.models.item_settings import ItemHeadSettings
from genrec.models.item_tokens import ItemTokens
from genrec.models.seen_items import SeenItems
from genrec.modules.kernels.group_logsumexp import linear_group_logsumexp
from genrec.modules.kernels.linear_cross_entropy import head_dtype, linear_cross_entropy

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
            rows, items, extra = _pairs(seen, wanted, seen_weight, skip_history)
            is_own = items == wanted[rows]  # elsewhere it may be -inf
            own = own.index_add(0, rows[is_own], extra[is_own])
        return (first.logsumexp(dim=1) - own).mean()
    if settings.num_negatives is None:
        pairs = _pairs(seen, wanted, seen_weight, skip_history) if seen is not None else None
        dtype = head_dtype(settings.item_head_dtype, states.device)
        return linear_cross_entropy(states, tokens.table(index), wanted, pairs, dtype=dtype)
    drawn = torch.randint(index.num_items, (settings.num_negatives,), device=states.device)
    drawn = drawn.unique()
    others = F.linear(states, tokens(drawn, index)).float()  # (M, Q)
    own = (states * tokens(wanted, index)).sum(dim=1, keepdim=True).float()
    # Each drawn item stands for as many others as there are to draw from.
    others = others + math.log(index.num_items / len(drawn))
    if seen is not None:
        rows, items, extra = _pairs(seen, wanted, seen_weight, skip_history)
        place = torch.searchsorted(drawn, items).clamp(max=len(drawn) - 1)
        hit = (drawn[place] == items).nonzero().squeeze(1)
        others = others.index_put((rows[hit], place[hit]), extra[hit], accumulate=True)
        is_own = (items == wanted[rows]).nonzero().squeeze(1)
        own = own.index_put((rows[is_own], torch.zeros_like(is_own)), extra[is_own], True)
    others = others.masked_fill(drawn == wanted.unsqueeze(1), -torch.inf)
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
    pairs = None if seen is None else _pairs(seen, wanted, seen_weight, skip_history)
    return linear_group_logsumexp(
        states, table, index.paths.states[:, 0], index.num_states[1], pairs, dtype=dtype
    )


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
) -> tuple[Tensor, Tensor, Tensor]:
    """List each target's items of the history and what is added to their scores."""
    rows, columns = seen.fresh.nonzero(as_tuple=True)
    items = seen.items[rows, columns]
    extra = torch.zeros(len(items), device=items.device)
    if weight is not None:
        extra = extra + weight
    if skip_history:
        gone = items >= 0 if wanted is None else items != wanted[rows]
        extra = extra.masked_fill(gone, -torch.inf)
    return rows, items, extra
