"""Item tokens through the commands: resume, two processes, re-scoring chosen on validation."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from genrec.checkpoint import RunDirectory, load_model_files
from genrec.trained import load_trained
from genrec.training.decoder import DecoderSettings, train

ITEMS: dict[str, Any] = {
    "encoder_tokens": "item",
    "encoder_mask": "full",
    "attn_layers": (1, 1),
    "start_weight": 0.5,
    "seen_weights": True,
    "vectors_per_prefix": (2,),
    "items_from": 2,
    "item_drop": 0.1,
    "batch_size": 64,
    "learning_rate": 1e-2,
    "warmup_steps": 2,
    "schedule": "constant",
}


def losses(run: Path) -> list[float]:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [row["train/loss"] for row in rows if "train/loss" in row]


def without_speed(run: Path) -> dict[str, Any]:
    found = json.loads((run / "metrics.json").read_text())["test"]
    return {
        who: {name: value for name, value in row.items() if name != "users_per_s"}
        for who, row in found.items()
    }


@pytest.fixture(scope="module")
def unique_ids(workshop: Any, sample_tokenizer: Path) -> Path:
    """Stage one's IDs, every item with codes of its own."""
    return workshop.tokenizer("rqvae-reassign", collision_policy="reassign")


@pytest.fixture(scope="module")
def whole(workshop: Any, unique_ids: Path) -> Path:
    """A finished run of item tokens, with checkpoints at steps 6 and 12."""
    grid = {"later_temperature_grid": (1.5, 2.0), "rescore_grid": (0.5, 2.0)}
    return workshop.decoder("items", unique_ids, processes=1, **ITEMS, **grid)


def test_it_learns_and_the_weight_of_its_beams_is_chosen_on_validation(whole: Path) -> None:
    first, *_, last = losses(whole)
    assert last < first - 0.5
    meta = json.loads((whole / "meta.json").read_text())
    assert meta["model"] == "ItemTokenRetrievalModel"
    assert meta["evaluation"]["rescore"] in (0.5, 2.0)
    assert meta["evaluation"]["later_temperature"] in (1.5, 2.0)
    found = json.loads((whole / "metrics.json").read_text())["test"]
    assert {"generation", "re-scored", "popularity", "co-occurrence"} <= set(found)
    assert load_trained(whole).ranker.name == "re-scored"
    assert load_trained(whole, rescore=0.0).ranker.name == "generation"


def test_what_is_set_is_kept_where_nothing_is_clearly_better(
    workshop: Any, unique_ids: Path
) -> None:
    grid = {"later_temperature_grid": (0.99, 1.0, 1.01)}  # next to no difference
    run = workshop.decoder("items-as-set", unique_ids, processes=1, **ITEMS, **grid)
    evaluation = json.loads((run / "meta.json").read_text())["evaluation"]
    assert evaluation["later_temperature"] == 1.0


def test_resuming_is_never_having_stopped(workshop: Any, unique_ids: Path, whole: Path) -> None:
    grid = {"later_temperature_grid": (1.5, 2.0), "rescore_grid": (0.5, 2.0)}
    half = workshop.decoder("items-half", unique_ids, processes=1, iterations=6, **ITEMS, **grid)
    assert losses(half) == losses(whole)[:6]
    shutil.rmtree(half / "metrics.json", ignore_errors=True)
    workshop.decoder("items-half", unique_ids, "--resume", processes=1, **ITEMS, **grid)
    assert losses(half) == losses(whole)
    weights = [load_model_files(run / "step_12")[1] for run in (half, whole)]
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())
    assert RunDirectory(half).pointers() == RunDirectory(whole).pointers()
    assert without_speed(half) == without_speed(whole)


def test_two_processes_learn_the_same_and_evaluate_to_the_last_digit(
    workshop: Any, launch: Any, unique_ids: Path
) -> None:
    still = {"dropout_p": 0.0, "item_drop": 0.0}  # what is dropped is drawn on each process
    one = workshop.decoder("items-one", unique_ids, **(ITEMS | still))
    two = workshop.decoder("items-two", unique_ids, processes=2, **(ITEMS | still))
    assert losses(two) == pytest.approx(losses(one), rel=1e-3)
    trained = without_speed(two)
    done = launch("evaluate_decoder.py", two)
    assert done.returncode == 0, done.stderr
    assert without_speed(two) == trained


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # the tracer looks
def test_a_compiled_model_trains_as_one_that_is_not(
    unique_ids: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the tracer of ``torch.compile`` without the code that it would write."""
    real = torch.compile
    monkeypatch.setattr(
        torch, "compile", lambda model, dynamic: real(model, dynamic=dynamic, backend="eager")
    )
    runs = []
    for compiled in (False, True):
        told: dict[str, Any] = {
            **ITEMS,
            "iterations": 2,
            "full_eval_every": 0,
            "log_every": 1,
            "decoder_embed_dim": 16,
            "attn_heads": 2,
            "ff_dim": 32,
            "num_beams": 10,
            "test_at_end": False,
            "epochs": None,
            "pretrained_rqvae_path": str(unique_ids),
            "save_dir_root": str(tmp_path / f"run-{compiled}"),
            "compile_model": compiled,
            "seed": 1,
        }
        runs.append(train(DecoderSettings(**told)))
    assert losses(runs[1]) == pytest.approx(losses(runs[0]), rel=1e-4)
    weights = [load_model_files(run / "step_2")[1] for run in runs]
    assert weights[0].keys() == weights[1].keys()
    assert load_trained(runs[1]).ranker.num_items == load_trained(runs[0]).ranker.num_items
