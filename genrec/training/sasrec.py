"""SASRec, the item-id model to be measured against: its settings and its training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from genrec.data.catalogue import Catalogue
from genrec.data.prepared import PreparedDataset
from genrec.data.schemas import SequenceBatch
from genrec.models.item_settings import HistorySettings, ItemHeadSettings
from genrec.models.sasrec import SasRec
from genrec.settings import again, setting
from genrec.training.optimizer import OptimizerSettings
from genrec.training.sequence_training import (
    LayerSettings,
    SequenceSettings,
    check_heads,
    train_sequence,
)
from genrec.training.settings import RunSettings

__all__ = ["SasRecSettings", "SasRecTask", "train"]


@dataclass(frozen=True, kw_only=True)
class SasRecSettings(SequenceSettings):
    """Settings of SASRec."""

    save_dir_root: str = again(RunSettings, "save_dir_root", "runs/sasrec")
    schedule: str = again(OptimizerSettings, "schedule", "constant")
    warmup_steps: int = again(OptimizerSettings, "warmup_steps", 200)
    num_negatives: int | None = again(ItemHeadSettings, "num_negatives")
    head_dtype: str = again(ItemHeadSettings, "item_head_dtype")
    seen_weights: bool = again(HistorySettings, "seen_weights")
    embed_dim: int = again(LayerSettings, "width")
    attn_heads: int = again(LayerSettings, "attn_heads")
    attn_layers: int = setting("Number of blocks", 2, least=1)
    ff_dim: int = again(LayerSettings, "ff_dim")
    dropout_p: float = again(LayerSettings, "dropout_p", 0.5)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_heads(self, "embed_dim")


class SasRecTask:
    """SASRec and its loss over items.

    Args:
        data: The data set.
        settings: The model's sizes and how its loss is computed.
    """

    name = "SASRec"
    meta: Mapping[str, Any] = {}

    def __init__(self, data: PreparedDataset, settings: SasRecSettings) -> None:
        self.settings = settings
        self.catalogue = Catalogue.from_data(data)
        self.model = SasRec(
            data.num_items,
            embedding_dim=settings.embed_dim,
            num_heads=settings.attn_heads,
            n_layers=settings.attn_layers,
            ff_dim=settings.ff_dim,
            dropout=settings.dropout_p,
            max_history=settings.max_seq_len,
            seen_weights=settings.seen_weights,
            head_dtype=settings.head_dtype,
        )
        if (vectors := settings.start_vectors(data)) is not None:
            self.model.start_from(torch.from_numpy(vectors))

    def loss(self, module: nn.Module, batch: SequenceBatch) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Compute the cross-entropy of each target among all items, or among drawn ones."""
        targets, live = batch.targets, batch.live
        if not batch.packed:  # one target, after the newest item
            newest = (batch.history >= 0).sum(dim=1, keepdim=True) - 1
            targets = torch.full_like(batch.history, -1).scatter(1, newest, targets)
            rows, size = batch.history.shape
            live = newest.squeeze(1) + size * torch.arange(rows, device=newest.device)
        return module(batch.history, targets, self.settings.num_negatives, live=live), {}

    def save(self, run: Path) -> None:
        """Write nothing: the catalogue is all that the model needs."""


def train(settings: SasRecSettings) -> Path:
    """Train SASRec on a data set.

    Args:
        settings: What to train, on what, and how.

    Returns:
        The run's folder.

    Raises:
        GenRecError: If a setting, a path or the data is not as it should be.
    """

    def build_task(data: PreparedDataset, device: torch.device) -> SasRecTask:
        return SasRecTask(data, settings)

    return train_sequence(settings, build_task)
