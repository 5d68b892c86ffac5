"""Ten steps of the item-token model give recorded losses.

A change that is not meant to be numerical must not move these numbers. They are compared to four
digits, because matrix products differ in the last ones between processors.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from genrec.data.batching import TrainingBatches
from genrec.data.prepared import PreparedDataset
from genrec.data.sequence_dataset import SeqData
from genrec.decoding.trie import PrefixIndex
from genrec.models.item_retrieval import ItemTokenRetrievalModel
from genrec.models.item_settings import (
    HistorySettings,
    ItemHeadSettings,
    ItemVectorSettings,
    TreeSettings,
)

GOLDEN: dict[str, list[float]] = {
    "defaults": [
        7.04488,
        6.51885,
        6.72478,
        5.94993,
        6.12895,
        6.19513,
        5.93367,
        5.66846,
        5.64025,
        5.74468,
    ],
    "items below prefixes": [
        7.22073,
        6.82902,
        6.62968,
        6.08407,
        6.14438,
        5.98285,
        5.9827,
        5.92237,
        5.44634,
        5.73117,
    ],
    "codes alone": [
        4.82308,
        4.54335,
        4.26252,
        3.93339,
        4.02431,
        4.04987,
        4.02897,
        3.82582,
        3.75464,
        3.84193,
    ],
}

VARIANTS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "items below prefixes": {
        "items": ItemVectorSettings(item_codes=False),
        "tree": TreeSettings(items_from=1, vectors_per_prefix=(3,)),
        "history": HistorySettings(seen_weights=True),
    },
    "codes alone": {
        "items": ItemVectorSettings(item_vectors=False),
        "tree": TreeSettings(normalize_over="level", prefix_vectors=False),
        "head": ItemHeadSettings(item_head_weight=0.0),
    },
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, write_data: Any) -> PreparedDataset:
    """60 users who walk over 50 items on a circle, at their own pace."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(3, 12, 60)
    runs = [
        (s + p * np.arange(n)) % 50
        for s, p, n in zip(rng.integers(0, 50, 60), rng.integers(1, 4, 60), lengths, strict=True)
    ]
    keys = [f"item {i}" for i in range(50)]
    return write_data(tmp_path_factory.mktemp("data") / "circle", keys, sequences=runs)


@pytest.mark.parametrize("variant", VARIANTS)
def test_ten_steps(data: PreparedDataset, variant: str) -> None:
    ids = np.stack([np.arange(50) // 10, np.arange(50) % 10], axis=1)
    index = PrefixIndex.from_ids(ids, (5, 10))
    loader = TrainingBatches(
        SeqData(data, "train", max_history=6), batch_size=16, mode="packed", seed=3
    )
    torch.manual_seed(0)
    model = ItemTokenRetrievalModel.for_index(
        index, embedding_dim=16, ff_dim=(32, 32), max_history=6, **VARIANTS[variant]
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses: list[float] = []
    for epoch in range(10):
        for batch in loader.batches(epoch):
            loss = model(batch, index, label_smoothing=0.1).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.item())
    assert losses[:10] == pytest.approx(GOLDEN[variant], abs=2e-4)
