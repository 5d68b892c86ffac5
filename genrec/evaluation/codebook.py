"""How well a tokenizer describes a catalogue: reconstruction, use of the codes, collisions.

Shape legend: N = items, B = items in a batch, X = features, D = latent width, L = code levels,
K = codes of a level.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from genrec.tokenizer.collisions import collision_statistics

__all__ = [
    "CodebookReport",
    "Described",
    "collapse_alarms",
    "collision_advice",
    "evaluate_codebook",
    "many_collide",
]

#: A level with a smaller share of its codes in use has collapsed.
COLLAPSED_USAGE = 0.10
#: Below this share of codes in use, or of the highest perplexity, a level is on its way there.
LOW_USAGE = 0.50
LOW_PERPLEXITY = 0.25
#: From this share of colliding IDs, or this many items with one ID, codes of their own pay: the
#: dedup digit says nothing about an item, and costs a step of every search.
HIGH_COLLISIONS = 0.05
LARGE_GROUP = 16
#: R2 that moving the colliding items may cost; beyond it more codes are the better remedy.
CHEAP_REASSIGN = 0.01


class Described(NamedTuple):
    """What a tokenizer makes of a batch of items.

    Attributes:
        ids: Codes, shape ``(B, L)``, integers.
        target: What should be reconstructed, shape ``(B, X)``, float32.
        reconstruction: From the codes, shape ``(B, X)``, float32.
        unquantized: Reconstruction from the latents themselves, shape ``(B, X)``, float32.
        latents: Shape ``(B, D)``, float32.
        quantized: Sums of codes, shape ``(B, D)``, float32.
        loss: Reconstruction loss of each item, shape ``(B,)``.
    """

    ids: Tensor
    target: Tensor
    reconstruction: Tensor
    unquantized: Tensor
    latents: Tensor
    quantized: Tensor
    loss: Tensor


@dataclass(frozen=True)
class CodebookReport:
    """What :func:`evaluate_codebook` finds.

    Attributes:
        num_items: N.
        codebook_sizes: K of each level.
        r2: Share of the embeddings' variance that the codes explain: 1 is perfect, 0 no better
            than the mean embedding.
        r2_unquantized: The same for latents before they are quantised: what the autoencoder
            alone can hold.
        cosine: Mean cosine similarity of embeddings and reconstructions.
        loss: Mean reconstruction loss.
        quantization_error: Share of the latents' variance that the codes lose.
        num_unique: Distinct ids.
        collision_rate: ``1 - num_unique / num_items``.
        largest_group: Most items with one id.
        codes_used: Codes with at least one item, of each level.
        perplexity: Exponential of the entropy of the codes' shares, of each level; K when all
            codes are used alike.
    """

    num_items: int
    codebook_sizes: tuple[int, ...]
    r2: float
    r2_unquantized: float
    cosine: float
    loss: float
    quantization_error: float
    num_unique: int
    collision_rate: float
    largest_group: int
    codes_used: tuple[int, ...]
    perplexity: tuple[float, ...]

    def metrics(self, prefix: str = "val") -> dict[str, float]:
        """Flatten to numbers for logs.

        Args:
            prefix: Put before every name.

        Returns:
            Names such as ``val/r2`` and ``val/perplexity_1``, levels counted from 1.
        """
        flat = {
            "r2": self.r2,
            "r2_unquantized": self.r2_unquantized,
            "cosine": self.cosine,
            "reconstruction_loss": self.loss,
            "quantization_error": self.quantization_error,
            "unique_ids": float(self.num_unique),
            "collision_rate": self.collision_rate,
            "largest_group": float(self.largest_group),
        }
        levels = zip(self.codes_used, self.perplexity, strict=True)
        for level, (used, perplexity) in enumerate(levels, start=1):
            flat[f"codes_used_{level}"] = float(used)
            flat[f"perplexity_{level}"] = perplexity
        return {f"{prefix}/{name}": value for name, value in flat.items()}

    def __str__(self) -> str:
        used = "/".join(str(count) for count in self.codes_used)
        perplexity = "/".join(f"{value:.0f}" for value in self.perplexity)
        return (
            f"R2 {self.r2:.4f} | cosine {self.cosine:.4f} | collisions "
            f"{100 * self.collision_rate:.2f} % | largest group {self.largest_group} | "
            f"codes used {used} | perplexity {perplexity}"
        )


@torch.no_grad()
def evaluate_codebook(
    describe: Callable[[Tensor], Described],
    items: Tensor,
    *,
    codebook_sizes: Sequence[int],
    batch_size: int = 8192,
) -> CodebookReport:
    """Describe every item by its codes, and measure what is lost.

    Args:
        describe: The tokenizer.
        items: What it takes, shape ``(N, X)``, N >= 1, any floating dtype.
        codebook_sizes: K of each level.
        batch_size: Items described at once.

    Returns:
        The report.
    """
    ids = []
    sums = torch.zeros(5, dtype=torch.float64)
    target_spread, latent_spread = _Spread(), _Spread()
    for rows in items.split(batch_size):
        found = describe(rows)
        ids.append(found.ids)
        target_spread.add(found.target)
        latent_spread.add(found.latents)
        columns = (
            (found.target - found.reconstruction).square().sum(dim=1),
            (found.target - found.unquantized).square().sum(dim=1),
            (found.latents - found.quantized).square().sum(dim=1),
            F.cosine_similarity(found.target, found.reconstruction, dim=1),
            found.loss,
        )
        sums += torch.stack([column.double().sum() for column in columns]).cpu()
    error, unquantized, quantization, cosine, loss = sums.tolist()
    variance, latent_variance = target_spread.total(), latent_spread.total()
    counted = collision_statistics(torch.cat(ids).cpu().numpy(), codebook_sizes)
    return CodebookReport(
        num_items=len(items),
        codebook_sizes=tuple(codebook_sizes),
        r2=1 - error / max(variance, 1e-12),
        r2_unquantized=1 - unquantized / max(variance, 1e-12),
        cosine=cosine / len(items),
        loss=loss / len(items),
        quantization_error=quantization / max(latent_variance, 1e-12),
        num_unique=counted["distinct_ids"],
        collision_rate=counted["collision_rate"],
        largest_group=counted["largest_group"],
        codes_used=tuple(counted["codes_used"]),
        perplexity=tuple(counted["perplexity"]),
    )


class _Spread:
    """Sum over items of the squared distance from their mean, in one pass."""

    def __init__(self) -> None:
        self.count = 0
        self.origin: Tensor | None = None
        self.sum: Tensor | float = 0.0
        self.square: Tensor | float = 0.0

    def add(self, rows: Tensor) -> None:
        if self.origin is None:
            self.origin = rows[0].double()
        shifted = rows.double() - self.origin  # sums of squares cancel far from the origin
        self.count += len(rows)
        self.sum = self.sum + shifted.sum(dim=0)
        self.square = self.square + shifted.square().sum()

    def total(self) -> float:
        assert isinstance(self.sum, Tensor)
        return float(self.square - self.sum.square().sum() / self.count)


def collapse_alarms(report: CodebookReport) -> list[str]:
    """Say, in words, which levels collapse and what to change.

    Args:
        report: From :func:`evaluate_codebook`.

    Returns:
        One sentence a level in trouble; empty where all is well.
    """
    if report.collision_rate == 0 and report.r2 > 0.95:
        return []  # few items: the first levels tell them apart, and leave nothing to the others
    alarms = []
    levels = zip(report.codebook_sizes, report.codes_used, report.perplexity, strict=True)
    for level, (size, used, perplexity) in enumerate(levels, start=1):
        reach = min(size, report.num_items)  # more codes than items cannot be used
        if used < COLLAPSED_USAGE * reach:
            state = "has collapsed"
        elif used < LOW_USAGE * reach or perplexity < LOW_PERPLEXITY * reach:
            state = "is collapsing"
        else:
            continue
        alarms.append(
            f"level {level} {state}: {used} of {size} codes in use, perplexity "
            f"{perplexity:.1f}. {REMEDY}"
        )
    return alarms


def many_collide(collision_rate: float, largest_group: float) -> bool:
    """Tell whether so many items share their codes that something should be done."""
    return collision_rate > HIGH_COLLISIONS or largest_group > LARGE_GROUP


def collision_advice(reassign_cost: float | None, *, run: str) -> str:
    """Say what to do about items that share their codes.

    Args:
        reassign_cost: R2 that the policy ``reassign`` was measured to cost; None where it cannot
            be used, because there are more items than codes.
        run: The run's folder.

    Returns:
        What to do, in words.
    """
    more = "train.vae_codebook_size or train.vae_n_layers: more"
    if reassign_cost is None:
        return f"{more}, there are more items than IDs"
    if reassign_cost > CHEAP_REASSIGN:
        return f"{more}; to give every item codes of its own would cost {reassign_cost:.4f} of R2"
    return (
        f"`genrec tokenize {run} --policy reassign`, or train.collision_policy='reassign': every "
        f"item gets codes of its own, at {max(0.0, reassign_cost):.4f} of R2, and IDs need no "
        "further digit"
    )


REMEDY = (
    "Start the codes from k-means (train.use_kmeans_init=True), lower train.learning_rate, "
    "re-seed idle codes (train.dead_code_steps=200), or balance the choice "
    "(train.vae_codebook_mode=%genrec.models.rqvae.QuantizeForwardMode.SINKHORN, with a batch of "
    "at least the codebook's size)."
)
