"""The run that a folder means."""

from __future__ import annotations

import pytest

from genrec.errors import ConfigError, MissingPathError
from genrec.runs import find_run
from genrec.training.tokenizer_run import find_tokenizer


def make(folder):
    (folder / "step_1").mkdir(parents=True)
    (folder / "meta.json").write_text("{}")
    return folder


def test_a_run_is_itself(tmp_path, capsys):
    run = make(tmp_path / "run")
    make(run / "other")  # inside a run nothing is looked for
    assert find_run(run) == run
    assert capsys.readouterr().err == ""


def test_the_only_run_below_is_opened_and_said(tmp_path, capsys):
    run = make(tmp_path / "amazon" / "beauty")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "meta.json").write_text("{}")  # a prepared data set
    assert find_run(tmp_path) == find_run(tmp_path / "amazon") == run
    assert f"taking the run below it, {run}" in capsys.readouterr().err


def test_several_are_named(tmp_path):
    runs = [make(tmp_path / name) for name in ("beauty", "toys")]
    with pytest.raises(ConfigError, match=f"2 runs below it; name one of {runs[0]}, {runs[1]}"):
        find_run(tmp_path)


def test_where_there_is_none_the_folder_stays(tmp_path):
    assert find_run(tmp_path) == tmp_path
    assert find_run(tmp_path / "nowhere") == tmp_path / "nowhere"


def test_stage_one_is_found_below_its_folder(tmp_path):
    run = make(tmp_path / "amazon" / "beauty")
    make(run / "semantic_ids")
    make(tmp_path / "amazon" / "unfinished")  # without IDs
    assert find_tokenizer(str(tmp_path / "amazon"), None) == run
    with pytest.raises(MissingPathError, match=r"got .*amazon/toys"):
        find_tokenizer(str(tmp_path / "amazon"), "toys")
    make(make(tmp_path / "amazon" / "toys") / "semantic_ids")
    with pytest.raises(ConfigError, match="name one of"):
        find_tokenizer(str(tmp_path / "amazon"), None)
