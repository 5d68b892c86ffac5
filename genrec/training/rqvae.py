"""Stage one: its settings, and the training of a tokenizer from them.

Twenty lines of Python do what the command does: make :class:`RqVaeSettings`, call :func:`train`.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, fields
from pathlib import Path

from genrec.data.prepared import PreparedDataset
from genrec.data.processed import RecDataset, load_or_prepare
from genrec.errors import ConfigError, did_you_mean
from genrec.models.rqvae import (
    FeatureSettings,
    LossSettings,
    MlpSettings,
    QuantizeForwardMode,
    QuantizerSettings,
    RqVae,
    RqVaeParts,
)
from genrec.registry import QUANTIZERS
from genrec.settings import again, setting
from genrec.tokenizer.policies import POLICIES
from genrec.training.optimizer import OptimizerSettings
from genrec.training.quantizer_training import VARIANTS, QuantizerWork, build_work
from genrec.training.session import Session, run_training
from genrec.training.settings import DataSettings, RunSettings, TrainingSettings

__all__ = ["RqVaeSettings", "train"]


@dataclass(frozen=True, kw_only=True)
class RqVaeSettings(OptimizerSettings, LossSettings, QuantizerSettings, TrainingSettings):
    """Settings of stage one."""

    dataset: RecDataset | str = again(DataSettings, "dataset", dataclasses.MISSING)
    encoder_model_name: str = again(DataSettings, "encoder_model_name", "tfidf")
    save_dir_root: str = again(RunSettings, "save_dir_root", "runs/rqvae")

    # What it is trained on, and evaluated.
    replace_non_finite: bool = setting(
        "Put 0 for NaN and Inf in embeddings instead of refusing them", False
    )
    collaborative_weight: float = setting(
        "Share of the item vectors that comes from who takes what with what in the training part; "
        "0 for text alone, 0.5 for both alike",
        0.0,
        least=0,
        most=1,
    )
    collaborative_dim: int = setting("Width of that part", 64, least=1)
    collaborative_window: int = setting(
        "Farthest distance at which two items of a history count for it", 5, least=1
    )
    val_ratio: float = setting(
        "Share of the items held out of training for a validation loss", 0.0, least=0, below=1
    )
    eval_every: int = setting("Steps between evaluations; 0 for the end only", 0, least=0)
    pretrained_rqvae_path: str | None = setting(
        "Run or step folder of the same shape whose weights training starts from", None
    )

    # Codebooks.
    tokenizer: str = setting(
        "What gives the codes: rqvae; or residual_kmeans or balanced_residual_kmeans, which fit "
        "vae_n_layers codebooks of vae_codebook_size to the embeddings themselves",
        "rqvae",
    )
    use_kmeans_init: bool = setting("Start the codebooks from k-means", True)
    kmeans_after_epochs: int = setting(
        "Epochs of the plain autoencoder before k-means; the later, the better its latents",
        0,
        least=0,
        when={"use_kmeans_init": (True,)},
    )
    kmeans_max_samples: int = setting("Most items that k-means looks at", 100_000, least=1)
    kmeans_iters: int = setting("Most iterations of k-means at each level", 50, least=1)
    gumbel_temperature: float = setting(
        "Temperature of GUMBEL_SOFTMAX at the first step", 1.0, above=0
    )
    gumbel_temperature_end: float | None = setting(
        "Temperature at the last step, reached by a constant factor; None keeps the first",
        0.05,
        above=0,
    )

    # Loss.
    commitment_weight: float = setting("Weight of the commitment term, beta", 0.25, least=0)
    commitment_start: float = setting("beta at the first step, where it warms up", 0.0, least=0)
    commitment_warmup_steps: int = setting(
        "Steps over which beta grows linearly to commitment_weight; 0 for none", 0, least=0
    )
    separation_after_epochs: int = setting(
        "Epochs before that term sets in; it works best late, when codes rest", 0, least=0
    )
    # Model.
    vae_input_dim: int | None = setting("Width of the embeddings; None reads it", None, least=1)
    vae_embed_dim: int = setting("Latent width", 32, least=1)
    vae_hidden_dims: tuple[int, ...] = setting(
        "Hidden widths of the encoder; the decoder mirrors them", (512, 256, 128), least=1
    )
    vae_codebook_size: int | tuple[int, ...] = setting("Codes of all levels, or of each", 256)
    vae_codebook_normalize: bool = setting(
        "Scale latents and the first level's codes to unit length", False
    )
    vae_codebook_mode: QuantizeForwardMode | tuple[QuantizeForwardMode, ...] = setting(
        "Gradient through the choice of a code, of all levels or of each", QuantizeForwardMode.STE
    )
    vae_codebook_last_layer_mode: QuantizeForwardMode | None = setting(
        "Gradient of the last level, where it differs", None
    )
    vae_sim_vq: bool = setting("Learn one map of fixed codebooks instead of their codes", False)
    vae_n_layers: int = setting("Code levels", 3, least=1)
    vae_n_cat_feats: int = setting("Multi-hot features at the end of the embeddings", 0, least=0)
    vae_activation: str = again(MlpSettings, "activation")
    vae_dropout: float = again(MlpSettings, "dropout")
    vae_batch_norm: bool = again(MlpSettings, "batch_norm")
    vae_weight_init: str = again(MlpSettings, "weight_init")
    vae_feature_scale: float | None = setting(
        "Factor on the inputs; None brings their root mean square to 1", None, above=0
    )
    normalize_input: bool = again(FeatureSettings, "normalize_input")
    normalize_output: bool = again(FeatureSettings, "normalize_output")

    # Semantic IDs.
    collision_policy: str = setting(
        "What is done with items of equal codes", "dedup_token", choices=POLICIES
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        known = [*QUANTIZERS, *VARIANTS]
        if self.tokenizer not in known:
            raise ConfigError(
                f"tokenizer must be known, got {self.tokenizer!r}; "
                f"{did_you_mean(self.tokenizer, known)}"
            )

    def without_effect(self) -> list[str]:
        """Name the settings that differ from their default and do nothing beside the others."""
        idle = super().without_effect()
        if self.collaborative_weight == 0:
            parts = ("collaborative_dim", "collaborative_window")
            known = {f.name: f.default for f in fields(self)}
            idle += [name for name in parts if getattr(self, name) != known[name]]
        if self.tokenizer != "rqvae":
            given = (known for known in fields(self) if known.name not in _OF_EVERY_TOKENIZER)
            others = [f.name for f in given if getattr(self, f.name) != f.default]
            return [name for name in idle if name not in others] + others
        return idle

    def build_model(self, width: int, scale: float) -> RqVae:
        """Build the model with fresh weights.

        Args:
            width: Features of an item.
            scale: Factor that brings them to size 1, taken where none is set.

        Returns:
            The model on the CPU.
        """
        return RqVae(
            width,
            embed_dim=self.vae_embed_dim,
            hidden_dims=self.vae_hidden_dims,
            codebook_size=self.vae_codebook_size,
            codebook_kmeans_init=self.use_kmeans_init,
            codebook_normalize=self.vae_codebook_normalize,
            codebook_sim_vq=self.vae_sim_vq,
            codebook_mode=self.vae_codebook_mode,
            codebook_last_layer_mode=self.vae_codebook_last_layer_mode,
            n_layers=self.vae_n_layers,
            n_cat_features=self.vae_n_cat_feats,
            commitment_weight=self.commitment_weight,
            parts=RqVaeParts(
                mlp=MlpSettings(
                    activation=self.vae_activation,
                    dropout=self.vae_dropout,
                    batch_norm=self.vae_batch_norm,
                    weight_init=self.vae_weight_init,
                ),
                features=FeatureSettings(
                    scale=scale if self.vae_feature_scale is None else self.vae_feature_scale,
                    normalize_input=self.normalize_input,
                    normalize_output=self.normalize_output,
                ),
                losses=self.part(LossSettings),
                quantizer=self.part(QuantizerSettings),
            ),
        )

    def temperature(self, done: float) -> float:
        """Return the temperature of ``GUMBEL_SOFTMAX`` when a share of the steps is done."""
        hot = self.gumbel_temperature
        cold = hot if self.gumbel_temperature_end is None else self.gumbel_temperature_end
        return hot * (cold / hot) ** done

    def commitment(self, step: int) -> float | None:
        """Return beta at a step, from 0; None where it stays the model's."""
        if not self.commitment_warmup_steps:
            return None
        done = min(1.0, step / self.commitment_warmup_steps)
        return self.commitment_start + (self.commitment_weight - self.commitment_start) * done


#: Settings that count whatever the tokenizer is.
_OF_EVERY_TOKENIZER = {
    *(known.name for known in fields(TrainingSettings)),
    "replace_non_finite",
    "collaborative_weight",
    "collaborative_dim",
    "collaborative_window",
    "tokenizer",
    "kmeans_max_samples",
    "kmeans_iters",
    "vae_input_dim",
    "vae_n_layers",
    "vae_codebook_size",
    "vae_n_cat_feats",
    "collision_policy",
} - {"iterations", "epochs", "batch_size", "patience", "save_model_every", "log_every"}


def train(settings: RqVaeSettings) -> Path:
    """Train a tokenizer and write the semantic IDs of the catalogue.

    Args:
        settings: What to train, on what, and how.

    Returns:
        The run's folder.

    Raises:
        GenRecError: If a setting, a path or the data is not as it should be.
    """

    def open_data(session: Session) -> PreparedDataset:
        return load_or_prepare(
            settings.dataset,
            settings.dataset_folder,
            split=settings.dataset_split,
            encoder_model_name=settings.encoder_model_name,
            force=settings.force_dataset_process and session.accelerator.is_main_process,
            processed_dir=settings.processed_dir,
        )

    def build(session: Session, data: PreparedDataset) -> QuantizerWork:
        return build_work(session, data, settings)

    return run_training(settings, open_data, build)
