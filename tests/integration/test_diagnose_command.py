"""``genrec diagnose`` on runs of stage two and of the baseline, trained on the sample."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from genrec.cli import build_app


def diagnose(*words: object) -> Any:
    return CliRunner().invoke(build_app(), ["diagnose", *map(str, words)])


def test_a_run_that_has_hardly_begun_is_told_so(sample_decoder: Path) -> None:
    done = diagnose(sample_decoder, "--users", 200)
    assert done.exit_code == 0, done.output
    lines = done.output.splitlines()
    assert lines[0] == "generation: 200 of 2,000 validation users, history not hidden"
    assert "1. undertrained" in lines
    assert any(line.startswith("   try:  train.iterations = 24") for line in lines)
    assert "worse than counting" in done.output
    assert diagnose(sample_decoder, "--users", 200).output == done.output


def test_json_holds_what_the_tables_show(sample_decoder: Path) -> None:
    found = json.loads(diagnose(sample_decoder, "--json", "--users", 200).stdout)
    names = [level["name"] for level in found["levels"]]
    assert names == ["code 1", "code 2", "code 3", "dedup digit"]
    for buckets in (found["by_history"], found["by_popularity"]):
        assert sum(bucket["users"] for bucket in buckets) == found["users"] == 200
        weighed = sum(bucket["users"] * bucket["cooccurrence"] for bucket in buckets) / 200
        assert weighed == pytest.approx(found["overall"]["cooccurrence"])
    assert found["findings"][0]["trouble"] == "undertrained"
    meta = json.loads((sample_decoder / "meta.json").read_text())
    assert found["search"]["num_beams"] == meta["evaluation"]["num_beams"]


@pytest.mark.slow
def test_a_baseline_is_diagnosed_too(workshop: Any, sample_tokenizer: Path, tmp_path: Path) -> None:
    run = tmp_path / "sasrec"
    done = workshop.try_sasrec(run, sample_tokenizer, iterations=10, full_eval_every=0)
    assert done.returncode == 0, done.stderr
    found = json.loads(diagnose(run, "--json", "--users", 100).stdout)
    assert [level["name"] for level in found["levels"]] == ["item"]
    assert (found["sid_recall"], found["search"]) == (None, None)
    assert found["model"] == "SASRec"


def test_stage_one_is_diagnosed_as_before(sample_tokenizer: Path) -> None:
    found = json.loads(diagnose(sample_tokenizer, "--json").stdout)
    assert all(set(finding) == {"trouble", "evidence", "settings"} for finding in found)
    told = diagnose(sample_tokenizer, "--users", 9)
    assert told.exit_code == 2
    assert told.output.startswith("error: --users and --data must be left out of stage one's")


def test_wrong_input_is_one_line_and_status_two(sample_decoder: Path, tmp_path: Path) -> None:
    assert diagnose(sample_decoder, "--users", 0).exit_code == 2
    moved = tmp_path / "moved"
    shutil.copytree(sample_decoder, moved)
    meta = json.loads((moved / "meta.json").read_text())
    meta.pop("seal")  # edited by hand
    (moved / "meta.json").write_text(json.dumps(meta | {"prepared": str(tmp_path / "gone")}))
    lost = diagnose(moved)
    assert lost.exit_code == 2
    assert lost.output.startswith(f"error: data set of {moved} must still be at its place")
    assert "--data" in lost.output
    again = diagnose(moved, "--users", 50, "--data", meta["prepared"])
    assert again.exit_code == 0, again.output
    (moved / "metrics.jsonl").unlink()  # then nothing is known of the way
    assert diagnose(moved, "--users", 50, "--data", meta["prepared"]).exit_code == 0
