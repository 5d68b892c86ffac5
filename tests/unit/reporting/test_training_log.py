from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from genrec.reporting.training_log import TrainingLog


def write(folder: Path, rows: list[dict[str, Any]]) -> Path:
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_curves_are_read_and_what_is_not_finite_is_left_out(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"step": 50, "train/loss": 4.0},
        {"step": 100, "train/loss": None},
        {"step": 100, "valid/recall@5": 0.1, "valid/recall@20": 0.3, "valid/recall@12": 0.2},
        {"step": 150, "train/loss": 3.0},
        {"step": 150, "train/loss": 2.5},  # again, after going on from step 100
        {"step": 150, "valid_partial/recall@12": 0.9},
    ]
    log = TrainingLog.read(write(tmp_path, rows))
    assert log == TrainingLog(((50, 4.0), (150, 2.5)), ((100, 0.2),), "recall@12")
    assert log.loss_at(140) == 2.5
    assert log.loss_at(60) == 4.0


def test_no_log_and_an_empty_one_say_nothing(tmp_path: Path) -> None:
    assert TrainingLog.read(tmp_path) == TrainingLog()
    assert TrainingLog.read(write(tmp_path, [])) == TrainingLog()
    assert TrainingLog().late_fall is None


def test_the_late_fall_is_that_of_the_last_fifth() -> None:
    values = [9.0, 8.0, 7.0, 6.0, 5.0, 5.0, 4.0, 2.0, 1.0, 2.0]
    log = TrainingLog(tuple(enumerate(values)))
    assert log.late_fall == pytest.approx(1 - 1.5 / 3.0)
    assert TrainingLog(tuple(enumerate(values[:4]))).late_fall is None
