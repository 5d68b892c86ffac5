"""The RQ-VAE: an autoencoder whose latent is a sum of codes, one from each of L codebooks.

Shape legend: B = batch, N = items, X = input features, C = categorical ones among them,
D = latent width, L = code levels, K = codes of a level.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from genrec.checkpoint import load_model_files
from genrec.errors import ArtifactError, ConfigError
from genrec.modules.features import Features, FeatureSettings
from genrec.modules.losses import LossSettings, reconstruction_losses
from genrec.modules.mlp import Mlp, MlpSettings
from genrec.modules.quantize.modes import QuantizeForwardMode
from genrec.modules.quantize.residual import (
    Quantized,
    ResidualQuantizer,
    distinct_share,
    per_level,
)
from genrec.modules.quantize.vector_quantizer import QuantizerSettings

__all__ = [
    "MODEL_NAME",
    "FeatureSettings",
    "LossSettings",
    "MlpSettings",
    "QuantizeForwardMode",
    "Quantized",
    "QuantizerSettings",
    "RqVae",
    "RqVaeOutput",
    "RqVaeParts",
]

with suppress(ImportError):  # a trained model works without gin
    import gin

    gin.constants_from_enum(QuantizeForwardMode, module="genrec.models.rqvae")

MODEL_NAME = "rqvae"  # what config.json calls this model
_ENCODE_ROWS = 8192


class RqVaeOutput(NamedTuple):
    """What a call of the model gives.

    Attributes:
        loss: What to minimise, scalar.
        reconstruction_loss: Mean over the batch, scalar, before its weight.
        rqvae_loss: Codebook and commitment terms over all levels, scalar, before their weight.
        outputs: What each level passed on, L tensors of shape ``(B, D)``, no gradient; zeros of
            shape ``(B, 1)`` where nothing was quantised.
        sem_ids: Shape ``(B, L)``, int64; None where nothing was quantised.
    """

    loss: Tensor
    reconstruction_loss: Tensor
    rqvae_loss: Tensor
    outputs: list[Tensor]
    sem_ids: Tensor | None

    @property
    def embs_norm(self) -> Tensor:
        """Length of each level's code, shape ``(B, L)``, no gradient; computed when read."""
        return torch.stack([output.norm(dim=-1) for output in self.outputs], dim=-1)

    @property
    def p_unique_ids(self) -> Tensor:
        """Distinct ids as a share of the batch, scalar, no gradient; computed when read."""
        if self.sem_ids is None:
            return torch.zeros_like(self.loss, requires_grad=False)
        return distinct_share(self.sem_ids)


@dataclass(frozen=True, kw_only=True)
class RqVaeParts:
    """How the parts of an RQ-VAE work, beside their sizes.

    Attributes:
        mlp: Encoder and decoder.
        features: How inputs enter and leave.
        losses: How the loss is measured.
        quantizer: How codes are picked and kept alive.
    """

    mlp: MlpSettings = field(default_factory=MlpSettings)
    features: FeatureSettings = field(default_factory=FeatureSettings)
    losses: LossSettings = field(default_factory=LossSettings)
    quantizer: QuantizerSettings = field(default_factory=QuantizerSettings)


class RqVae(nn.Module):
    """Residual-quantised autoencoder of item embeddings.

    The encoder's latent is quantised by a
    :class:`~genrec.modules.quantize.residual.ResidualQuantizer`, whose sum of codes is decoded.

    Args:
        input_dim: X, categorical tail included.
        embed_dim: Latent width D.
        hidden_dims: Widths of the encoder's hidden layers; the decoder mirrors them.
        codebook_size: K, one number or one a level.
        codebook_kmeans_init: Set the codebooks by k-means on latents, see
            :meth:`initialize_codebooks`.
        codebook_normalize: Scale latents and the first level's codes to unit length. Deeper
            levels hold residuals, whose length means something.
        codebook_sim_vq: Learn one linear map of each fixed codebook instead of its codes.
        codebook_mode: Gradient through the choice of a code, one or one a level.
        codebook_last_layer_mode: Overrides the mode of the last level; None for no override.
        n_layers: Number of code levels L.
        n_cat_features: C, multi-hot features at the end of the input, reconstructed as logits.
        commitment_weight: beta, weight of the commitment term, >= 0.
        parts: How encoder, decoder, loss and quantiser work; the defaults when None.

    Attributes:
        codebook_sizes: K of each level.
        config: The arguments as JSON values; ``RqVae.from_config(model.config)`` is its twin.

    Source:
        Zeghidour et al. 2021, https://arxiv.org/abs/2107.03312 (residual quantisation) and
        Rajput et al. 2023, https://arxiv.org/abs/2305.05065 (semantic ids). Differs: a warm-up
        of the autoencoder and k-means over the catalogue, where TIGER uses the first batch.

    Example:
        >>> model = RqVae(8, embed_dim=4, hidden_dims=(16,), codebook_size=4, n_layers=2)
        >>> x = torch.randn(32, 8)
        >>> model.initialize_codebooks(x)
        >>> model(x).loss.backward()
        >>> model.eval().get_semantic_ids(x).shape
        torch.Size([32, 2])
    """

    def __init__(
        self,
        input_dim: int = 768,
        *,
        embed_dim: int = 32,
        hidden_dims: Sequence[int] = (512, 256, 128),
        codebook_size: int | Sequence[int] = 256,
        codebook_kmeans_init: bool = True,
        codebook_normalize: bool = False,
        codebook_sim_vq: bool = False,
        codebook_mode: QuantizeForwardMode | Sequence[QuantizeForwardMode] = (
            QuantizeForwardMode.STE
        ),
        codebook_last_layer_mode: QuantizeForwardMode | None = None,
        n_layers: int = 3,
        n_cat_features: int = 0,
        commitment_weight: float = 0.25,
        parts: RqVaeParts | None = None,
    ) -> None:
        super().__init__()
        if n_layers < 1:
            raise ConfigError(f"n_layers must be >= 1, got {n_layers}; TIGER uses 3")
        if not 0 <= n_cat_features < input_dim:
            raise ConfigError(
                f"n_cat_features must lie in [0, input_dim = {input_dim}), got {n_cat_features}; "
                "count only the multi-hot columns at the end of the input"
            )
        if not commitment_weight >= 0:
            raise ConfigError(f"commitment_weight must be >= 0, got {commitment_weight}; try 0.25")
        sizes = per_level("codebook_size", codebook_size, n_layers)
        modes = per_level("codebook_mode", codebook_mode, n_layers)
        if codebook_last_layer_mode is not None:
            modes[-1] = codebook_last_layer_mode
        self.input_dim, self.embed_dim, self.n_layers = input_dim, embed_dim, n_layers
        self.codebook_sizes: tuple[int, ...] = tuple(sizes)
        self.modes: tuple[QuantizeForwardMode, ...] = tuple(modes)
        self.n_cat_features = n_cat_features
        self.codebook_normalize = codebook_normalize
        self.commitment_weight = commitment_weight
        self.parts = parts = parts or RqVaeParts()
        self.features = Features(n_cat_features, parts.features)
        self.config: dict[str, Any] = {
            "model": MODEL_NAME,
            "input_dim": input_dim,
            "embed_dim": embed_dim,
            "hidden_dims": list(hidden_dims),
            "codebook_size": list(sizes),
            "codebook_kmeans_init": codebook_kmeans_init,
            "codebook_normalize": codebook_normalize,
            "codebook_sim_vq": codebook_sim_vq,
            "codebook_mode": [mode.name for mode in modes],
            "n_layers": n_layers,
            "n_cat_features": n_cat_features,
            "commitment_weight": commitment_weight,
            **asdict(parts),
        }
        widths = [input_dim, *hidden_dims, embed_dim]
        self.encoder = Mlp(widths, parts.mlp)
        self.decoder = Mlp(widths[::-1], parts.mlp)
        self.residual_quantizer = ResidualQuantizer(
            sizes,
            embed_dim,
            modes=modes,
            kmeans_init=codebook_kmeans_init,
            normalize_first=codebook_normalize,
            sim_vq=codebook_sim_vq,
            settings=parts.quantizer,
        )

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> RqVae:
        """Build, with fresh weights, the model of a :attr:`config` or of a ``config.json``.

        Raises:
            ArtifactError: If the configuration is not one of an RQ-VAE.
        """
        options = dict(config)
        if options.pop("model", MODEL_NAME) != MODEL_NAME:
            raise ArtifactError(
                f"checkpoint must hold a model {MODEL_NAME}, got {config['model']!r}; "
                "give the run of `genrec train rqvae`"
            )
        try:
            options["codebook_mode"] = [
                QuantizeForwardMode[name] for name in options["codebook_mode"]
            ]
            parts = RqVaeParts(
                mlp=MlpSettings(**options.pop("mlp")),
                features=FeatureSettings(**options.pop("features")),
                losses=LossSettings(**options.pop("losses")),
                quantizer=QuantizerSettings(**options.pop("quantizer")),
            )
            return cls(options.pop("input_dim"), **options, parts=parts)
        except (KeyError, TypeError) as error:
            raise ArtifactError(
                f"checkpoint must hold an RQ-VAE of this version, got {error}; "
                "train it again or use the version that wrote it"
            ) from error

    @classmethod
    def load_from_checkpoint(cls, path: str | os.PathLike[str]) -> RqVae:
        """Build a trained model from a run or step folder: on the CPU, frozen."""
        config, weights = load_model_files(path, prefer=("best", "latest"))
        model = cls.from_config(config)
        model._load(weights, path)
        return model.eval().requires_grad_(False)

    def load_pretrained(self, path: str | os.PathLike[str]) -> None:
        """Take the weights of a run or step folder of the same shape; the mode may differ.

        Raises:
            ArtifactError: If the shapes differ.
        """
        _, weights = load_model_files(path, prefer=("best", "latest"))
        self._load(weights, path)

    def _load(self, weights: Mapping[str, Tensor], path: object) -> None:
        """Take weights, or say which one does not fit."""
        try:
            self.load_state_dict(weights)
        except RuntimeError as error:
            raise ArtifactError(
                f"checkpoint must have this model's shape, got {path} with "
                f"{str(error).splitlines()[-1].strip()}; use the settings in its config.json"
            ) from error

    def encode(self, x: Tensor) -> Tensor:
        """Map inputs ``(B, X)`` to latents ``(B, D)``, not quantised."""
        z: Tensor = self.encoder(self.features.enter(x))
        return F.normalize(z, dim=-1) if self.codebook_normalize else z

    def decode(self, z: Tensor) -> Tensor:
        """Map latents ``(B, D)`` to reconstructions ``(B, X)``, the categorical tail as logits."""
        return self.features.leave(self.decoder(z))

    def forward(
        self,
        batch: Any,
        gumbel_t: float | Tensor = 1.0,
        *,
        commitment_weight: float | Tensor | None = None,
        aims: Tensor | None = None,
        quantize: bool = True,
    ) -> RqVaeOutput:
        """Reconstruct a batch and measure the loss.

        Args:
            batch: Inputs of shape ``(B, X)``, or an object that has them as ``x``.
            gumbel_t: Temperature of ``GUMBEL_SOFTMAX`` levels, > 0.
            commitment_weight: beta of this call; the model's own when None.
            aims: Ids that items should move to, shape ``(B, L)``, rows of :meth:`separate`.
            quantize: False trains the plain autoencoder, to warm it up before k-means.

        Returns:
            Loss and what it is made of.
        """
        x: Tensor = getattr(batch, "x", batch)
        if x.ndim != 2 or x.shape[1] != self.input_dim:
            raise ValueError(
                f"x must have shape (B, {self.input_dim}), got {tuple(x.shape)}; "
                f"set train.vae_input_dim={x.shape[-1]}"
            )
        z = self.encode(x)  # (B, D)
        if not quantize:
            return self._warm_up_loss(x, z)
        if not self.residual_quantizer.is_ready:
            self._initialize_from_batch(x)
        quantized = self.residual_quantizer(z, gumbel_t, aims)
        x_hat = self.decode(quantized.embeddings)
        beta = self.commitment_weight if commitment_weight is None else commitment_weight
        return self.compute_loss(x, x_hat, quantized, commitment_weight=beta)

    def compute_loss(
        self,
        x: Tensor,
        x_hat: Tensor,
        quantized: Quantized,
        *,
        commitment_weight: float | Tensor,
    ) -> RqVaeOutput:
        """Measure the loss of a batch; override it to train on another.

        Args:
            x: Inputs, shape ``(B, X)``.
            x_hat: Reconstructions, shape ``(B, X)``.
            quantized: Latents and codes.
            commitment_weight: Weight of the commitment term, >= 0.

        Returns:
            Loss and what it is made of.
        """
        losses = self.parts.losses
        per_item = self.reconstruction_losses(x, x_hat)  # (B,)
        recon = per_item.mean()
        quant = commitment_weight * quantized.commitment_losses  # (L,)
        if self.parts.quantizer.codebook_update != "ema":
            quant = quant + losses.codebook_weight * quantized.codebook_losses
        quant = quant.sum() if losses.level_reduction == "sum" else quant.mean()
        if quantized.separation is not None:
            quant = quant + losses.separation_weight * quantized.separation
        # Latents live in the scaled space; errors count in the units of the inputs.
        quant = quant / self.parts.features.scale**2
        self.residual_quantizer.note_errors(per_item, quantized.residuals)
        return RqVaeOutput(
            loss=losses.recon_weight * recon + losses.quant_loss_weight * quant,
            reconstruction_loss=recon,
            rqvae_loss=quant,
            outputs=[output.detach() for output in quantized.outputs],
            sem_ids=quantized.sem_ids,
        )

    @torch.no_grad()
    def initialize_codebooks(
        self,
        x: Tensor,
        *,
        num_iters: int = 50,
        max_samples: int = 100_000,
        seed: int = 0,
    ) -> None:
        """Set all codebooks by k-means, level by level on the residuals.

        Args:
            x: Inputs of the whole catalogue, shape ``(N, X)``, N >= 1.
            num_iters: Most k-means iterations a level.
            max_samples: Use at most this many items, drawn with ``seed``.
            seed: Of the draw and of k-means; the same seed gives the same codebooks.
        """
        if len(x) > max_samples:
            generator = torch.Generator().manual_seed(seed)
            rows = torch.randperm(len(x), generator=generator)[:max_samples].sort().values
            x = x[rows.to(x.device)]
        self.residual_quantizer.initialize(self._latents(x), num_iters=num_iters, seed=seed)

    @torch.no_grad()
    def separate(self, x: Tensor) -> Tensor:
        """Find ids ``(N, L)`` to aim for; the last code is -1 where an item shall stay."""
        return self.residual_quantizer.separate(self._latents(x))

    @torch.no_grad()
    def update_codebooks(self) -> None:
        """Move EMA codebooks and re-seed dead codes; call it after every optimiser step.

        Works on what the training calls since the last time saw, on all processes together.
        Does nothing where neither EMA nor ``dead_code_steps`` is in use.
        """
        self.residual_quantizer.update()

    @torch.no_grad()
    def get_semantic_ids(self, x: Any) -> Tensor:
        """Choose the nearest code of every level, ``(B, L)``, int64.

        The same in training and evaluation mode, dropout and batch norm apart.

        Args:
            x: Inputs of shape ``(B, X)``, or an object that has them as ``x``.
        """
        x = getattr(x, "x", x)
        with torch.autocast(device_type=x.device.type, enabled=False):
            return self.residual_quantizer.assign(self.encode(x.float()))

    @torch.no_grad()
    def get_codebook(self) -> list[Tensor]:
        """Copy the codes of all levels as they are used: L tensors ``(K, D)``."""
        return [level.codes().detach().clone() for level in self.residual_quantizer.levels]

    @torch.no_grad()
    def get_codebook_entry(self, ids: Tensor) -> Tensor:
        """Sum the codes of ids ``(B, L)``: latents ``(B, D)``, for :meth:`decode`."""
        return self.residual_quantizer.embed(ids)

    @property
    def distance(self) -> str:
        """What "nearest" means to this tokenizer: ``l2`` or ``cosine``."""
        return self.parts.quantizer.distance

    def reconstruction_losses(self, x: Tensor, x_hat: Tensor) -> Tensor:
        """Compare reconstructions with inputs, ``(B, X)`` each: losses ``(B,)``, float32."""
        target = self.features.target(x)
        return reconstruction_losses(
            x_hat, target, num_categorical=self.n_cat_features, settings=self.parts.losses
        )

    def _latents(self, x: Tensor) -> Tensor:
        """Encode a catalogue in evaluation mode, float32, on the model's device."""
        device = self.residual_quantizer.initialized.device
        was_training = self.training
        self.eval()
        parts = [self.encode(rows.to(device).float()).float() for rows in x.split(_ENCODE_ROWS)]
        self.train(was_training)
        return torch.cat(parts)

    def _warm_up_loss(self, x: Tensor, z: Tensor) -> RqVaeOutput:
        """Loss of the plain autoencoder, ``(B, X)`` and its latents ``(B, D)``."""
        recon = self.reconstruction_losses(x, self.decode(z)).mean()
        zero = torch.zeros_like(recon)
        nothing = torch.zeros(len(x), 1, device=x.device)
        # Every parameter takes part: processes that train together wait for all gradients.
        idle = sum((0.0 * p.sum() for p in self.residual_quantizer.parameters()), zero)
        loss = self.parts.losses.recon_weight * recon + idle
        return RqVaeOutput(loss, recon, zero, [nothing] * self.n_layers, None)

    def _initialize_from_batch(self, x: Tensor) -> None:
        """Fall back to k-means on a batch, as many public implementations do."""
        if not self.training or (dist.is_available() and dist.is_initialized()):
            raise ConfigError(
                "codebooks must be initialised before use, got codebook_kmeans_init=True and no "
                "k-means yet; call initialize_codebooks(catalogue) first"
            )
        warnings.warn(
            f"k-means runs on one batch of {len(x)} items; call initialize_codebooks with the "
            "whole catalogue for better codes",
            stacklevel=3,
        )
        self.initialize_codebooks(x)
