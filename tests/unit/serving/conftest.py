"""A run as training leaves it, with its quantiser, and the data set that it was trained on."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from genrec.atomic import write_json_atomic
from genrec.checkpoint import RunDirectory
from genrec.data.catalogue import Catalogue
from genrec.data.prepared import PreparedDataset
from genrec.decoding.trie import PrefixIndex
from genrec.models.item_retrieval import ItemTokenRetrievalModel
from genrec.models.retrieval import EncoderDecoderRetrievalModel
from genrec.models.sasrec import SasRec
from genrec.tokenizer.residual_kmeans import ResidualKMeans
from genrec.tokenizer.semantic_id import SemanticIdTokenizer
from genrec.trained import keep_quantizer

NUM_KINDS, NUM_EACH = 4, 8
KEYS = [f"{kind}{place}" for kind in "abcd" for place in range(NUM_EACH)]


@pytest.fixture(scope="session")
def vectors() -> np.ndarray:
    """Vectors of four kinds of items, far apart."""
    rng = np.random.default_rng(0)
    kinds = np.repeat(np.eye(NUM_KINDS, 6, dtype=np.float32) * 10, NUM_EACH, axis=0)
    return kinds + rng.normal(size=kinds.shape).astype(np.float32)


@pytest.fixture(scope="session")
def data(tmp_path_factory, write_data, vectors) -> PreparedDataset:
    rng = np.random.default_rng(1)
    walks = [rng.permutation(NUM_EACH)[:5] + NUM_EACH * rng.integers(NUM_KINDS) for _ in range(30)]
    titles = [f"title {key}" for key in KEYS]
    path = tmp_path_factory.mktemp("data") / "kinds"
    return write_data(path, KEYS, vectors, walks, titles)


def write_run(
    path: Path, model, data: PreparedDataset, table: SemanticIdTokenizer | None = None, **options
) -> Path:
    RunDirectory(path).save(
        5, weights=model.state_dict(), config=model.saved_config(), pointers=("best",)
    )
    meta = {
        "prepared": str(data.path),
        "dataset": "kinds",
        "encoder": "tfidf",
        "parameters": 1234,
        "evaluation": {"num_beams": 40, "max_history": 4, **options},
    }
    write_json_atomic(path / "meta.json", meta)
    row = {"recall@5": 0.25, "ndcg@5": 0.125, "users": 30}
    write_json_atomic(path / "metrics.json", {"test": {"settings": {}, "generation": row}})
    Catalogue.from_data(data).save(path)
    if table is not None:
        table.save(path / "semantic_ids")
    return path


@pytest.fixture(scope="session")
def save_run(data):
    """A function that writes a run of any model on the data set; options are of its evaluation."""
    return lambda path, model, table=None, **options: write_run(path, model, data, table, **options)


@pytest.fixture(scope="session")
def run(tmp_path_factory, data, vectors) -> Path:
    """A generative run."""
    folder = tmp_path_factory.mktemp("runs")
    quantizer = ResidualKMeans.fit(vectors, codebook_sizes=(4, 4))
    quantizer.save(folder / "stage_one" / "step_1")
    write_json_atomic(folder / "stage_one" / "meta.json", {})
    table = SemanticIdTokenizer.build(quantizer, vectors, item_keys=KEYS, policy="dedup_token")
    torch.manual_seed(0)
    model = EncoderDecoderRetrievalModel(
        16, 16, 0.0, 2, 2, num_embeddings=table.level_sizes, sem_id_dim=3, ff_dim=32
    )
    path = write_run(folder / "decoder", model, data, table)
    keep_quantizer(folder / "stage_one", table, path)
    return path


@pytest.fixture(scope="session")
def item_run(run, tmp_path_factory, data) -> Path:
    """A generative run whose model has a vector of each item."""
    table = SemanticIdTokenizer.load(run)
    torch.manual_seed(0)
    model = ItemTokenRetrievalModel.for_index(
        PrefixIndex.from_ids(table.ids, table.level_sizes),
        embedding_dim=16,
        ff_dim=(24, 24),
        max_history=6,
    )
    path = write_run(tmp_path_factory.mktemp("runs") / "items", model, data)
    for name in ("semantic_ids", "quantizer"):
        shutil.copytree(run / name, path / name)
    return path


@pytest.fixture(scope="session")
def user_run(run, tmp_path_factory, data) -> Path:
    """A generative run whose model has user tokens."""
    table = SemanticIdTokenizer.load(run)
    torch.manual_seed(0)
    model = EncoderDecoderRetrievalModel(
        16, 16, 0.0, 2, 2, num_embeddings=table.level_sizes, sem_id_dim=3, ff_dim=32, num_users=8
    )
    path = write_run(tmp_path_factory.mktemp("runs") / "users", model, data)
    shutil.copytree(run / "semantic_ids", path / "semantic_ids")
    return path


@pytest.fixture(scope="session")
def write_sasrec() -> Callable[[Path, PreparedDataset], Path]:
    """A function that writes a run of a model that knows no IDs."""

    def write(path: Path, data: PreparedDataset) -> Path:
        torch.manual_seed(0)
        model = SasRec(data.num_items, embedding_dim=8, ff_dim=16, max_history=4)
        return write_run(path, model, data)

    return write


@pytest.fixture(scope="session")
def sasrec_run(tmp_path_factory, data, write_sasrec) -> Path:
    return write_sasrec(tmp_path_factory.mktemp("runs") / "sasrec", data)
