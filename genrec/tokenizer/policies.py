"""Collision policies: from the codes of a quantiser to the IDs of a catalogue.

Shape legend: N = items, R = new items, L = code levels, D = embedding width.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from genrec.errors import ArtifactError, ConfigError, did_you_mean
from genrec.tokenizer.collisions import (
    append_dedup_digit,
    collision_statistics,
    group_ids,
    pack_ids,
)
from genrec.tokenizer.quantizer import ItemQuantizer, encode_ids, encode_rows, evaluation_mode
from genrec.tokenizer.reassign import reassign
from genrec.tokenizer.sinkhorn_repair import spread_collisions

__all__ = ["POLICIES", "IdTable", "build_ids", "check_policy", "extend_ids", "quantizer_digest"]

POLICIES = ("dedup_token", "sinkhorn", "reassign", "none")

_VARIANCE_ITEMS = 65_536  # enough for the scale of a ratio


@dataclass(frozen=True)
class IdTable:
    """IDs and what they cost.

    Attributes:
        ids: Codes, shape ``(N, L)`` or, with a dedup digit, ``(N, L + 1)``, int32.
        level_sizes: Codes of each column.
        statistics: See :class:`~genrec.tokenizer.semantic_id.SemanticIdTokenizer`.
    """

    ids: npt.NDArray[np.int32]
    level_sizes: tuple[int, ...]
    statistics: dict[str, Any]


def check_policy(policy: str) -> None:
    """Refuse a collision policy that is none of :data:`POLICIES`.

    Raises:
        ConfigError: Naming the near ones.
    """
    if policy not in POLICIES:
        raise ConfigError(
            f"collision policy must be one of {', '.join(POLICIES)}, got {policy!r}; "
            f"{did_you_mean(policy, POLICIES)}"
        )


def build_ids(
    quantizer: ItemQuantizer,
    embeddings: npt.NDArray[Any],
    *,
    policy: str,
    codes: npt.NDArray[np.int32] | None = None,
    batch_size: int = 4096,
    device: torch.device | str | None = None,
) -> IdTable:
    """Quantise a catalogue and settle who gets which ID.

    Args:
        quantizer: The frozen quantiser.
        embeddings: Shape ``(N, D)``, in memory or memory-mapped, finite.
        policy: One of :data:`POLICIES`.
        codes: What ``encode_ids`` gives for them, shape ``(N, L)``, where it is at hand.
        batch_size: Items encoded at once.
        device: Where the quantiser lives.

    Returns:
        The IDs with their statistics.

    Raises:
        ConfigError: If the policy is unknown.
        ArtifactError: If the embeddings do not fit, or there are more items than IDs.
        DataError: If the embeddings are not finite.
    """
    check_policy(policy)
    with evaluation_mode(quantizer):
        where: dict[str, Any] = {"batch_size": batch_size, "device": device}
        if codes is None:
            codes = encode_ids(quantizer, embeddings, **where)
        return _build(quantizer, embeddings, codes, policy, where)


def _build(
    quantizer: ItemQuantizer,
    embeddings: npt.NDArray[Any],
    codes: npt.NDArray[np.int32],
    policy: str,
    where: dict[str, Any],
) -> IdTable:
    """Do the work of :func:`build_ids`."""
    sizes = tuple(int(size) for size in quantizer.codebook_sizes)
    statistics = collision_statistics(codes, sizes)
    ids, added = codes, 0.0
    if policy == "dedup_token":
        ids, digit_size = append_dedup_digit(codes, sizes)
        sizes = (*sizes, digit_size)
    elif policy == "reassign":
        groups = group_ids(codes, sizes)
        shared = np.repeat(groups.sizes > 1, groups.sizes)
        rows = np.sort(groups.order[shared])
        taken = pack_ids(codes[groups.order[~shared]], sizes)
        placed = reassign(quantizer, embeddings, rows, codes[rows], taken=taken, **where)
        ids, added = codes.copy(), placed.added_distortion
        ids[rows] = placed.ids
    elif policy == "sinkhorn":
        ids = spread_collisions(quantizer, embeddings, codes, **where)
        added = _added_distortion(quantizer, embeddings, codes, ids, where)
    moved = 0 if policy == "dedup_token" else int((ids != codes).any(axis=1).sum())
    variance = _latent_variance(quantizer, embeddings, where)
    statistics |= {
        "items_moved": moved,
        "added_distortion": _share(added, variance * len(ids)),
        "latent_variance": variance,
    }
    return IdTable(ids, sizes, statistics | left_over(ids, sizes))


def extend_ids(
    quantizer: ItemQuantizer,
    embeddings: npt.NDArray[Any],
    old: IdTable,
    *,
    policy: str,
    batch_size: int = 4096,
    device: torch.device | str | None = None,
) -> IdTable:
    """Give IDs to new items; no old ID and no level size changes.

    Args:
        quantizer: The quantiser that made the old IDs.
        embeddings: Embeddings of the new items, shape ``(R, D)``, finite.
        old: The table so far.
        policy: How it was made. ``dedup_token``: the digit counts on; an item that finds all
            digits of its codes in use gets the nearest codes that nobody has. ``reassign``:
            an item whose codes are in use gets the nearest that are free. ``none``,
            ``sinkhorn``: the item's own codes, shared where they are in use.
        batch_size: Items encoded at once.
        device: Where the quantiser lives.

    Returns:
        The table of ``N + R`` items.

    Raises:
        ConfigError: If the table was imported, so that its policy is unknown.
        ArtifactError: If the quantiser's sizes are not the table's, or no ID is left.
        DataError: If the embeddings are not finite.
    """
    check_policy(policy)
    sizes = tuple(int(size) for size in quantizer.codebook_sizes)
    if old.level_sizes[: len(sizes)] != sizes:
        raise ArtifactError(
            f"quantiser must have the table's {old.level_sizes} codes a level, got {sizes}; "
            "use the run that made the table"
        )
    with evaluation_mode(quantizer):
        return _extend(
            quantizer, embeddings, old, policy, {"batch_size": batch_size, "device": device}
        )


def _extend(
    quantizer: ItemQuantizer,
    embeddings: npt.NDArray[Any],
    old: IdTable,
    policy: str,
    where: dict[str, Any],
) -> IdTable:
    """Do the work of :func:`extend_ids`."""
    sizes = tuple(int(size) for size in quantizer.codebook_sizes)
    new = encode_ids(quantizer, embeddings, **where)  # (R, L)
    old_keys = pack_ids(old.ids[:, : len(sizes)], sizes)
    taken, used = np.unique(old_keys, return_counts=True)
    keys = pack_ids(new, sizes)
    position = np.searchsorted(taken, keys).clip(max=max(len(taken) - 1, 0))
    in_use = np.where(taken[position] == keys, used[position], 0) if len(taken) else 0 * keys
    rank = in_use + group_ids(new, sizes).ranks()  # (R,) how many came before, old and new
    added, moved = 0.0, 0
    room = {"dedup_token": old.level_sizes[-1], "reassign": 1}.get(policy)
    if room is not None and (late := np.flatnonzero(rank >= room)).size:
        taken = np.union1d(taken, np.delete(keys, late))
        placed = reassign(quantizer, embeddings, late, new[late], taken=taken, **where)
        new[late], rank[late] = placed.ids, 0
        moved, added = placed.num_moved, placed.added_distortion
    if policy == "dedup_token":
        new = np.concatenate([new, rank.astype(np.int32)[:, None]], axis=1)
    ids = np.concatenate([old.ids, new])
    before = old.statistics
    variance = float(before["latent_variance"])
    added += float(before["added_distortion"]) * variance * len(old.ids)
    statistics = before | {
        "items_added": int(before.get("items_added", 0)) + len(new),
        "items_moved": int(before["items_moved"]) + moved,
        "added_distortion": _share(added, variance * len(ids)),
    }
    return IdTable(ids, old.level_sizes, statistics | left_over(ids, old.level_sizes))


def left_over(ids: npt.NDArray[np.int32], level_sizes: tuple[int, ...]) -> dict[str, int]:
    """Count the items of ``(N, L)`` that still share an ID once a policy is done."""
    sizes = group_ids(ids, level_sizes).sizes
    return {
        "left_items_sharing_id": int(sizes[sizes > 1].sum()),
        "left_largest_group": int(sizes.max(initial=0)),
    }


def quantizer_digest(quantizer: ItemQuantizer) -> str:
    """Compute a digest of the codebooks, 16 hexadecimal digits: which quantiser made an ID."""
    digest = hashlib.sha256()
    for codebook in quantizer.get_codebook():
        array = np.ascontiguousarray(codebook.detach().cpu().float().numpy(), dtype="<f4")
        digest.update(f"{array.shape}".encode())
        digest.update(array.data)
    return digest.hexdigest()[:16]


def _share(part: float, whole: float) -> float:
    return part / whole if whole > 0 else 0.0


@torch.no_grad()
def _added_distortion(
    quantizer: ItemQuantizer,
    embeddings: npt.NDArray[Any],
    before: npt.NDArray[np.int32],
    after: npt.NDArray[np.int32],
    where: dict[str, Any],
) -> float:
    """Sum over items the squared distance that new codes add."""
    rows = np.flatnonzero((before != after).any(axis=1))
    codebooks = quantizer.get_codebook()
    added = 0.0
    for start, z in encode_rows(quantizer, embeddings, rows, **where):
        part = rows[start : start + len(z)]
        for ids, sign in ((before, -1.0), (after, 1.0)):
            codes = torch.from_numpy(ids[part]).long().to(z.device)
            total = torch.stack([book[codes[:, i]] for i, book in enumerate(codebooks)]).sum(0)
            added += sign * float((z - total).square().sum(dtype=torch.float64))
    return added


@torch.no_grad()
def _latent_variance(
    quantizer: ItemQuantizer, embeddings: npt.NDArray[Any], where: dict[str, Any]
) -> float:
    """Estimate the mean squared distance of a latent to their mean from evenly spread items."""
    rows = np.arange(0, len(embeddings), max(1, len(embeddings) // _VARIANCE_ITEMS))
    total = torch.zeros((), dtype=torch.float64)
    squares = 0.0
    for _, z in encode_rows(quantizer, embeddings, rows, **where):
        z = z.double().cpu()
        total = total + z.sum(dim=0)
        squares += float(z.square().sum())
    count = max(len(rows), 1)
    return max(squares / count - float((total / count).square().sum()), 0.0)
