"""SASRec on the sample: trains, resumes, and stands in the table beside the generative model."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from genrec.models.sasrec import SasRec


@pytest.fixture(scope="module")
def train_sasrec(workshop, sample_tokenizer):
    def run(name: str, *words: str, **options: Any) -> Path:
        target = workshop.path / name
        done = workshop.try_sasrec(target, sample_tokenizer, *words, **options)
        assert done.returncode == 0, done.stderr
        return target

    return run


@pytest.fixture(scope="module")
def sasrec(train_sasrec) -> Path:
    return train_sasrec("sasrec", processes=1)


def losses(run: Path) -> list[float]:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [row["train/loss"] for row in rows if "train/loss" in row]


def test_it_learns_and_beats_popularity(sasrec: Path) -> None:
    first, *_, last = losses(sasrec)
    assert last < first - 0.5
    found = json.loads((sasrec / "metrics.json").read_text())["test"]
    assert found["SASRec"]["users"] == 2000
    assert found["SASRec"]["recall@10"] > found["popularity"]["recall@10"]
    assert "num_beams" not in found["settings"]


def test_resuming_is_never_having_stopped(train_sasrec, sasrec: Path) -> None:
    half = train_sasrec("sasrec-half", processes=1, iterations=80)
    assert losses(half) == losses(sasrec)[:80]
    whole = train_sasrec("sasrec-half", "--resume", processes=1)
    assert losses(whole) == losses(sasrec)
    one, two = (SasRec.load_pretrained(run / "step_160").state_dict() for run in (sasrec, whole))
    assert all(torch.equal(value, two[name]) for name, value in one.items())


def test_two_processes_learn_the_same(train_sasrec) -> None:
    # Rounding differs between the two and grows with the steps, so few of them.
    one = train_sasrec("sasrec-one", dropout_p=0.0, iterations=20)
    two = train_sasrec("sasrec-two", processes=2, dropout_p=0.0, iterations=20)
    assert losses(two) == pytest.approx(losses(one), rel=1e-3)


def test_sampled_negatives_train_too(train_sasrec) -> None:
    first, *_, last = losses(train_sasrec("sasrec-sampled", num_negatives=50))
    assert last < first - 0.3


def test_it_stands_in_the_table_of_the_generative_model(
    launch, sample_decoder: Path, sasrec: Path, tmp_path: Path
) -> None:
    run = shutil.copytree(sample_decoder, tmp_path / "run")  # the table is written into it
    done = launch("evaluate_decoder.py", run, sasrec)
    assert done.returncode == 0, done.stderr
    for level in ("item", "SID"):
        assert re.search(rf"\nSASRec \S*{sasrec.name}, {level} level", done.stdout)
    table = json.loads((run / "metrics.json").read_text())["test"]
    own = json.loads((sasrec / "metrics.json").read_text())["test"]
    for metric in ("recall@10", "ndcg@10", "mrr", "coverage"):
        assert table["SASRec"][metric] == own["SASRec"][metric]


def test_it_is_evaluated_and_served_from_its_folder_alone(sasrec: Path, tmp_path: Path) -> None:
    run = shutil.copytree(sasrec, tmp_path / "run")
    done = genrec("evaluate", run, "--no-baselines")
    assert done.returncode == 0, done.stderr
    assert "\nSASRec, item level" in done.stdout
    table = json.loads((run / "metrics.json").read_text())["test"]
    own = json.loads((sasrec / "metrics.json").read_text())["test"]
    # Another test may have counted SASRec at SID level too, beside a model that has IDs.
    assert without_speed(table["SASRec"]).items() <= own["SASRec"].items()
    done = genrec("recommend", run, "--users", 2, "--json")
    assert done.returncode == 0, done.stderr
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert [len(answer["recommended"]) for answer in answers] == [5, 5]


def genrec(*words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "genrec", *map(str, words)]
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=240,
        env={**os.environ, "ACCELERATE_USE_CPU": "true"},
    )


def without_speed(row: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in row.items() if name != "users_per_s"}


def test_a_sasrec_of_other_data_is_refused_and_one_of_a_shorter_history_keeps_its_own(
    launch, sample_decoder: Path, train_sasrec, tmp_path: Path
) -> None:
    run = shutil.copytree(sample_decoder, tmp_path / "run")
    short = train_sasrec("sasrec-short", max_seq_len=5, iterations=1)
    own = json.loads((short / "metrics.json").read_text())["test"]["SASRec"]
    done = launch("evaluate_decoder.py", run, short)
    assert done.returncode == 0, done.stderr
    how = r"20 history items of generation \S+run and 5 history items of SASRec \S+sasrec-short"
    assert re.search(how, done.stdout)
    rows = r"\n(generation \S+run|SASRec \S+sasrec-short|popularity|co-occurrence), item level "
    assert len(re.findall(rows, done.stdout)) == 8  # each with the history hidden and not
    table = json.loads((run / "metrics.json").read_text())["test"]["SASRec"]
    assert without_speed(own).items() <= table.items()
    meta = json.loads((short / "meta.json").read_text())
    meta.pop("seal")  # edited by hand
    (short / "meta.json").write_text(json.dumps(meta | {"log_fingerprint": "another"}))
    done = launch("evaluate_decoder.py", run, short)
    assert done.returncode == 2
    assert "SASRec must have been trained on the data set of the run" in done.stderr


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_negatives": 0}, "num_negatives must be >= 1, got 0"),
        ({"embed_dim": 15}, "embed_dim must be a multiple of attn_heads, got 15 and"),
        ({"optimizer": "adamm"}, "optimizer must be known, got 'adamm'"),
        ({"top_k_eval_list": [0]}, "top_k_eval_list must be >= 1, got 0"),
        ({"iterations": None}, "iterations or epochs must be given, got neither"),
        ({"pretrained_rqvae_path": None, "dataset_folder": "nowhere"}, "must exist, got nowhere"),
    ],
)
def test_bad_settings_are_one_line(
    workshop, tmp_path: Path, sample_tokenizer: Path, settings: dict, message: str
) -> None:
    done = workshop.try_sasrec(tmp_path / "run", sample_tokenizer, **settings)
    assert done.returncode == 2
    errors = [line for line in done.stderr.splitlines() if not line.startswith("warning: ")]
    assert len(errors) == 1
    assert message in errors[0]
    assert not (tmp_path / "run").exists()


def test_a_run_that_loses_to_counting_says_so_and_what_to_change(
    workshop, sample_tokenizer: Path, tmp_path: Path
) -> None:
    words = {"iterations": 2, "test_at_end": False}
    done = workshop.try_sasrec(tmp_path / "short", sample_tokenizer, processes=1, **words)
    assert done.returncode == 0, done.stderr
    (line,) = (line for line in done.stdout.splitlines() if line.startswith("warning: "))
    assert "does not beat last-item co-occurrence, 0." in line
    assert line.endswith("so train longer, for example train.iterations=8")
    found = json.loads((tmp_path / "short" / "meta.json").read_text())["validation"]
    assert 0 <= found["recall@10"] < found["co-occurrence"]
