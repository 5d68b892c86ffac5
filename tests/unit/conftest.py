"""Small data sets for unit tests, in memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from genrec.data.prepared import PreparedDataset, StringArray
from genrec.data.splits import leave_one_out

MakeData = Callable[..., PreparedDataset]


def make_prepared(sequences: Sequence[Sequence[int]], num_items: int | None = None):
    """Build a leave-one-out data set from item ids; user ``u`` has the key ``user-u``."""
    flat = [item for sequence in sequences for item in sequence]
    count = num_items if num_items is not None else max(flat, default=0) + 1
    offsets = np.cumsum([0, *(len(sequence) for sequence in sequences)]).astype(np.int64)
    train_ends, valid_ends = leave_one_out(offsets)
    keys = StringArray.from_strings(f"item-{i}" for i in range(count))
    return PreparedDataset(
        path=Path("in-memory"),
        meta={"name": "tiny", "fingerprint": "-", "items_fingerprint": keys.digest()},
        item_embeddings=np.zeros((count, 2), dtype=np.float32),
        item_keys=keys,
        item_titles=keys,
        item_texts=keys,
        user_keys=StringArray.from_strings(f"user-{u}" for u in range(len(sequences))),
        sequence_items=np.array(flat, dtype=np.int32),
        sequence_offsets=offsets,
        train_ends=train_ends,
        valid_ends=valid_ends,
    )


@pytest.fixture(scope="session")
def tiny_data() -> MakeData:
    """A function from item sequences to a data set."""
    return make_prepared
