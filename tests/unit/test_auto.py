"""The recipe that `genrec train auto` picks, and why."""

from __future__ import annotations

import dataclasses
import shlex
from pathlib import Path

import numpy as np
import pytest

from genrec.auto import ADJUSTMENTS, RULES, Facts, choose, facts_of, minutes, pick, rules_table
from genrec.errors import ConfigError, DataError, MissingPathError
from genrec.stages import Options, plan

README = Path(__file__).resolve().parent.parent.parent / "README.md"
BEAUTY = Facts(
    users=22_363,
    items=12_101,
    interactions=153_776,
    median_length=4,
    repeats=0.0,
    cores=2,
    gpu=False,
)


@pytest.mark.parametrize(
    ("change", "recipe", "settings"),
    [
        ({}, "amazon", set()),
        ({"items": 3_000}, "sample", set()),
        ({"items": 3_001}, "amazon", set()),
        ({"median_length": 70}, "movielens", set()),
        ({"repeats": 0.3}, "amazon", set()),  # the recipe counts them itself
        ({"items": 200_000}, "amazon", {"decoder.num_negatives=1024", "decoder.root_items=False"}),
    ],
)
def test_the_choice(change, recipe, settings):
    choice = choose(dataclasses.replace(BEAUTY, **change))
    assert choice.recipe == recipe
    assert settings <= set(choice.bindings)
    assert bool(settings) == bool(choice.bindings)
    assert ("decoder.num_negatives=1024" in choice.bindings) == (change == {"items": 200_000})


def test_beauty_takes_what_its_recipe_says():
    assert minutes(BEAUTY) == 9
    assert minutes(dataclasses.replace(BEAUTY, cores=1)) == 18
    assert "22,363 users with two items to train on or more, 12,101 items, hist" in str(BEAUTY)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.then[0])
def test_every_recipe_and_every_setting_exists(rule, tmp_path, monkeypatch, write_data):
    monkeypatch.chdir(tmp_path)
    data = write_data(tmp_path / "data", [*"abc"], sequences=[[0, 1, 2, 0, 1]])
    settings = [word for more in ADJUSTMENTS for word in more.then]
    steps = plan(rule.then, Options(data=str(data.path), bindings=settings))
    assert [step.stage for step in steps] == ["rqvae", "decoder"]


def test_facts_are_of_the_training_part(tmp_path, write_data):
    sequences = [np.array(row) for row in ([0, 1, 0, 1, 2, 2], [3, 4, 0, 1], [2])]
    facts = facts_of(write_data(tmp_path / "data", [*"abcde"], sequences=sequences))
    assert (facts.users, facts.items, facts.interactions) == (2, 5, 7)
    assert facts.median_length == 3  # of four and two
    assert facts.repeats == pytest.approx(2 / 7)
    lonely = write_data(tmp_path / "lonely", [*"ab"], sequences=[[0], [1]])
    with pytest.raises(DataError, match="auto must have users with two interactions to train on"):
        facts_of(lonely)


def test_the_word_becomes_a_recipe(tmp_path, write_data, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = write_data(tmp_path / "my shop", [*"abc"], sequences=[[0, 1, 2, 0, 1]] * 3)
    given = Options(data=str(data.path), bindings=["decoder.num_beams=7"])
    words, options, lines = pick(["auto"], given)
    assert list(words) == ["sample"]
    steps = plan(words, options)
    assert [str(step.run) for step in steps] == ["runs/rqvae/my shop", "runs/decoder/my shop"]
    assert steps[1].settings.num_beams == 7
    assert lines[1] == "auto: at most 3,000 items: " + RULES[0].why
    assert "about 1 min for both stages" in "".join(lines)
    assert "2 min x 3 of 12,101 items, and 7 min x 9 of 153,776 inte" in "".join(lines)
    # What it says to be the same is the same.
    typed = shlex.split(lines[-1].partition("the same as ")[2])
    assert typed[:5] == ["genrec", "train", "sample", "--data", str(data.path)]
    assert [w for w in typed if w.startswith("decoder.")] == list(options.bindings)
    assert pick(["sample"], given) == (["sample"], given, [])


def test_a_source_is_prepared(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    shop = tmp_path / "shop"
    shop.mkdir()
    (shop / "items.csv").write_text("item_id,title\na,red cup\nb,blue cup\nc,green fork\n")
    log = "".join(f"u{user},{item},{at}\n" for user in range(3) for at, item in enumerate("abcab"))
    (shop / "interactions.csv").write_text("user_id,item_id,time\n" + log)
    words, options, _ = pick(["auto"], Options(data="shop"))
    assert list(words) == ["sample"]
    assert options.name == "shop"
    assert Path(options.data).parent == Path("data/processed")
    assert capsys.readouterr().out == "auto: preparing shop with the encoder tfidf\n"


@pytest.mark.parametrize(
    ("words", "data", "error", "message"),
    [
        (["auto", "sample"], "x", ConfigError, "auto must stand alone, got auto sample"),
        (["auto"], None, ConfigError, "auto must have data to choose by, got none; add --data"),
        (["auto"], "nowhere", MissingPathError, "--data must be an existing folder, got nowhere"),
    ],
)
def test_mistakes(words, data, error, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=message):
        pick(words, Options(data=data))
    assert list(tmp_path.iterdir()) == []


def test_the_readme_has_the_rules():
    assert rules_table() in README.read_text(encoding="utf-8")
