"""New items of the sample, added to a finished stage one with the encoder that it keeps."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from genrec.cli import build_app
from genrec.commands.prepare import prepare_source
from genrec.data.options import PrepareOptions
from genrec.data.sample import write_sample
from genrec.tokenizer.semantic_id import SemanticIdTokenizer
from genrec.training.rqvae import RqVaeSettings, train

NUM_NEW = 20


@pytest.fixture(scope="module")
def shop(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("shop")
    write_sample(folder)
    return folder


@pytest.fixture(scope="module")
def run(shop: Path) -> Path:
    return train(
        RqVaeSettings(
            dataset="sample",
            dataset_folder=str(shop),
            processed_dir=str(shop / "processed"),
            save_dir_root=str(shop / "run"),
            tokenizer="residual_kmeans",
            vae_codebook_size=32,
        )
    )


@pytest.fixture(scope="module")
def grown(shop: Path) -> Path:
    """The shop with twenty more items, each of them a known one under another key and name."""
    folder = shop / "grown"
    folder.mkdir()
    shutil.copy(shop / "interactions.csv", folder)
    with (shop / "items.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    twins = [
        {**row, "item_id": f"A-{row['item_id']}", "title": row["title"] + " edition"}
        for row in rows[:: len(rows) // NUM_NEW][:NUM_NEW]
    ]
    with (folder / "items.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows + twins)
    return folder


def tokenize(run: Path, data: Path):
    words = ["tokenize", str(run), "--extend", "--data", str(data)]
    return CliRunner().invoke(build_app(), words)


def prepared(grown: Path, run: Path | None, name: str, *, keep: bool) -> Path:
    options = PrepareOptions(keep_unseen_items=keep)
    return prepare_source(
        str(grown), grown / name, dataset="sample", like=run, options=options
    ).path


def test_new_items_get_the_codes_of_their_kind(run: Path, grown: Path) -> None:
    old = SemanticIdTokenizer.load(run)
    done = tokenize(run, prepared(grown, run, "like", keep=True))
    assert done.exit_code == 0, done.output
    table = SemanticIdTokenizer.load(run / "semantic_ids-extended")
    assert np.array_equal(table.ids[: old.num_items], old.ids)
    added = table.item_keys[old.num_items :]
    twins = [old.item_keys.index(key.removeprefix("A-")) for key in added]
    same = table.ids[old.num_items :, 0] == old.ids[twins, 0]
    assert same.mean() >= 0.8


def test_an_encoder_fitted_anew_is_refused(run: Path, grown: Path) -> None:
    done = tokenize(run, prepared(grown, None, "anew", keep=True))
    assert done.exit_code == 2
    assert "must have the vectors that it was trained on, got other ones for" in done.stderr


def test_items_that_nobody_took_are_not_lost_without_a_word(run: Path, grown: Path, capsys) -> None:
    data = prepared(grown, run, "few", keep=False)
    assert f"{NUM_NEW} items that nobody took are left out" in capsys.readouterr().out
    done = tokenize(run, data)
    assert done.exit_code == 2
    assert f"{NUM_NEW} items of its source were left out because nobody took them" in done.stderr


def test_items_that_are_gone_and_items_of_no_word_are_told(
    run: Path, grown: Path, tmp_path
) -> None:
    folder = shutil.copytree(grown, tmp_path / "changed", ignore=shutil.ignore_patterns("*/"))
    with (grown / "items.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    gone = rows[3]["item_id"]
    silent = {**dict.fromkeys(rows[0], ""), "item_id": "A-silent"}
    with (folder / "items.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows([row for row in rows if row["item_id"] != gone] + [silent])
    lines = (grown / "interactions.csv").read_text(encoding="utf-8").splitlines(keepends=True)
    kept = [line for line in lines if gone not in line]
    (folder / "interactions.csv").write_text("".join(kept), encoding="utf-8")
    words = ["--out", str(tmp_path / "ids")]
    data = prepared(folder, run, "prepared", keep=True)
    done = CliRunner().invoke(
        build_app(), ["tokenize", str(run), "--extend", "--data", str(data), *words]
    )
    assert done.exit_code == 0, done.output
    assert "note: 1 items of the table are not in" in done.stderr
    assert "1 new items have no word that the encoder knows, for example A-silent" in done.stderr
