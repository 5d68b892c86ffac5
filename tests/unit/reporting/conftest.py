"""A small shop with hostile titles and runs on it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from genrec.atomic import write_json_atomic
from genrec.checkpoint import RunDirectory
from genrec.data.catalogue import Catalogue
from genrec.data.prepared import PreparedDataset, write_prepared
from genrec.data.splits import leave_one_out
from genrec.decoding.trie import PrefixIndex
from genrec.models.item_retrieval import ItemTokenRetrievalModel
from genrec.models.retrieval import EncoderDecoderRetrievalModel
from genrec.models.sasrec import SasRec
from genrec.tokenizer.residual_kmeans import ResidualKMeans
from genrec.tokenizer.semantic_id import SemanticIdTokenizer
from genrec.trained import keep_quantizer

HOSTILE = "</script><img src=x onerror=alert(1)>{{7*7}}\u2028<!--"
KINDS, EACH = 4, 8
NUM_ITEMS = KINDS * EACH


@dataclass(frozen=True)
class Shop:
    """A data set, and a run of each kind on it.

    Attributes:
        data: The data set; two items lie at one place, one has no title.
        stage_one: A stage-one run.
        decoder: A run that writes codes, read from stage one at a relative path.
        items: A run that reads one token an item and re-scores.
        sasrec: A run that knows no codes.
    """

    data: PreparedDataset
    stage_one: Path
    decoder: Path
    items: Path
    sasrec: Path


def write_data(path: Path) -> PreparedDataset:
    rng = np.random.default_rng(0)
    kinds = np.repeat(np.arange(KINDS), EACH)
    vectors = np.eye(KINDS, 6, dtype=np.float32)[kinds] * 10
    vectors += rng.normal(size=vectors.shape).astype(np.float32)
    vectors[1] = vectors[0]
    names = ("nail polish", "hair brush", "eau de toilette", "face mask")
    titles = [f"{names[kind]} {row} {HOSTILE}" for row, kind in enumerate(kinds)]
    titles[3] = ""
    walks = [rng.permutation(EACH)[:5] + EACH * rng.integers(KINDS) for _ in range(30)]
    offsets = np.cumsum([0, *map(len, walks)])
    train_ends, valid_ends = leave_one_out(offsets)
    return write_prepared(
        path,
        name=f"shop {HOSTILE}",
        source=HOSTILE,
        split_rule="leave-one-out",
        encoder="none",
        item_keys=[f"key-{row}{HOSTILE}" for row in range(NUM_ITEMS)],
        item_titles=titles,
        item_texts=[f"Title: {titles[row]}; Kind: {names[k]}" for row, k in enumerate(kinds)],
        item_embeddings=vectors,
        user_keys=[f"user-{user}{HOSTILE}" for user in range(len(walks))],
        sequence_items=np.concatenate(walks),
        sequence_offsets=offsets,
        train_ends=train_ends,
        valid_ends=valid_ends,
        card={"steps": [], "history_length": {"min": 5.0}, "rejected": []},
    )


def write_run(path: Path, model: Any, data: PreparedDataset, **meta: Any) -> Path:
    RunDirectory(path).save(
        5, weights=model.state_dict(), config=model.saved_config(), pointers=("latest", "best")
    )
    told = {
        "prepared": str(data.path),
        "log_fingerprint": data.log_fingerprint,
        "command": f"/opt/bin/genrec train {HOSTILE}",
        "device": "cpu",
        "threads": 1,
        "seed": 3,
        "train_seconds": 75.0,
        "steps": 5,
        "model": type(model).__name__,
        "evaluation": {"num_beams": 40, "max_history": 4, "ks": [1, 5, 10]},
        "settings": {"learning_rate": 0.1, "note": HOSTILE},
    }
    write_json_atomic(path / "meta.json", told | meta)
    rows = [
        {"step": step, "train/loss": 3.0 - step / 9, "train/loss_level_1": 1.0} for step in range(5)
    ]
    rows.append({"step": 5, "valid/recall@10": 0.25})
    (path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    if meta.get("stage") != "tokenizer":
        Catalogue.from_data(data).save(path)
    return path


def write_stage_one(path: Path, data: PreparedDataset) -> SemanticIdTokenizer:
    quantizer = ResidualKMeans.fit(np.array(data.item_embeddings), codebook_sizes=(4, 4))
    quantizer.save(path / "step_5")
    (path / "latest").write_text("step_5\n")
    meta = {
        "stage": "tokenizer",
        "model": "residual_kmeans",
        "prepared": str(data.path),
        "log_fingerprint": data.log_fingerprint,
        "settings": {"learning_rate": 0.5},
    }
    write_json_atomic(path / "meta.json", meta)
    seen = {"r2": 0.6, "r2_unquantized": 1.0, "quantization_error": 0.4, "unique_ids": 16.0}
    seen |= {"collision_rate": 0.5, "largest_group": 4.0}
    for level in (1, 2):
        seen |= {f"codes_used_{level}": 4.0, f"perplexity_{level}": 3.5}
    row = {"step": 5} | {f"eval/{name}": value for name, value in seen.items()}
    (path / "metrics.jsonl").write_text(json.dumps(row) + "\n")
    table = SemanticIdTokenizer.build(
        quantizer, data.item_embeddings, item_keys=data.item_keys, policy="dedup_token"
    )
    table.save(path / "semantic_ids")
    return table


@pytest.fixture(scope="session")
def shop(tmp_path_factory) -> Shop:
    """The shop, on which no test may write."""
    folder = tmp_path_factory.mktemp("shop")
    data = write_data(folder / "data")
    stage_one = folder / "runs" / "rqvae" / "shop"
    table = write_stage_one(stage_one, data)
    torch.manual_seed(0)
    decoder = EncoderDecoderRetrievalModel(
        16, 16, 0.0, 2, 2, num_embeddings=table.level_sizes, sem_id_dim=3, ff_dim=32
    )
    index = PrefixIndex.from_ids(table.ids, table.level_sizes)
    items = ItemTokenRetrievalModel.for_index(
        index, embedding_dim=16, ff_dim=(24, 24), max_history=6
    )
    told = {"pretrained_rqvae_path": "runs/rqvae/shop", "learning_rate": 0.1}
    paths = []
    for name, model in (("decoder", decoder), ("items", items)):
        path = folder / "runs" / name / "shop"
        paths.append(write_run(path, model, data, stage="retrieval", settings=told))
        table.save(path / "semantic_ids")
        keep_quantizer(stage_one, table, path)
    sasrec = SasRec(NUM_ITEMS, embedding_dim=8, ff_dim=16, max_history=4)
    last = write_run(folder / "runs" / "sasrec" / "shop", sasrec, data, stage="retrieval")
    return Shop(data, stage_one, *paths, last)
