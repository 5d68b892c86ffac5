"""The artefacts of a shop, and how each is opened and read to its last value."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from genrec.checkpoint import RunDirectory, load_model_files
from genrec.data.catalogue import Catalogue
from genrec.data.prepared import PreparedDataset
from genrec.data.text.fused_space import FusedSpace
from genrec.data.text.kept_encoder import load_encoder
from genrec.data.text.known_vectors import KnownVectors
from genrec.digests import read_signed
from genrec.serving.recommender import Recommender
from genrec.tokenizer.semantic_id import SemanticIdTokenizer
from genrec.trained import load_quantizer
from soaking.shop import Shop

__all__ = ["artefacts", "plain"]

Opener = Callable[[Path], Any]


def plain(value: Any) -> Any:
    """Turn what an opener gave into values that can be compared."""
    if isinstance(value, torch.Tensor):
        return value.tolist()
    if isinstance(value, np.ndarray):
        return value.dtype.str, value.tolist()
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items() if k not in ("files", "seal", "path")}
    if isinstance(value, str | bytes | int | float | bool | Path | None):
        return value
    if hasattr(value, "__dict__"):
        return plain({k: v for k, v in vars(value).items() if not k.startswith("_")})
    return [plain(entry) for entry in value]


def _strings(value: Any) -> Any:
    return {k: list(v) if "keys" in k or "titles" in k or "texts" in k else v
            for k, v in vars(value).items() if k != "path"}  # fmt: skip


def _recommended(path: Path) -> Any:
    recommender = Recommender.from_pretrained(path)
    found = recommender.recommend([["i01", "i02"], ["i30"]], k=5)
    return found.items, found.scores, found.titles


def _step(path: Path) -> Any:
    config, weights = load_model_files(path)
    trainer = RunDirectory(path.parent).load_trainer(path)
    return config, weights, str(trainer)


def artefacts(shop: Shop) -> dict[str, tuple[Path, Opener]]:
    """Name what a run leaves: where it lies below its run's folder, and what opens it."""
    step = RunDirectory(shop.rqvae).newest()
    assert step is not None
    return {
        "prepared data": (shop.data, lambda path: _strings(PreparedDataset.load(path))),
        "step": (step, _step),
        "semantic IDs": (shop.rqvae / "semantic_ids", lambda path: (
            (table := SemanticIdTokenizer.load(path)).ids, list(table.item_keys),
            table.level_sizes, table.statistics)),
        "catalogue": (shop.decoder / "catalogue",
                      lambda path: _strings(Catalogue.load(path.parent))),
        "item space": (shop.rqvae / "item_space", lambda path: plain(FusedSpace.load(path))),
        "encoder": (shop.rqvae / "encoder", lambda path: (
            load_encoder(path.parent).encoder.encode(["red cup", "blue pan"]).tolist())),
        "known vectors": (shop.rqvae / "known_vectors",
                          lambda path: _strings(KnownVectors.load(path.parent))),
        "quantiser": (shop.decoder / "quantizer", lambda path: {
            k: v.tolist() for k, v in load_quantizer(path).state_dict().items()}),
        "description": (shop.decoder / "meta.json", read_signed),
        "metrics": (shop.decoder / "metrics.json", read_signed),
        "whole run": (shop.decoder, _recommended),
    }  # fmt: skip
