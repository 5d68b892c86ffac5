"""IDs of another project feed stage two directly."""

from __future__ import annotations

import json

import numpy as np
import pytest

from genrec.serving.recommender import Recommender


@pytest.mark.parametrize("num_levels", [3, 5])
def test_a_foreign_index_json_trains_and_recommends(workshop, write_data, tmp_path, num_levels):
    rng = np.random.default_rng(0)
    keys = [f"B{i:03}" for i in range(30)]
    data = write_data(tmp_path / "data", keys, sequences=rng.integers(0, 30, (20, 6)))
    codes = rng.integers(0, 9, (30, num_levels))
    codes[:, -1] = np.arange(30)  # unique
    letters = "pqrst"
    index = {
        str(row): [f"<{letters[level]}_{code}>" for level, code in enumerate(codes[row].tolist())]
        for row in range(30)
    }
    file = tmp_path / "other.index.json"
    file.write_text(json.dumps(index))
    run = workshop.decoder(
        f"foreign {num_levels}", file, dataset_folder=str(data.path), iterations=2, batch_size=8
    )
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["test"]["generation"]["users"] == 20
    items, _ = Recommender.from_pretrained(run, device="cpu").recommend([["B001", "B002"]], k=5)
    assert len(set(items[0])) == 5
