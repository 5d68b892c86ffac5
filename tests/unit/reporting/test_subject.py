from __future__ import annotations

import math
import shutil

import pytest

from genrec.atomic import read_json, write_json_atomic
from genrec.errors import ArtifactError, DataError, MissingPathError
from genrec.reporting.subject import (
    Missing,
    attempt,
    check_same_data,
    find_stage_one,
    open_subject,
    read_log,
)
from genrec.trained import open_data


def test_the_log_is_read_by_name(tmp_path):
    file = tmp_path / "metrics.jsonl"
    assert read_log(file) == {}
    file.write_text(
        '{"step": 2, "train/loss": null}\n'
        '{"step": 4, "train/loss": 2, "valid/recall@10": 0.5}\n'
        '{"step": 4, "train/loss": 1.5}\n'
        '{"step": 3, "train/loss": 2.5}\n'
    )
    found = read_log(file)
    assert set(found) == {"train/loss", "valid/recall@10"}
    assert [step for step, _ in found["train/loss"]] == [2, 3, 4]
    assert math.isnan(found["train/loss"][0][1])
    assert found["train/loss"][1:] == ((3, 2.5), (4, 1.5))


@pytest.mark.parametrize("line", [b"{", b"[]", b"3", b'{"train/loss": 1}', b"\xff\xfe"])
def test_a_damaged_line_is_left_out_with_a_warning(tmp_path, line):
    file = tmp_path / "metrics.jsonl"
    file.write_bytes(b'{"step": 1, "train/loss": 3}\n' + line + b"\n")
    with pytest.warns(UserWarning, match="1 damaged lines, left out"):
        assert read_log(file) == {"train/loss": ((1, 3.0),)}


def test_only_errors_in_the_input_leave_a_part_out():
    def refuse() -> int:
        raise DataError("no  users\nhere")

    assert attempt(refuse) == Missing("no users here")
    assert attempt(int, "7") == 7
    with pytest.raises(ZeroDivisionError):
        attempt(divmod, 1, 0)


def test_runs_are_opened_as_what_they_are(shop):
    stage_one, items, sasrec = map(open_subject, (shop.stage_one, shop.items, shop.sasrec))
    assert stage_one.is_stage_one
    assert (stage_one.trained, stage_one.table is None) == (None, False)
    assert items.trained.ranker.name == "generation"
    assert items.table.num_levels == 3
    assert sasrec.table is None
    assert open_data(stage_one).fingerprint == shop.data.fingerprint
    with pytest.raises(MissingPathError, match=r"RUN must be a folder with meta\.json"):
        open_subject(shop.data.path.parent / "nowhere")


def test_stage_one_is_found_from_the_run(shop, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    subject = open_subject(shop.items)
    assert find_stage_one(subject) == shop.stage_one
    with pytest.raises(MissingPathError, match="takes no semantic IDs"):
        find_stage_one(open_subject(shop.sasrec))
    moved = tmp_path / "moved"
    shutil.copytree(shop.items, moved)
    with pytest.raises(MissingPathError, match="no longer at runs/rqvae/shop"):
        find_stage_one(open_subject(moved))
    other = tmp_path / "runs" / "rqvae" / "shop"
    shutil.copytree(shop.stage_one, other)
    assert find_stage_one(open_subject(moved)).resolve() == other
    meta = read_json(other / "semantic_ids" / "meta.json")
    write_json_atomic(other / "semantic_ids" / "meta.json", meta | {"quantizer_digest": "0"})
    with pytest.raises(MissingPathError, match="trained anew"):
        find_stage_one(open_subject(moved))


def test_runs_on_different_data_are_refused(shop, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(shop.sasrec, other)
    meta = read_json(other / "meta.json")
    write_json_atomic(other / "meta.json", meta | {"log_fingerprint": "0"})
    subjects = [open_subject(path) for path in (shop.items, shop.stage_one, other)]
    check_same_data(subjects[:2])
    with pytest.raises(ArtifactError, match=f"RUNS must have been trained on one .*{other}"):
        check_same_data(subjects)
