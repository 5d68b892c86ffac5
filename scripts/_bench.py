"""What the benchmarks share: data, semantic IDs, versions."""

import os
import platform
from importlib.metadata import version
from pathlib import Path

import numpy as np

from genrec.data.prepared import PreparedDataset, is_prepared
from genrec.data.processed import load_or_prepare
from genrec.tokenizer.residual_kmeans import ResidualKMeans
from genrec.tokenizer.semantic_id import SemanticIdTokenizer

REPOSITORY = Path(__file__).resolve().parent.parent


def open_data() -> tuple[PreparedDataset, str]:
    """The prepared set that GENREC_TEST_DATA names, or Beauty of there, or the shipped sample."""
    real = Path(os.environ.get("GENREC_TEST_DATA", REPOSITORY.parent / "shared" / "data"))
    if is_prepared(real):
        return PreparedDataset.load(real), real.name
    if (real / "amazon" / "beauty").is_dir():
        return load_or_prepare("amazon", real / "amazon", split="beauty"), "amazon-beauty"
    return load_or_prepare("sample", REPOSITORY / "data" / "sample"), "sample"


def build_ids(data: PreparedDataset, policy: str = "dedup_token") -> SemanticIdTokenizer:
    """Three levels of 256 codes and what the policy adds, by residual k-means."""
    embeddings = np.asarray(data.item_embeddings, dtype=np.float32)
    quantizer = ResidualKMeans.fit(embeddings, codebook_sizes=(256,) * 3, num_iters=10)
    return SemanticIdTokenizer.build(quantizer, embeddings, item_keys=data.item_keys, policy=policy)


def versions(*packages: str) -> dict[str, str]:
    """Name the versions of Python and of some packages."""
    return {"python": platform.python_version()} | {name: version(name) for name in packages}
