"""Stage two: its settings, and the training of the retrieval model on a frozen tokenizer's IDs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, make_dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from genrec.data.batching import TokenTable
from genrec.data.catalogue import Catalogue
from genrec.data.prepared import PreparedDataset
from genrec.data.schemas import SequenceBatch
from genrec.data.sequence_dataset import hash_users, user_buckets
from genrec.errors import ArtifactError, ConfigError
from genrec.evaluation.settings import EvaluationSettings
from genrec.models.retrieval import ENCODER_MASKS, EncoderDecoderRetrievalModel
from genrec.settings import Settings, again, setting
from genrec.tokenizer.semantic_id import ARTIFACT_NAME, SemanticIdTokenizer
from genrec.trained import keep_quantizer, with_ids
from genrec.training.optimizer import OptimizerSettings
from genrec.training.sequence_training import SequenceSettings, train_sequence
from genrec.training.settings import RunSettings
from genrec.training.tokenizer_run import find_tokenizer, load_ids

__all__ = ["DecoderSettings", "RetrievalTask", "train"]

#: Names of stage one that files for both stages hold; here they are checked at most.
_STAGE_ONE = (
    "vae_input_dim",
    "vae_embed_dim",
    "vae_hidden_dims",
    "vae_codebook_size",
    "vae_codebook_normalize",
    "vae_codebook_mode",
    "vae_codebook_last_layer_mode",
    "vae_sim_vq",
    "vae_n_layers",
    "vae_n_cat_feats",
    "commitment_weight",
    "use_kmeans_init",
)
_CHECKED = ("vae_codebook_size", "vae_n_layers")

_StageOneNames = make_dataclass(
    "_StageOneNames",
    [
        (
            name,
            Any,
            setting(
                "Stage one's; must equal the tokenizer's"
                if name in _CHECKED
                else "Stage one's; accepted here, without effect",
                None,
            ),
        )
        for name in _STAGE_ONE
    ],
    bases=(Settings,),
    frozen=True,
    kw_only=True,
)


@dataclass(frozen=True, kw_only=True)
class DecoderSettings(_StageOneNames, SequenceSettings):  # type: ignore[misc, valid-type]
    """Settings of stage two."""

    save_dir_root: str = again(RunSettings, "save_dir_root", "runs/decoder")
    batch_size: int = again(RunSettings, "batch_size", 256)
    weight_decay: float = again(OptimizerSettings, "weight_decay", 0.01)
    schedule: str = again(OptimizerSettings, "schedule", "inverse_sqrt")
    warmup_steps: int = again(OptimizerSettings, "warmup_steps", 1000)
    train_mode: str = again(SequenceSettings, "train_mode", "bucketed")
    eval_every: int | None = setting("The same as full_eval_every", None, least=0)
    num_beams: int = again(EvaluationSettings, "num_beams")
    label_smoothing: float = setting(
        "Share of the probability spread over all codes", 0.0, least=0, below=1
    )
    level_weights: tuple[float, ...] | None = setting(
        "Weight of each level's loss; None for equal ones", None, least=0
    )
    pretrained_decoder_path: str | None = setting(
        "Run of the same shape whose weights training starts from", None
    )
    add_disambiguation: bool = setting(
        "Generate the dedup digit of the IDs; without it, items that share their other codes are "
        "returned together",
        True,
    )

    # The model.
    decoder_embed_dim: int = setting("Model width", 128, least=1)
    attn_embed_dim: int = setting("Width of all attention heads together", 384, least=1)
    attn_heads: int = setting("Attention heads", 6, least=1)
    attn_layers: int | tuple[int, int] = setting(
        "Layers of encoder and decoder together, half each; or a pair", 8, least=1
    )
    ff_dim: int = setting("Width of the feed-forward layers", 1024, least=1)
    dropout_p: float = setting("Dropout", 0.1, least=0, below=1)
    num_user_embeddings: int = setting("Hashed user tokens; 0 for none", 0, least=0)
    item_separator: bool = setting("A separator token after each history item", False)
    encoder_mask: str = setting(
        "Which tokens a token of the encoder sees: all, or those of its own item and earlier ones",
        "full",
        choices=ENCODER_MASKS,
    )
    full_vocabulary: bool = setting(
        "Normalise probabilities over the whole vocabulary instead of a level's codes", False
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.eval_every is not None and not self.full_eval_every:
            object.__setattr__(self, "full_eval_every", self.eval_every)
        if self.train_mode == "packed" and self.train_data_subsample:
            raise ConfigError(
                "train_data_subsample must be off with train_mode='packed', got both; packed "
                "already trains every target of a sequence in one pass"
            )
        if self.train_mode == "packed" and self.encoder_mask != "item_causal":
            raise ConfigError(
                f"train_mode='packed' must have encoder_mask='item_causal', got "
                f"{self.encoder_mask!r}, with which an item would see its own targets; set "
                "train.encoder_mask='item_causal'"
            )

    def without_effect(self) -> list[str]:
        """Name the settings that differ from their default and do nothing beside the others."""
        given = [name for name in _STAGE_ONE if getattr(self, name) is not None]
        return super().without_effect() + [name for name in given if name not in _CHECKED]

    def build_model(self, table: SemanticIdTokenizer) -> EncoderDecoderRetrievalModel:
        """Build the model for the IDs of a table, with fresh weights or those of another run."""
        layers = self.attn_layers
        model = EncoderDecoderRetrievalModel(
            self.decoder_embed_dim,
            self.attn_embed_dim,
            self.dropout_p,
            self.attn_heads,
            layers,
            num_embeddings=table.level_sizes,
            sem_id_dim=table.num_levels,
            ff_dim=self.ff_dim,
            num_users=self.num_user_embeddings,
            separator=self.item_separator,
            encoder_mask=self.encoder_mask,
            full_vocabulary=self.full_vocabulary,
        )
        if self.pretrained_decoder_path is not None:
            source = EncoderDecoderRetrievalModel.load_pretrained(self.pretrained_decoder_path)
            try:
                model.load_state_dict(source.state_dict())
            except RuntimeError as error:
                raise ArtifactError(
                    "pretrained_decoder_path must hold a model of the same shape, got "
                    f"{self.pretrained_decoder_path} with {str(error).splitlines()[-1].strip()}; "
                    "use the settings of that run"
                ) from error
        return model


class RetrievalTask:
    """The retrieval model and its loss over the codes of each target.

    Args:
        model: To be trained.
        table: The IDs that it writes.
        data: The data set.
        settings: Label smoothing and weights of the levels.
        device: Where batches lie.
        stage_one: The run that made the IDs, whose quantiser the run keeps a copy of.

    Raises:
        ConfigError: If there are not as many weights as levels.
    """

    name = "model"

    def __init__(
        self,
        model: EncoderDecoderRetrievalModel,
        table: SemanticIdTokenizer,
        data: PreparedDataset,
        settings: DecoderSettings,
        device: torch.device,
        *,
        stage_one: Path | None = None,
    ) -> None:
        weights = settings.level_weights
        if weights is not None and (len(weights) != table.num_levels or sum(weights) <= 0):
            raise ConfigError(
                f"level_weights must be one for each of the {table.num_levels} levels and not all "
                f"0, got {list(weights)}; set train.level_weights={[1.0] * table.num_levels}"
            )
        self.model, self.table, self.settings = model, table, settings
        self.stage_one = stage_one
        self.catalogue = with_ids(Catalogue.from_data(data), table)
        self.meta: Mapping[str, Any] = {"ids_fingerprint": table.fingerprint}
        num_users = model.layout.num_users
        hashes = torch.from_numpy(hash_users(data.user_keys)) if num_users else None
        users = None if hashes is None else user_buckets(hashes, num_users)
        self.tokens = TokenTable(table.ids, users, device=device)

    def loss(self, module: nn.Module, batch: SequenceBatch) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Compute the cross-entropy of the targets' codes, in total and of each level."""
        smoothing = self.settings.label_smoothing if module.training else 0.0
        weights = self.settings.level_weights if module.training else None
        out = module(self.tokens.tokenize(batch), label_smoothing=smoothing, level_weights=weights)
        levels = {f"loss_level_{i + 1}": x for i, x in enumerate(out.level_losses.unbind())}
        return out.loss, levels

    def save(self, run: Path) -> None:
        """Write IDs and quantiser, so that the run's folder is all that its model needs."""
        self.table.save(run / ARTIFACT_NAME)
        if self.stage_one is not None:
            keep_quantizer(self.stage_one, self.table, run)


def train(settings: DecoderSettings) -> Path:
    """Train the retrieval model of a data set.

    Args:
        settings: What to train, on what, and how.

    Returns:
        The run's folder.

    Raises:
        GenRecError: If a setting, a path or the data is not as it should be.
    """
    if settings.pretrained_rqvae_path is None:
        raise ConfigError(
            "pretrained_rqvae_path must be set, got none; train stage one with "
            "scripts/train_rqvae.py and give its run folder"
        )
    stage_one = find_tokenizer(settings.pretrained_rqvae_path, settings.dataset_split)

    def build_task(data: PreparedDataset, device: torch.device) -> RetrievalTask:
        table = load_ids(stage_one, data, dedup_digit=settings.add_disambiguation)
        _check_stage_one_names(table, settings)
        model = settings.build_model(table)
        return RetrievalTask(model, table, data, settings, device, stage_one=stage_one)

    return train_sequence(settings, build_task)


def _check_stage_one_names(table: SemanticIdTokenizer, settings: DecoderSettings) -> None:
    """Refuse a codebook size or depth that is not the tokenizer's."""
    sizes = table.level_sizes[:-1] if table.has_dedup_digit else table.level_sizes
    depth, codes = settings.vae_n_layers, settings.vae_codebook_size
    if depth is not None and depth != len(sizes):
        raise ArtifactError(
            f"vae_n_layers must equal the tokenizer's {len(sizes)}, got {depth}; set "
            f"train.vae_n_layers={len(sizes)}"
        )
    if codes is None:
        return
    wanted = (codes,) * len(sizes) if isinstance(codes, int) else tuple(codes)
    if wanted != sizes:
        shown = sizes[0] if len(set(sizes)) == 1 else list(sizes)
        raise ArtifactError(
            f"codebook_size must equal the tokenizer's {shown}, got {codes}; set "
            f"train.vae_codebook_size={shown}"
        )
