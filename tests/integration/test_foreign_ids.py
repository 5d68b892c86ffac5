"""IDs of another project feed stage two directly."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from genrec.data.prepared import write_prepared


@pytest.mark.parametrize("num_levels", [3, 5])
def test_a_foreign_index_json_trains_and_recommends(tmp_path: Path, num_levels: int) -> None:
    rng = np.random.default_rng(0)
    keys = [f"B{i:03}" for i in range(30)]
    offsets = np.arange(0, 21 * 6, 6)
    data = write_prepared(
        tmp_path / "data",
        name="tiny",
        source="made by the test",
        split_rule="leave-one-out",
        encoder="none",
        item_keys=keys,
        item_titles=keys,
        item_texts=keys,
        item_embeddings=rng.normal(size=(30, 4)).astype(np.float32),
        user_keys=[f"u{u}" for u in range(20)],
        sequence_items=rng.integers(0, 30, 120),
        sequence_offsets=offsets,
        train_ends=offsets[1:] - 2,
        valid_ends=offsets[1:] - 1,
        card={},
    )
    codes = rng.integers(0, 9, (30, num_levels))
    codes[:, -1] = np.arange(30)  # unique
    letters = "pqrst"
    index = {
        str(row): [f"<{letters[level]}_{code}>" for level, code in enumerate(codes[row].tolist())]
        for row in range(30)
    }
    (tmp_path / "other.index.json").write_text(json.dumps(index))
    root = Path(__file__).resolve().parents[2]
    bindings = {
        "pretrained_rqvae_path": str(tmp_path / "other.index.json"),
        "dataset_folder": str(data.path),
        "save_dir_root": str(tmp_path / "run"),
        "epochs": None,
        "iterations": 2,
        "batch_size": 8,
        "decoder_embed_dim": 16,
        "attn_embed_dim": 16,
        "attn_heads": 2,
        "attn_layers": 2,
        "ff_dim": 16,
        "num_beams": 20,
    }
    command = [sys.executable, "scripts/train_decoder.py", "configs/decoder/sample.gin"]
    for name, value in bindings.items():
        command += ["--gin", f"train.{name}={value!r}"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["test"]["model"]["users"] == 20
    from genrec.serving.recommender import Recommender

    recommender = Recommender.from_pretrained(tmp_path / "run")
    ids, _ = recommender.recommend([["B001", "B002"]], k=5)
    assert len(set(ids[0].tolist())) == 5
