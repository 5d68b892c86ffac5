"""Stage two: its settings, and the training of the retrieval model on a frozen tokenizer's IDs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, make_dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from genrec.checkpoint import load_model_files
from genrec.data.batching import TokenTable
from genrec.data.catalogue import Catalogue
from genrec.data.prepared import PreparedDataset
from genrec.data.schemas import SequenceBatch
from genrec.data.sequence_dataset import hash_users, user_buckets
from genrec.data.splits import count_repeats
from genrec.decoding.trie import PrefixIndex
from genrec.errors import ArtifactError, ConfigError
from genrec.evaluation.settings import EvaluationSettings
from genrec.models.item_retrieval import ItemTokenRetrievalModel
from genrec.models.item_settings import (
    HistorySettings,
    ItemHeadSettings,
    ItemVectorSettings,
    TreeSettings,
)
from genrec.models.retrieval import ENCODER_MASKS, EncoderDecoderRetrievalModel
from genrec.models.seen_items import seen_start
from genrec.settings import Settings, again, setting
from genrec.tokenizer.semantic_id import ARTIFACT_NAME, SemanticIdTokenizer
from genrec.trained import keep_quantizer, with_ids
from genrec.training.optimizer import OptimizerSettings
from genrec.training.sequence_training import (
    LayerSettings,
    SequenceSettings,
    SequenceTask,
    check_heads,
    train_sequence,
)
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


_ITEM = {"encoder_tokens": ("item",)}
#: Settings of one kind of model alone.
_OF_ITEMS = {
    known.name
    for group in (ItemVectorSettings, TreeSettings, ItemHeadSettings, HistorySettings)
    for known in fields(group)
} | {
    "rescore",
    "rescore_grid",
    "later_temperature",
    "later_temperature_grid",
    "start_weight",
    "dropout_decoder",
}
_OF_CODES = {
    "attn_embed_dim",
    "num_user_embeddings",
    "item_separator",
    "encoder_mask",
    "full_vocabulary",
}


@dataclass(frozen=True, kw_only=True)
class DecoderSettings(
    _StageOneNames,  # type: ignore[misc, valid-type]
    ItemVectorSettings,
    TreeSettings,
    ItemHeadSettings,
    HistorySettings,
    SequenceSettings,
):
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
    encoder_tokens: str = setting(
        "What the encoder reads: each code of each item (code, as TIGER and T5), or one token an "
        "item (item)",
        "code",
        choices=("code", "item"),
    )
    later_temperature: float = setting(
        "Divide the scores of the codes after the first by this in a search; above 1 where they "
        "are surer than they should be",
        1.0,
        above=0,
    )
    later_temperature_grid: tuple[float, ...] = setting(
        "Such temperatures to try on validation at the end, before rescore_grid; the best is kept "
        "with the run in place of later_temperature, unless that is among them and no more than a "
        "standard error worse",
        (),
        above=0,
    )
    rescore: float = setting(
        "Order the items of the beams by the item head's score plus this many times the "
        "log-probability of their IDs; 0 for generation alone",
        0.0,
        least=0,
    )
    rescore_grid: tuple[float, ...] = setting(
        "Weights of that kind to try on validation at the end, of which the best is kept with the "
        "run in place of rescore, unless that is among them and no more than a standard error "
        "worse",
        (),
        least=0,
    )
    decoder_embed_dim: int = again(LayerSettings, "width", 128)
    attn_embed_dim: int = setting("Width of all attention heads together", 384, least=1)
    attn_heads: int = again(LayerSettings, "attn_heads", 6)
    attn_layers: int | tuple[int, int] = setting(
        "Layers of encoder and decoder together, half each; or a pair", 8, least=1
    )
    ff_dim: int = again(LayerSettings, "ff_dim", 1024)
    dropout_p: float = again(LayerSettings, "dropout_p")
    dropout_decoder: float | None = setting(
        "Dropout of the decoder, where it differs", None, least=0, below=1, when=_ITEM
    )
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
        check_heads(
            self, "attn_embed_dim" if self.encoder_tokens == "code" else "decoder_embed_dim"
        )
        if (self.rescore or self.rescore_grid) and not self.item_head_weight:
            raise ConfigError(
                "rescore and rescore_grid must be 0 and empty without an item head, got "
                f"{self.rescore} and {list(self.rescore_grid)}; set train.item_head_weight=0.5"
            )
        if self.eval_every is not None and not self.full_eval_every:
            object.__setattr__(self, "full_eval_every", self.eval_every)
        if self.train_mode == "packed" and self.train_data_subsample:
            raise ConfigError(
                "train_data_subsample must be off with train_mode='packed', got both; packed "
                "already trains every target of a sequence in one pass"
            )
        of_codes = self.encoder_tokens == "code"
        if of_codes and self.train_mode == "packed" and self.encoder_mask != "item_causal":
            raise ConfigError(
                f"train_mode='packed' must have encoder_mask='item_causal', got "
                f"{self.encoder_mask!r}, with which an item would see its own targets; set "
                "train.encoder_mask='item_causal'"
            )

    def without_effect(self) -> list[str]:
        """Name the settings that differ from their default and do nothing beside the others."""
        other = _OF_ITEMS if self.encoder_tokens == "code" else _OF_CODES
        ignored = (set(_STAGE_ONE) - set(_CHECKED)) | other
        given = [f.name for f in fields(self) if getattr(self, f.name) != f.default]
        return list(dict.fromkeys(super().without_effect() + [n for n in given if n in ignored]))

    def evaluation(self) -> EvaluationSettings:
        """Say how the run is evaluated."""
        return replace(super().evaluation(), num_beams=self.num_beams)

    def ranking_options(self) -> dict[str, Any]:
        """Say what ranking the model's items takes besides."""
        if self.encoder_tokens == "code":
            return {}
        return {"rescore": self.rescore, "later_temperature": self.later_temperature}

    def ranking_choices(self) -> list[list[dict[str, Any]]]:
        """List what to choose from on validation at the end."""
        grids = {"later_temperature": self.later_temperature_grid, "rescore": self.rescore_grid}
        return [[{name: value} for value in grid] for name, grid in grids.items()]

    def layers(self) -> tuple[int, int]:
        """Layers of encoder and decoder."""
        count = self.attn_layers
        return (count // 2, count - count // 2) if isinstance(count, int) else count

    def build_model(self, table: SemanticIdTokenizer) -> EncoderDecoderRetrievalModel:
        """Build the model over code tokens for the IDs of a table, with fresh weights."""
        return EncoderDecoderRetrievalModel(
            self.decoder_embed_dim,
            self.attn_embed_dim,
            self.dropout_p,
            self.attn_heads,
            self.layers(),
            num_embeddings=table.level_sizes,
            sem_id_dim=table.num_levels,
            ff_dim=self.ff_dim,
            num_users=self.num_user_embeddings,
            separator=self.item_separator,
            encoder_mask=self.encoder_mask,
            full_vocabulary=self.full_vocabulary,
        )

    def build_item_model(
        self, index: PrefixIndex, data: PreparedDataset
    ) -> ItemTokenRetrievalModel:
        """Build the model over item tokens for the IDs of a data set, with fresh weights."""
        history = self.part(HistorySettings)
        if history.seen_weights and history.seen_start is None:
            arrays = (data.sequence_items, data.sequence_offsets, data.train_ends)
            history = replace(history, seen_start=seen_start(*count_repeats(*arrays)))
        decoder = self.dropout_p if self.dropout_decoder is None else self.dropout_decoder
        return ItemTokenRetrievalModel.for_index(
            index,
            embedding_dim=self.decoder_embed_dim,
            num_heads=self.attn_heads,
            n_layers=self.layers(),
            ff_dim=(self.ff_dim, self.ff_dim),
            dropout=(self.dropout_p, decoder),
            max_history=self.max_seq_len,
            items=self.part(ItemVectorSettings),
            tree=self.part(TreeSettings),
            head=self.part(ItemHeadSettings),
            history=history,
        )


class RetrievalTask:
    """The retrieval model over code tokens and its loss over the codes of each target.

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

    name = "generation"

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
        _check_levels(settings, table)
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
        out = module(self.tokens.tokenize(batch), **_smoothing(module, self.settings))
        levels = {f"loss_level_{i + 1}": x for i, x in enumerate(out.level_losses.unbind())}
        return out.loss, levels

    def save(self, run: Path) -> None:
        """Write IDs and quantiser, so that the run's folder is all that its model needs."""
        self.table.save(run / ARTIFACT_NAME)
        if self.stage_one is not None:
            keep_quantizer(self.stage_one, self.table, run)


class ItemTokenTask:
    """The retrieval model over item tokens, and its losses over codes and items.

    Args:
        table: The IDs that it writes.
        data: The data set.
        settings: The model's sizes, its start and its losses.
        device: Where batches lie.
        stage_one: The run that made the IDs, whose quantiser the run keeps a copy of.

    Raises:
        ConfigError: If a size or the number of weights is wrong.
    """

    name = "generation"

    def __init__(
        self,
        table: SemanticIdTokenizer,
        data: PreparedDataset,
        settings: DecoderSettings,
        device: torch.device,
        *,
        stage_one: Path | None = None,
    ) -> None:
        _check_levels(settings, table)
        self.table, self.settings = table, settings
        self.stage_one = stage_one
        self.catalogue = with_ids(Catalogue.from_data(data), table)
        self.meta: Mapping[str, Any] = {"ids_fingerprint": table.fingerprint}
        index = PrefixIndex.from_ids(table.ids, table.level_sizes)
        self.model = settings.build_item_model(index, data)
        if (vectors := settings.start_vectors(data)) is not None:
            self.model.start_from(torch.from_numpy(vectors), index, seed=settings.seed)
        self.index = index.to(device)

    def loss(self, module: nn.Module, batch: SequenceBatch) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Compute the cross-entropies of the targets' codes and items, in total and of each."""
        out = module(batch, self.index, **_smoothing(module, self.settings))
        logs = {f"loss_level_{i + 1}": x for i, x in enumerate(out.level_losses.unbind())}
        if out.item_loss is not None:
            logs["loss_items"] = out.item_loss
        return out.loss, logs

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
            "`genrec train rqvae` and give its run folder"
        )
    stage_one = find_tokenizer(settings.pretrained_rqvae_path, settings.dataset_split)

    def build_task(data: PreparedDataset, device: torch.device) -> SequenceTask:
        table = load_ids(stage_one, data, dedup_digit=settings.add_disambiguation)
        _check_stage_one_names(table, settings)
        task: RetrievalTask | ItemTokenTask
        if settings.encoder_tokens == "item":
            task = ItemTokenTask(table, data, settings, device, stage_one=stage_one)
        else:
            model = settings.build_model(table)
            task = RetrievalTask(model, table, data, settings, device, stage_one=stage_one)
        if settings.pretrained_decoder_path is not None:
            _start_from(task.model, settings.pretrained_decoder_path)
        return task

    return train_sequence(settings, build_task)


def _smoothing(module: nn.Module, settings: DecoderSettings) -> dict[str, Any]:
    """What shapes the loss in training and is left out where the loss is to be compared."""
    if not module.training:
        return {}
    return {"label_smoothing": settings.label_smoothing, "level_weights": settings.level_weights}


def _check_levels(settings: DecoderSettings, table: SemanticIdTokenizer) -> None:
    """Refuse settings of other levels than the tokenizer's."""
    weights = settings.level_weights
    if weights is not None and (len(weights) != table.num_levels or sum(weights) <= 0):
        raise ConfigError(
            f"level_weights must be one for each of the {table.num_levels} levels and not all 0, "
            f"got {list(weights)}; set train.level_weights={[1.0] * table.num_levels}"
        )
    counts = settings.vectors_per_prefix
    with_vectors = min(settings.items_from or table.num_levels, table.num_levels)
    if len(counts) > with_vectors:
        raise ConfigError(
            f"vectors_per_prefix must be at most one number for each of the {with_vectors} levels "
            f"that have vectors, got {list(counts)}; set "
            f"train.vectors_per_prefix={list(counts[:with_vectors])}"
        )


def _start_from(model: nn.Module, path: str) -> None:
    """Copy the weights of another run of the same shape."""
    _, weights = load_model_files(path)
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise ArtifactError(
            f"pretrained_decoder_path must hold a model of the same shape, got {path} with "
            f"{str(error).splitlines()[-1].strip()}; use the settings of that run"
        ) from error


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
