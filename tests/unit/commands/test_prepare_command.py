"""``genrec prepare`` as a user types it."""

from __future__ import annotations

import json
import shlex
import warnings
from pathlib import Path

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from genrec.commands.prepare import app_command, prepare_source
from genrec.data.fetch import releases
from genrec.data.prepared import PreparedDataset

ITEMS = "id,name,colour,weight\n1,Red Cup,red,5\n2,Blue Cup,blue,6\n3,Green Fork,green,7\n"
LOG = "who,what,when\n" + "".join(
    f"{who},{what},2024-01-{day:02d}\n"
    for day, (who, what) in enumerate([(7, 1), (7, 2), (7, 3), (8, 3), (8, 1), (8, 2)], start=1)
)


@pytest.fixture
def run():
    app = typer.Typer()

    @app.callback()
    def root() -> None: ...

    app_command(app)

    def call(*arguments):
        return CliRunner().invoke(app, ["prepare", *map(str, arguments)])

    return call


@pytest.fixture
def shop(tmp_path):
    folder = tmp_path / "shop"
    folder.mkdir()
    (folder / "catalogue.csv").write_text(ITEMS)
    (folder / "log.csv").write_text(LOG)
    return folder


COLUMNS = ["--interactions", "log.csv", "--items", "catalogue.csv", "--user-column", "who",
           "--item-column", "what", "--time-column", "when"]  # fmt: skip


def test_tables_of_your_own(run, shop, tmp_path):
    out = tmp_path / "out"
    done = run(shop, "--out", out, *COLUMNS, "--text-column", "colour", "--text-column", "name",
               "--raw-dir", tmp_path / "raw")  # fmt: skip
    assert done.exit_code == 0, done.output
    data = PreparedDataset.load(out)
    assert list(data.item_keys) == ["1", "2", "3"]
    assert data.item_texts[0] == "Colour: red; Name: Red Cup"
    assert data.sequence_items.tolist() == [0, 1, 2, 2, 0, 1]
    assert "rejected rows: 0" in done.output
    assert "time span: 2024-01-01" in done.output
    assert f"wrote {out}" in done.output
    card = json.loads((out / "meta.json").read_text())["card"]
    assert card["columns"]["user"] == "who"
    assert card["interactions"] == 6


def test_options_reach_the_pipeline(run, shop, tmp_path):
    np.save(tmp_path / "v.npy", np.array([[1.0, np.nan], [2.0, 0.0], [3.0, 0.0]]))
    (tmp_path / "keys").write_text("3\n1\n2\n")
    done = run(
        shop, "--out", tmp_path / "out", *COLUMNS, "--encoder", tmp_path / "v.npy",
        "--vector-keys", tmp_path / "keys", "--replace-non-finite", "--k-core", 1,
        "--split-rule", "global-time", "--valid-share", 0.2, "--test-share", 0.2,
        "--repeats", "last", "--ties", "file", "--text-template", "{name}",
        "--raw-dir", tmp_path / "raw",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    data = PreparedDataset.load(tmp_path / "out")
    assert data.item_embeddings.tolist() == [[2, 0], [3, 0], [1, 0]]
    assert data.meta["split_rule"] == "global-time"
    assert data.meta["card"]["options"]["repeats"] == "last"
    assert data.item_texts[1] == "Blue Cup"


def test_the_card_counts_the_columns_of_a_template(run, shop, tmp_path):
    """Given with the command or kept from --like: what the text is made of is used."""
    raw = ["--raw-dir", tmp_path / "raw"]
    first, second = tmp_path / "first", tmp_path / "second"
    done = run(shop, "--out", first, *COLUMNS, *raw, "--text-template", "{name} {colour} {name}")
    assert "text name, colour (of the text template)" in done.output
    run(shop, "--out", second, *COLUMNS, *raw, "--like", first)
    for out in (first, second):
        card = json.loads((out / "meta.json").read_text())["card"]
        assert card["columns"]["text"] == "name, colour (of the text template)"
        assert card["columns_not_used"] == {"catalogue.csv": "weight"}
    with warnings.catch_warnings():
        warnings.simplefilter("always")  # shown, as a user sees it
        done = run(
            shop, "--out", second, *COLUMNS, *raw, "--force",
            "--text-template", "{weight}", "--text-column", "name",
        )  # fmt: skip
    assert "warning: --text-column has no effect beside --text-template, got name" in done.stderr
    card = json.loads((second / "meta.json").read_text())["card"]
    assert card["columns_not_used"] == {"catalogue.csv": "colour"}
    assert card["columns"]["title"] == "name (guessed)"


def test_a_prepared_set_is_replaced_with_force_and_nothing_else(run, shop, tmp_path):
    out, raw = tmp_path / "out", ["--raw-dir", tmp_path / "raw"]
    assert run(shop, "--out", out, *COLUMNS, *raw).exit_code == 0
    before = (out / "meta.json").stat().st_mtime_ns
    done = run(shop, "--out", out, *COLUMNS, *raw)
    assert done.exit_code == 2
    assert "on which runs may rest; choose another folder, or add --force" in done.stderr
    assert (out / "meta.json").stat().st_mtime_ns == before
    assert run(shop, "--out", out, *COLUMNS, *raw, "--force").exit_code == 0
    (out / "notes.txt").write_text("mine")
    done = run(shop, "--out", out, *COLUMNS, *raw, "--force")
    assert done.exit_code == 2
    assert "hold a prepared data set and nothing else, got" in done.stderr
    assert (out / "notes.txt").read_text() == "mine"
    assert (out / "meta.json").stat().st_mtime_ns != before
    for force in ([], ["--force"]):
        assert run(shop, "--out", shop, *COLUMNS, *force).exit_code == 2
    assert (shop / "log.csv").read_text() == LOG


def test_new_items_lie_among_the_old_ones(run, shop, tmp_path):
    """Fitted anew, TF-IDF gives every old item another vector."""
    raw = ["--raw-dir", tmp_path / "raw"]
    names = [*COLUMNS, "--text-column", "name"]
    assert run(shop, "--out", tmp_path / "old", *names, *raw).exit_code == 0
    (shop / "catalogue.csv").write_text(ITEMS + "4,Red Mug,red,5\n5,Pink Fork,pink,4\n")
    old = PreparedDataset.load(tmp_path / "old")
    like = ["--like", tmp_path / "old", "--text-column", "colour"]  # its template counts
    done = run(shop, "--out", tmp_path / "few", *names, *raw, *like)
    assert "2 items that nobody took are left out; --keep-unseen-items keeps them" in done.output
    done = run(shop, "--out", tmp_path / "new", *names, *raw, *like, "--keep-unseen-items")
    assert done.exit_code == 0, done.output
    new = PreparedDataset.load(tmp_path / "new")
    assert list(new.item_keys) == ["1", "2", "3", "4", "5"]
    assert list(new.item_texts[:3]) == list(old.item_texts)
    assert np.array_equal(new.item_embeddings[:3], old.item_embeddings)
    assert new.item_embeddings[3] @ new.item_embeddings[0] > 0.3


def test_names_that_were_given_once_count_for_what_is_like_it(run, shop, tmp_path):
    raw = ["--raw-dir", tmp_path / "raw"]
    (shop / "log.csv").write_text(LOG.replace("2024-01-", "2024/01/"))
    form = ["--time-format", "%Y/%m/%d", "--item-key-column", "weight", "--item-column", "what"]
    odd = ITEMS.replace(",5", ",1").replace(",6", ",2").replace(",7", ",3").replace("id", "code")
    (shop / "catalogue.csv").write_text(odd)
    done = run(shop, "--out", tmp_path / "old", *COLUMNS, *form, *raw)
    assert done.exit_code == 0, done.output
    (shop / "catalogue.csv").write_text(odd + "9,Red Mug,red,4\n")
    tables = ["--interactions", "log.csv", "--items", "catalogue.csv", *raw]
    like = ["--like", tmp_path / "old", "--keep-unseen-items"]
    done = run(shop, "--out", tmp_path / "new", *tables, *like)
    assert done.exit_code == 0, done.output
    new = PreparedDataset.load(tmp_path / "new")
    assert (list(new.item_keys), list(new.user_keys)) == ([*"1234"], [*"78"])
    again = run(shop, "--out", tmp_path / "third", *tables, "--like", tmp_path / "new")
    assert again.exit_code == 0, again.output
    # A column that is gone is guessed anew, and asked for where it cannot be.
    (shop / "log.csv").write_text(LOG.replace("who", "wer", 1))
    done = run(shop, "--out", tmp_path / "fourth", *tables, *like)
    assert done.exit_code == 2
    assert "must have a column for the user, got wer, what, when" in done.stderr


def test_the_command_to_send_has_all_that_was_typed(run, shop, tmp_path):
    out = tmp_path / "my out"
    typed = ["--interactions", "log.csv", "--items", "catalogue.csv", "--keep-unseen-items"]
    typed += ["--text-column", "name", "--text-column", "colour", "--raw-dir", tmp_path / "raw"]
    done = run(shop, "--out", out, *typed)
    assert done.exit_code == 2
    command = done.stderr.partition("for example ")[2].strip()
    words = shlex.split(command)
    assert words[:2] == ["genrec", "prepare"]
    assert words[2:4] == [str(shop), "--out"]
    assert {str(word) for word in [out, *typed]} <= set(words)
    done = run(*words[2:])
    assert done.exit_code == 0, done.output
    assert PreparedDataset.load(out).num_users == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{shop}", "--out", "{shop}", *COLUMNS], "--out must be new or empty, or hold a prep"),
        (
            ["{shop}", "--out", "{out}"],
            "for the user, the item, the time, got who, what, when",
        ),
        (["{shop}/log.csv", "--out", "{out}"], "--interactions log.csv --items <items file>"),
        (["{shop}/..", "--out", "{out}"], "SOURCE must hold a release"),
        (["beuty", "--out", "{out}"], "got 'beuty'; did you mean beauty"),
        (
            ["{shop}", "--out", "{out}", "--dataset", "ml"],
            "error: --dataset must be one of the known",
        ),
        (["{shop}", "--out", "{out}", "--dataset", "ml-1m"], "ml-1m must hold ratings.dat"),
        (["{shop}", "--out", "{out}", *COLUMNS[:-1], "whn"], "got 'whn'"),
        (
            ["{shop}", "--out", "{out}", *COLUMNS, "--time-format", "%d/%m/%Y"],
            "have the --time-format '%d/%m/%Y', got '2024-01-01' in 'when'",
        ),
        (["{shop}", "--out", "{out}", *COLUMNS, "--min-rating", "3"], "leave --min-rating out"),
        (["{shop}", "--out", "{out}", *COLUMNS, "--k-core", "9"], "keep at least one interaction"),
        (
            ["{shop}", "--out", "{out}", *COLUMNS, "--encoder", "x.npy"],
            "embeddings file must exist",
        ),
        (["{shop}", "--out", "{out}", *COLUMNS, "--like", "{shop}"], "--like must be a prepared"),
        (["{shop}", "--out", "{out}", *COLUMNS, "--ties", "no"], "error: --ties must be"),
        (["{shop}", "--out", "{out}", *COLUMNS, "--min-user", "-1"], "error: --min-user must be"),
        (["{shop}", "--out", "{out}", *COLUMNS, "--encoder", "tfidf:x"], "error: --encoder must"),
        (["{shop}", "--out", "{out}", *COLUMNS, "--text-template", "{{x}}"], "got 'x'"),
    ],
)
def test_bad_input_is_one_line_and_status_2(run, shop, tmp_path, arguments, message):
    filled = [a.format(shop=shop, out=tmp_path / "out") for a in arguments]
    done = run(*filled)
    assert done.exit_code == 2, done.output
    lines = done.stderr.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    assert message in lines[0]
    assert not (tmp_path / "out").exists()


def test_a_release_by_name_is_fetched(tmp_path, monkeypatch, capsys):
    """The whole way from a name to arrays, with the network replaced by a folder."""
    contents = {
        "reviews_Beauty_5.json.gz": "".join(
            f'{{"reviewerID": "A{k}", "asin": "B{j}", "unixReviewTime": {j}, "overall": 5.0}}\n'
            for k in range(3)
            for j in range(4)
        ),
        "meta_Beauty.json.gz": "".join(
            f"{{'asin': 'B{j}', 'title': 'Soap {j}'}}\n" for j in range(4)
        ),
    }

    def fetch(url, destination, **_):
        destination.parent.mkdir(parents=True, exist_ok=True)
        destination.write_text(contents[Path(url).name])
        return destination

    monkeypatch.setattr(releases, "fetch", fetch)
    data = prepare_source("beauty", tmp_path / "out", raw_dir=tmp_path / "raw")
    assert data.sequence_items.tolist() == [0, 1, 2, 3] * 3
    assert "Amazon 2014, 5-core, Beauty" in capsys.readouterr().out


def test_a_catalogue_alone(run, shop, tmp_path):
    (shop / "log.csv").unlink()
    out = tmp_path / "out"
    done = run(shop, "--out", out, "--items", "catalogue.csv", "--items-only",
               "--raw-dir", tmp_path / "raw")  # fmt: skip
    assert done.exit_code == 0, done.output
    data = PreparedDataset.load(out)
    assert list(data.item_keys) == ["1", "2", "3"]
    assert (data.num_users, data.num_interactions) == (0, 0)
    assert data.meta["card"]["items_without_interactions"] == 3
