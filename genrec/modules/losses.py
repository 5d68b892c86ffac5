"""Losses of the RQ-VAE, each averaged over the batch.

Shape legend: B = batch, X = features, C = categorical features, D = latent width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from genrec.modules.kernels.squares import mean_square, squared_errors
from genrec.settings import Settings, setting

__all__ = ["LossSettings", "quantization_losses", "reconstruction_losses"]


@dataclass(frozen=True, kw_only=True)
class LossSettings(Settings):
    """How the terms of the RQ-VAE's loss are measured and weighed."""

    recon_weight: float = setting("Weight of the reconstruction", 1.0, least=0)
    quant_loss_weight: float = setting("Weight of all quantisation terms together", 1.0, least=0)
    codebook_weight: float = setting(
        "Weight of the codebook term beside the commitment term", 1.0, least=0
    )
    separation_weight: float = setting(
        "Weight of a term that trains items that share an ID towards free ones, beside the "
        "commitment term; 0 for none",
        0.0,
        least=0,
    )
    recon_kind: str = setting("Error of a reconstruction", "l2", choices=("l2", "l1"))
    recon_reduction: str = setting(
        "Whether errors of features are added or averaged", "sum", choices=("sum", "mean")
    )
    level_reduction: str = setting(
        "Whether terms of levels are added or averaged", "sum", choices=("sum", "mean")
    )


def reconstruction_losses(
    x_hat: Tensor, x: Tensor, *, num_categorical: int, settings: LossSettings
) -> Tensor:
    """Compare reconstructions with their targets.

    Args:
        x_hat: Reconstructions, shape ``(B, X)``; the last C features are logits.
        x: Targets, shape ``(B, X)``; the last C features lie in ``[0, 1]``.
        num_categorical: C, features compared by binary cross-entropy, 0 for none.
        settings: ``recon_kind`` of the other features, and ``recon_reduction`` of both. With the
            mean, embeddings of unit norm have a loss of ``1 / X`` beside commitment terms of
            order 1, and collapse.

    Returns:
        Loss of each item, shape ``(B,)``, float32.
    """
    num_dense = x.shape[-1] - num_categorical
    compare = _absolute_errors if settings.recon_kind == "l1" else squared_errors
    loss = compare(x_hat[:, :num_dense], x[:, :num_dense])  # (B,)
    if settings.recon_reduction == "mean":
        loss = loss / num_dense
    if num_categorical:
        entropy = F.binary_cross_entropy_with_logits(
            x_hat[:, num_dense:].float(), x[:, num_dense:].float(), reduction="none"
        )  # (B, C)
        summed = settings.recon_reduction == "sum"
        loss = loss + (entropy.sum(dim=-1) if summed else entropy.mean(dim=-1))
    return loss


def _absolute_errors(x_hat: Tensor, x: Tensor) -> Tensor:
    return F.l1_loss(x_hat.float(), x.float(), reduction="none").sum(dim=-1)


def quantization_losses(residual: Tensor, code: Tensor, output: Tensor) -> tuple[Tensor, Tensor]:
    """Compute the two distances between the residual and the code of one level.

    Args:
        residual: What the level quantises, shape ``(B, D)``; carries the encoder's gradient.
        code: The code picked, shape ``(B, D)``; carries this codebook's gradient only.
        output: What was subtracted, shape ``(B, D)``; equal to ``code`` but for soft choices.

    Returns:
        ``(codebook, commitment)``, scalars: the first pulls the code to the residual and reaches
        the codebook only, the second pulls the residual to the code and reaches the encoder only.
    """
    return mean_square(residual.detach() - code), mean_square(residual - output.detach())
