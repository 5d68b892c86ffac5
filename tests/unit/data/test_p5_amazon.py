from __future__ import annotations

import gzip
import json

import numpy as np
import pytest

from genrec.data.p5_amazon import P5AmazonItemDataset, P5AmazonSequenceDataset
from genrec.data.prepared import PreparedDataset


@pytest.fixture
def release(tmp_path):
    """A split of three users and four items, of which one has no text."""
    folder = tmp_path / "beauty"
    folder.mkdir()
    (folder / "sequential_data.txt").write_text("1 1 2 3 1\n2 3\n3 4 2 1\n")
    keys = {
        "user2id": {f"u{user}": str(user) for user in (1, 2, 3)},
        "item2id": {f"B{item}": str(item) for item in (1, 2, 3, 4)},
    }
    (folder / "datamaps.json").write_text(json.dumps(keys))
    lines = [json.dumps({"asin": f"B{item}", "title": f"Soap {item}"}) for item in (1, 2, 3)]
    (folder / "meta.json.gz").write_bytes(gzip.compress("\n".join(lines).encode()))
    return tmp_path


def test_items_are_prepared_once(release):
    place = release / "processed"
    items = P5AmazonItemDataset(release, "beauty", "all", processed_dir=place)
    assert len(items) == 4
    assert isinstance(items.prepared, PreparedDataset)
    again = P5AmazonItemDataset(
        release, split="beauty", train_test_split="eval", processed_dir=place
    )
    assert again.prepared.path == items.prepared.path
    assert np.array_equal(again[0], items[int(again.item_ids[0])])


def test_sequences(release):
    data = P5AmazonSequenceDataset(release, "beauty", "test", processed_dir=release / "processed")
    assert data.targets.tolist() == [0, 0]
    assert data[0].history.tolist() == [[0, 1, 2]]
