"""Ten steps of stage two give recorded losses, and resuming at step five repeats them.

A change that is not meant to be numerical must not move these numbers. They are compared to four
digits, because matrix products differ in the last ones between processors.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from genrec.data.prepared import PreparedDataset
from genrec.tokenizer.semantic_id import SemanticIdTokenizer
from genrec.training.decoder import DecoderSettings, RetrievalTask
from genrec.training.sequence_training import SequenceWork
from genrec.training.session import open_run, start_session

GOLDEN = {
    "bucketed": [
        2.38369,
        2.15447,
        2.21262,
        2.13579,
        2.11374,
        2.02297,
        2.10184,
        1.99873,
        1.87841,
        2.0273,
    ],
    "packed": [
        2.43577,
        2.21554,
        2.13189,
        2.06594,
        1.98327,
        1.99628,
        1.9408,
        2.01471,
        1.95288,
        1.96699,
    ],
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


def run(data: PreparedDataset, path: Path, mode: str, steps: int, resume: bool = False) -> Any:
    """Train for some steps on one thread; return the losses and the final weights."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        settings = DecoderSettings(
            save_dir_root=str(path),
            resume=resume,
            iterations=steps,
            batch_size=16,
            train_mode=mode,
            learning_rate=1e-2,
            warmup_steps=3,
            gradient_accumulate_every=2,
            label_smoothing=0.1,
            log_every=1,
            seed=3,
            num_beams=10,
            top_k_eval_list=(1, 10),
            max_seq_len=6,
            decoder_embed_dim=16,
            attn_embed_dim=32,
            attn_heads=2,
            attn_layers=2,
            ff_dim=32,
            num_user_embeddings=7,
            encoder_mask="item_causal" if mode == "packed" else "full",
        )
        session = start_session(settings)
        ids = np.stack([np.arange(50) // 10, np.arange(50) % 10], axis=1)
        table = SemanticIdTokenizer(ids, level_sizes=(5, 10), item_keys=data.item_keys)
        torch.manual_seed(0)
        model = settings.build_model(table)
        task = RetrievalTask(model, table, data, settings, session.accelerator.device)
        work = SequenceWork(session, data, settings, task)
        open_run(session, work.meta)
        work.train()
        session.lock.release()
    finally:
        torch.set_num_threads(threads)
    rows = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    return [row["train/loss"] for row in rows if "train/loss" in row], model.state_dict()


@pytest.mark.parametrize("mode", ["bucketed", "packed"])
def test_ten_steps_and_resume(data: PreparedDataset, tmp_path: Path, mode: str) -> None:
    losses, weights = run(data, tmp_path / "whole", mode, 10)
    assert losses == pytest.approx(GOLDEN[mode], abs=2e-4)

    half, _ = run(data, tmp_path / "halves", mode, 5)
    assert half == losses[:5]
    both, resumed = run(data, tmp_path / "halves", mode, 10, resume=True)
    assert both == losses
    for name, value in weights.items():
        assert torch.equal(resumed[name], value), name
