"""Real data, prepared once."""

from __future__ import annotations

import pytest

from genrec.data.prepared import PreparedDataset
from genrec.data.processed import RecDataset, load_or_prepare


@pytest.fixture(scope="session")
def beauty(shared_data, tmp_path_factory) -> PreparedDataset:
    """Real Amazon Beauty with embeddings made elsewhere; skipped where it is absent."""
    return load_or_prepare(
        RecDataset.AMAZON,
        shared_data / "amazon",
        split="beauty",
        encoder_model_name=str(shared_data / "embeddings" / "beauty.minilm-l6-384.npy"),
        processed_dir=tmp_path_factory.mktemp("processed"),
    )
