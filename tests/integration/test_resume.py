"""A run that stopped and went on equals one that never stopped, bit for bit, in both stages."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from genrec.checkpoint import RunDirectory, load_model_files
from genrec.tokenizer.semantic_id import SemanticIdTokenizer


def crashed_copy(run: Path, target: Path, step: int) -> Path:
    """Copy a run as it was right after it had saved a step."""
    target.mkdir()
    for name in (f"step_{step}", "config.gin", "meta.json", "metrics.jsonl", "semantic_ids"):
        source = run / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, target / name)
    for pointer in RunDirectory(run).pointers():
        RunDirectory(target).point(pointer, step)
    return target


def rows(run: Path) -> list[dict]:
    """``metrics.jsonl`` without speeds."""
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if "per_s" not in k} for line in lines]


def assert_same_runs(one: Path, two: Path) -> None:
    last = RunDirectory(one).steps()[-1]
    assert RunDirectory(one).pointers() == RunDirectory(two).pointers()
    weights = [load_model_files(run / f"step_{last}")[1] for run in (one, two)]
    assert weights[0].keys() == weights[1].keys()
    different = [name for name in weights[0] if not torch.equal(weights[0][name], weights[1][name])]
    assert different == []
    states = [RunDirectory(run).load_trainer(run / f"step_{last}") for run in (one, two)]
    assert str(states[0]["optimizer"]) == str(states[1]["optimizer"])
    assert rows(one) == rows(two)


@pytest.mark.parametrize(
    ("name", "settings", "step"),
    [
        ("after the k-means start", {}, 10),
        ("before the k-means start", {"iterations": 10, "eval_every": 5}, 5),
    ],
)
def test_stage_one(workshop, sample_tokenizer, tmp_path, name, settings, step):
    # 1,000 items in batches of 128 are 8 steps an epoch; k-means comes after the first epoch.
    whole = workshop.tokenizer(f"whole {step}", **settings) if settings else sample_tokenizer
    copy = crashed_copy(whole, tmp_path / "copy", step)
    shutil.rmtree(copy / "semantic_ids")
    workshop.tokenizer("-", "--resume", **settings, save_dir_root=str(copy))
    assert_same_runs(whole, copy)
    tables = [np.asarray(SemanticIdTokenizer.load(run).ids) for run in (whole, copy)]
    assert np.array_equal(*tables)


def test_stage_two(workshop, sample_tokenizer, sample_decoder, tmp_path):
    copy = crashed_copy(sample_decoder, tmp_path / "copy", 6)
    workshop.decoder("-", sample_tokenizer, "--resume", save_dir_root=str(copy))
    assert_same_runs(sample_decoder, copy)
    found = [json.loads((run / "metrics.json").read_text()) for run in (sample_decoder, copy)]
    for results in found:
        for row in results["test"].values():
            row.pop("users_per_s", None)
        del results["seal"]
    assert found[0] == found[1]


def test_without_evaluation_stage_two_only_trains(workshop, sample_tokenizer):
    run = workshop.decoder("no evaluation", sample_tokenizer, do_eval=False, iterations=2)
    assert not any("valid" in name for row in rows(run) for name in row)
    assert not (run / "metrics.json").exists()
    assert RunDirectory(run).pointers() == {"latest": "step_2"}
