"""Weights of the item-token model for a catalogue that has grown.

Shape legend: N = items, R = rows of a table, A = levels above a row, D = width, V = vectors of a
prefix, M = new items, K = nearest items, P = numbers of a sketch.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from genrec.decoding.trie import PrefixIndex

__all__ = ["grown_weights", "nearest_items"]

#: Items whose vectors a new one begins with, by likeness of their texts.
_NEAREST = 5
#: Numbers of a sketch by which neighbours can be told; those of older runs have fewer.
_LEAST_NUMBERS = 32
#: Scores are held for so many old items, and in all, at a time.
_BLOCK_ITEMS, _MOST_SCORES = 1 << 18, 1 << 26


@torch.no_grad()
def grown_weights(
    weights: Mapping[str, Tensor],
    sizes: Mapping[str, Tensor],
    old: PrefixIndex,
    new: PrefixIndex,
    near: Tensor | None = None,
) -> dict[str, Tensor]:
    """Move vectors of items and prefixes to where a larger catalogue has them.

    A new item has no history to learn from: its vector is the mean of those of the items with the
    nearest texts, as long as theirs are, since a shorter one would hardly ever win against items
    that were trained. Where these are unknown it is the mean of those that share the longest
    prefix with it, and a new prefix's likewise.

    Args:
        weights: Those of the trained model.
        sizes: Tensors of the shapes wanted; those that differ are of ``tokens.vectors`` and
            ``tree.prefixes``.
        old: The catalogue of the trained model.
        new: One that begins with the same items.
        near: Old items with the nearest texts, from :func:`nearest_items`; None where no texts
            are known.

    Returns:
        Weights of the larger model.
    """
    grown = dict(weights)
    count = old.num_items
    for name, wanted in sizes.items():
        weight = weights[name]
        if weight.shape == wanted.shape:
            continue
        if name.startswith("tokens.vectors."):
            level = len(old.level_sizes)
            before = torch.arange(count, device=weight.device)
            rows = torch.arange(new.num_items, device=weight.device)
        else:
            level = int(name.split(".")[2])
            before, rows = (index.paths.states[:, level].long() for index in (old, new))
        vectors = weight.view(int(before.max()) + 1, -1, weight.shape[1])  # (R, V, D)
        filled = vectors.new_empty(int(rows.max()) + 1, *vectors.shape[1:])
        filled[rows[:count]] = vectors[before]
        items = torch.arange(len(rows), device=weight.device)
        below = items.new_empty(len(filled))
        below.scatter_reduce_(0, rows, items, "amin", include_self=False)
        fresh = below >= count  # no old item lies below
        filled[fresh] = _relatives(vectors, before, level, old, new, below[fresh])
        if near is not None and name.startswith("tokens.vectors."):
            known = near[:, 0] >= 0  # (M,)
            places = torch.arange(count, len(rows), device=weight.device)[known]
            filled[places] = _as_long_mean(vectors[near[known]])
        grown[name] = filled.flatten(0, 1)
    return grown


@torch.no_grad()
def nearest_items(sketch: Tensor, known: int) -> Tensor | None:
    """Find, for each new item, the old ones with the nearest texts, by cosine.

    Args:
        sketch: Of the items' text vectors, the new ones' last, shape ``(N, P)``, floating point;
            NaN where unknown.
        known: Number of old items.

    Returns:
        Shape ``(M, K)``, int64; a row of -1 where an item's text is unknown or says nothing. None
        where the sketches are too short to tell.
    """
    if sketch.shape[1] < _LEAST_NUMBERS or known == 0:
        return None
    step = max(1, _MOST_SCORES // min(known, _BLOCK_ITEMS))
    parts = [_nearest(part, sketch[:known]) for part in _unit(sketch[known:]).split(step)]
    return torch.cat(parts) if parts else None


def _nearest(asked: Tensor, others: Tensor) -> Tensor:
    """Do it for some new items, of length one: ``(M, P)`` and ``(N, P)`` to ``(M, K)``."""
    best = asked.new_empty(len(asked), 0)
    rows = torch.empty(len(asked), 0, dtype=torch.long, device=asked.device)
    for begin in range(0, len(others), _BLOCK_ITEMS):
        block = _unit(others[begin : begin + _BLOCK_ITEMS])
        likeness = (asked @ block.T).nan_to_num(nan=-torch.inf)
        places = torch.arange(begin, begin + len(block), device=asked.device)
        best = torch.cat([best, likeness], dim=1)
        rows = torch.cat([rows, places.expand(len(asked), -1)], dim=1)
        best, chosen = best.topk(min(_NEAREST, best.shape[1]), dim=1)
        rows = rows.gather(1, chosen)
    # One whose text nobody's is like, or that has none, stands with nobody.
    return rows.masked_fill(best[:, -1:].isinf() | (best[:, :1] <= 0), -1)


def _unit(sketch: Tensor) -> Tensor:
    """Scale to length one; a zero becomes NaN, as what is unknown is."""
    return sketch / sketch.norm(dim=1, keepdim=True)


def _as_long_mean(vectors: Tensor) -> Tensor:
    """Average ``(M, K, V, D)`` over K to vectors of the mean length: ``(M, V, D)``."""
    mean = vectors.mean(dim=1)
    lengths = vectors.norm(dim=-1, keepdim=True).mean(dim=1)
    return mean * (lengths / mean.norm(dim=-1, keepdim=True).clamp(min=1e-12))


def _relatives(
    vectors: Tensor,
    rows: Tensor,
    level: int,
    old: PrefixIndex,
    new: PrefixIndex,
    items: Tensor,
) -> Tensor:
    """Average the old rows below the longest prefix that a new item shares.

    Args:
        vectors: Of the old rows, shape ``(R, V, D)``.
        rows: Row of each old item, shape ``(N,)``, int64.
        level: Levels above a row, ``A``.
        old: The old catalogue.
        new: The larger one.
        items: Items of the larger one, shape ``(M,)``, int64.

    Returns:
        Shape ``(M, V, D)``.
    """
    found = vectors.mean(dim=0).repeat(len(items), 1, 1)
    one_each = torch.zeros(len(vectors), dtype=torch.long, device=rows.device)
    one_each[rows] = torch.arange(len(rows), device=rows.device)  # an item below each row
    for above in range(level):
        states = old.paths.states[:, above].long()
        known = states.new_full((new.num_states[above + 1],), -1)
        known[new.paths.states[: len(states), above].long()] = states
        place = known[new.paths.states[items, above].long()]  # (M,)
        groups, size = states[one_each], old.num_states[above + 1]
        sums = vectors.new_zeros(size, *vectors.shape[1:]).index_add_(0, groups, vectors)
        means = sums / groups.bincount(minlength=size).view(-1, 1, 1)
        found = torch.where((place >= 0).view(-1, 1, 1), means[place.clamp(min=0)], found)
    return found
