"""The results file: rows that stay, ranks beside them, and tables that say what they are."""

from __future__ import annotations

import dataclasses
import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from genrec.errors import ArtifactError, DataError, MissingPathError
from genrec.evaluation.results import (
    ResultRow,
    ResultsFile,
    mean_and_spread,
    pairs_table,
    results_table,
)


def metrics(value):
    names = ("recall@5", "recall@10", "ndcg@5", "ndcg@10")
    return {f"{hidden}{name}": value for hidden in ("", "hidden_") for name in names}


def row(model="generative", seed=0, value=0.05, **changes):
    made = ResultRow(
        model=model,
        seed=seed,
        data="beauty",
        data_fingerprint="abc",
        command=f"genrec benchmark x.gin --seed {seed}",
        commit="1234567",
        threads=2,
        seconds={"rqvae": 60.0, "decoder": 30.0},
        parameters=1_500_000,
        settings={"decoder": {"dropout_p": 0.1}},
        chosen={},
        metrics={"valid": metrics(value), "test": metrics(value - 0.01)},
    )
    return dataclasses.replace(made, **changes)


@pytest.fixture
def results(tmp_path):
    return ResultsFile(tmp_path / "new" / "beauty.jsonl")


def test_rows_come_back_in_order(results):
    assert results.rows() == []
    rows = [row(seed=2), row(seed=0, commit=None), row("SASRec · é")]
    for one in rows:
        results.append(one)
    assert results.rows() == rows
    assert results.path.read_text(encoding="utf-8").count("\n") == 3


def test_rows_never_change(results):
    results.append(row())
    before = results.path.read_bytes()
    with pytest.raises(DataError, match="each run once, got generative with seed 0 again"):
        results.append(row(value=0.9))
    assert results.path.read_bytes() == before
    results.append(row(seed=1))
    assert results.path.read_bytes().startswith(before)


def test_the_key_tells_runs_apart():
    changes = {"model": "x", "seed": 1, "data_fingerprint": "x", "command": "x"}
    keys = {row().key} | {dataclasses.replace(row(), **{k: v}).key for k, v in changes.items()}
    assert len(keys) == 5
    assert row(commit="other", seconds={}, threads=1).key == row().key


def test_several_writers_lose_nothing(results):
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda seed: ResultsFile(results.path).append(row(seed=seed)), range(12)))
    assert sorted(one.seed for one in results.rows()) == list(range(12))


def test_a_failed_append_leaves_the_file_alone(results, monkeypatch):
    results.append(row())
    before = results.path.read_bytes()
    with pytest.raises(ValueError, match="not JSON compliant"):
        results.append(row(seed=1, seconds={"fit": math.nan}), {"test": np.zeros(3, int)})
    assert not results.ranks_folder.exists()
    assert results.path.read_bytes() == before


def test_ranks_lie_beside(results):
    ranks = {"test": np.array([0, -1, 7]), "hidden_test": np.array([0, 3, -1])}
    results.append(row(), ranks)
    results.append(row(seed=1))
    first, second = results.rows()
    found = results.ranks(first)
    assert {name: array.tolist() for name, array in found.items()} == {
        "test": [0, -1, 7],
        "hidden_test": [0, 3, -1],
    }
    with pytest.raises(MissingPathError, match="ranks of generative with seed 1"):
        results.ranks(second)


@pytest.mark.parametrize("line", ["{", "[1]", '{"model": "x"}'])
def test_a_broken_line_is_named(results, line):
    results.append(row())
    with results.path.open("a") as file:
        file.write(f"{line}\n")
    with pytest.raises(ArtifactError, match=r"got line 2 of .*beauty\.jsonl"):
        results.rows()


def test_mean_and_spread():
    rows = [row(seed=seed, value=value) for seed, value in enumerate((0.04, 0.05, 0.06))]
    rows += [row("popularity", value=0.02), row("untested", metrics={})]
    found = mean_and_spread(rows, "valid", "recall@10")
    assert list(found) == ["generative", "popularity"]
    assert found["generative"] == pytest.approx((0.05, 0.01))
    assert found["popularity"][0] == 0.02
    assert math.isnan(found["popularity"][1])


def test_results_table():
    sid = {f"sid_{name}": 0.5 for name in metrics(0) if not name.startswith("hidden")}
    rows = [row(seed=0, value=0.04), row(seed=1, value=0.06)]
    rows = [dataclasses.replace(r, metrics={"valid": r.metrics["valid"] | sid}) for r in rows]
    rows.append(row("popularity", value=0.0123, parameters=0, seconds={"fit": 3}))
    table = results_table(rows, "valid", ks=(10,))
    command = "`genrec benchmark x.gin --seed 0`"
    mine, other = f"2 | 90 | 1,500,000 | {command} |", f"1 | 3.0 | 0 | {command} |"
    head = [
        "| model | level | R@10 | N@10 | seeds | seconds | parameters | command |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    items = [
        f"| generative | item | .0500 ± .0141 | .0500 ± .0141 | {mine}",
        f"| popularity | item | .0123 | .0123 | {other}",
    ]
    sids = [f"| generative | SID | .5000 ± .0000 | .5000 ± .0000 | {mine}"]
    assert table.splitlines() == [
        *("History not hidden", "", *head, *items, *sids, ""),
        *("History hidden", "", *head, *items),
    ]


def test_a_table_mixes_no_data():
    with pytest.raises(DataError, match="one data set, got beauty abc, beauty other"):
        results_table([row(), row(seed=1, data_fingerprint="other")], "test")


def test_pairs_table():
    rng = np.random.default_rng(0)
    good, bad = rng.integers(0, 3, (2, 400)), rng.integers(-1, 20, 400)
    lines = pairs_table({"a": good, "b": bad, "c": bad}, metric="recall@10").splitlines()
    assert lines[0] == "| first | second | difference in recall@10 | 95 % interval | p |"
    assert [line.split(" | ")[:2] for line in lines[2:]] == [
        ["| a", "b"],
        ["| a", "c"],
        ["| b", "c"],
    ]
    assert lines[2].endswith("| < .001 |")
    assert lines[4].endswith("| +0.0000 | +0.0000 to +0.0000 | 1.000 |")
