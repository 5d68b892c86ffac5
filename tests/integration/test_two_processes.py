"""Two processes train both stages, and evaluate to the numbers of one process."""

from __future__ import annotations

import json

import numpy as np
import pytest

from genrec.checkpoint import RunDirectory, load_model_files
from genrec.tokenizer.semantic_id import SemanticIdTokenizer


def losses(run) -> list[float]:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [row["train/loss"] for row in rows if "train/loss" in row]


def newest(run):
    return RunDirectory(run).newest()


def without_speed(run) -> dict:
    found = json.loads((run / "metrics.json").read_text())["test"]
    return {
        who: {name: value for name, value in row.items() if name != "users_per_s"}
        for who, row in found.items()
    }


@pytest.fixture(scope="module")
def tokenizers(workshop, sample_tokenizer):
    return sample_tokenizer, workshop.tokenizer("rqvae-two", processes=2)


def test_stage_one_learns_the_same_and_leaves_one_whole_run(tokenizers):
    one, two = tokenizers
    # Sums over two halves round differently, so near, not equal.
    assert losses(two) == pytest.approx(losses(one), rel=1e-3)
    assert json.loads((two / "meta.json").read_text())["num_processes"] == 2
    tables = [SemanticIdTokenizer.load(run) for run in (one, two)]
    same = (np.asarray(tables[0].ids)[:, :3] == np.asarray(tables[1].ids)[:, :3]).mean()
    assert same > 0.99
    assert {path.name for path in two.iterdir()} == {path.name for path in one.iterdir()}


def test_stage_two_learns_the_same_and_evaluates_to_the_last_digit(
    workshop, launch, sample_tokenizer
):
    # One process that takes both shards of each step draws what two processes draw.
    sizes = {"dropout_p": 0.3}
    shards = {"batch_size": 32, "gradient_accumulate_every": 2}
    one = workshop.decoder("decoder-one", sample_tokenizer, **sizes, **shards)
    two = workshop.decoder("decoder-two", sample_tokenizer, processes=2, **sizes)
    assert losses(two) == pytest.approx(losses(one), rel=1e-5)
    weights = [load_model_files(newest(run))[1] for run in (one, two)]
    apart = max(float((weights[0][k] - weights[1][k]).abs().max()) for k in weights[0])
    assert apart < 1e-4
    trained = without_speed(two)
    assert trained["generation"]["users"] == 2000
    answers = [trained]
    for processes in (None, 2):
        done = launch("evaluate_decoder.py", two, processes=processes)
        assert done.returncode == 0, done.stderr
        # One process speaks: one row with the history shown and one with it hidden.
        assert done.stdout.count("\ngeneration, item level") == 2
        answers.append(without_speed(two))
    assert answers[1] == answers[2] == answers[0]
