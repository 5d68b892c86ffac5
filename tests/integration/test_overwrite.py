"""A mistake costs no older run: with ``overwrite`` over a finished one, every byte stays."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from genrec.errors import GenRecError, TrainingError
from genrec.training import decoder, rqvae, sasrec
from genrec.training.loop import fit

COMMON: dict[str, dict[str, Any]] = {
    "optimizer": {"optimizer": "adamm"},
    "schedule": {"schedule": "cosin"},
    "precision": {"amp": True, "mixed_precision_type": "int8"},
    "fp16 without a GPU": {"amp": True, "mixed_precision_type": "fp16"},
    "split": {"dataset_folder": "nowhere", "dataset_split": "beuty"},
    "tracker": {"trackers": ["mlfow"]},
    "length": {"iterations": None, "epochs": None},
    "type": {"batch_size": "abc"},
}
SEQUENCES: dict[str, dict[str, Any]] = {
    "mode": {"train_mode": "bucket"},
    "list length": {"top_k_eval_list": [0]},
    "tokenizer": {"pretrained_rqvae_path": "nowhere"},
}
WRONG: dict[str, dict[str, dict[str, Any]]] = {
    "rqvae": COMMON
    | {
        "mode": {"vae_codebook_mode": "STEE"},
        "SINKHORN": {"vae_codebook_mode": "SINKHORN", "batch_size": 8},
        "policy": {"collision_policy": "dedup"},
        "tokenizer": {"tokenizer": "kmeans"},
        "start": {"pretrained_rqvae_path": "nowhere"},
        "width": {"vae_input_dim": 3},
    },
    "decoder": COMMON
    | SEQUENCES
    | {
        "beams": {"num_beams": 0},
        "level weights": {"level_weights": [1.0]},
        "vectors of a prefix": {
            "encoder_tokens": "item",
            "normalize_over": "prefix",
            "prefix_vectors": True,
            "vectors_per_prefix": (2, 1, 1, 1),
        },
        "packed": {"train_mode": "packed", "encoder_mask": "full"},
        "no tokenizer": {"pretrained_rqvae_path": None},
        "codebook size": {"vae_codebook_size": 7},
        "start": {"pretrained_decoder_path": "nowhere"},
        "heads": {"attn_heads": 5},
    },
    "sasrec": COMMON | SEQUENCES | {"heads": {"attn_heads": 5}, "negatives": {"num_negatives": 0}},
}
STAGES: dict[str, Any] = {
    "rqvae": (rqvae.RqVaeSettings, rqvae.train),
    "decoder": (decoder.DecoderSettings, decoder.train),
    "sasrec": (sasrec.SasRecSettings, sasrec.train),
}


@pytest.fixture(scope="module")
def finished(sample_tokenizer: Path, sample_decoder: Path, tmp_path_factory: Any) -> dict[str, Any]:
    """A finished run of each stage, and the settings that would replace it."""
    data = json.loads((sample_tokenizer / "meta.json").read_text())["prepared"]
    shared = {"dataset": "sample", "dataset_folder": data, "iterations": 1}
    root = tmp_path_factory.mktemp("sasrec")
    small = {"embed_dim": 8, "ff_dim": 8, "test_at_end": False}
    sasrec.train(sasrec.SasRecSettings(**shared, **small, save_dir_root=str(root / "run")))
    table = {"pretrained_rqvae_path": str(sample_tokenizer)}
    return {
        "rqvae": (sample_tokenizer, shared),
        "decoder": (sample_decoder, shared | table),
        "sasrec": (root / "run", shared | small),
    }


def contents(run: Path) -> dict[str, bytes]:
    """Read all files of a run except those of its lock."""
    files = [p for p in run.rglob("*") if p.is_file() and not p.name.startswith(".lock")]
    return {str(p.relative_to(run)): p.read_bytes() for p in files}


@pytest.mark.parametrize(
    ("stage", "mistake"), [(stage, name) for stage, wrong in WRONG.items() for name in wrong]
)
def test_a_mistake_costs_no_older_run(
    finished: dict[str, Any], tmp_path: Path, stage: str, mistake: str
) -> None:
    older, settings = finished[stage]
    run = shutil.copytree(older, tmp_path / "run")
    before = contents(run)
    assert "meta.json" in before
    make, train = STAGES[stage]
    wrong = settings | {"save_dir_root": str(run), "overwrite": True} | WRONG[stage][mistake]
    if wrong.get("dataset_split"):  # the run then lies below the split
        run.rename(tmp_path / "beuty")
        run = tmp_path / "beuty"
        wrong["save_dir_root"] = str(tmp_path)
    with pytest.raises(GenRecError) as raised:
        train(make(**wrong))
    assert "\n" not in str(raised.value)
    assert contents(run) == before


@pytest.mark.parametrize("stage", STAGES)
def test_a_folder_that_cannot_be_written_is_one_line(
    finished: dict[str, Any], tmp_path: Path, stage: str
) -> None:
    _, settings = finished[stage]
    (tmp_path / "file").write_text("mine")
    make, train = STAGES[stage]
    with pytest.raises(GenRecError, match=r"run folder must be writable, got .*file"):
        train(make(**settings, save_dir_root=str(tmp_path / "file")))
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("stage", STAGES)
def test_a_training_that_fails_before_its_first_checkpoint_gives_the_old_run_back(
    finished: dict[str, Any], tmp_path: Path, stage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    older, settings = finished[stage]
    run = shutil.copytree(older, tmp_path / "run")
    before = contents(run)

    def broken(*args: Any, **options: Any) -> None:
        raise TrainingError("loss must be finite, got NaN at step 1; lower the learning rate")

    for module in ("sequence_training", "quantizer_training"):
        monkeypatch.setattr(f"genrec.training.{module}.{fit.__name__}", broken)
    make, train = STAGES[stage]
    with pytest.raises(TrainingError):
        train(make(**settings, save_dir_root=str(run), overwrite=True))
    assert contents(run) == before
