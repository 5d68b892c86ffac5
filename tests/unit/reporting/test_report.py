from __future__ import annotations

import errno
import html
import itertools
import json
import os
import re
import shutil
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

pytest.importorskip("matplotlib", reason="the report needs matplotlib: extra report")

from genrec.atomic import read_json, write_json_atomic
from genrec.commands.report import app_command
from genrec.errors import ArtifactError, ConfigError, MissingPathError
from genrec.reporting.report import Told, build_report, write_report

TOLD = Told(users=20, choose=lambda data: [0, 9])
VOID = {"meta", "link", "rect", "path", "use", "br", "img"}


class Page(HTMLParser):
    """What a browser would make of a page.

    Attributes:
        tags: Every element with its attributes, in order.
        text: All text outside scripts and styles.
        headings: Those of the first three ranks.
        data: What the page's own script reads.
        open: Elements that are not closed.
    """

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.headings: list[str] = []
        self.scripts: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()
        self.text = " ".join(" ".join(self.words).split())
        self.data = json.loads(self.scripts[0])

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "script":
            self.scripts.append("")

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1:] == ["script"]:
            self.scripts[-1] += data
        elif self.open[-1:] != ["style"]:
            self.words.append(data)
            if self.open and self.open[-1] in ("h1", "h2", "h3"):
                self.headings.append(data)

    def of(self, *names: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.tags if tag in names]


@pytest.fixture(scope="module")
def text(shop) -> str:
    """The report of one run of each kind."""
    return build_report([shop.decoder, shop.items, shop.sasrec], TOLD)


@pytest.fixture(scope="module")
def page(text) -> Page:
    return Page(text)


def test_hostile_words_stay_words(page, shop):
    assert page.open == []
    assert page.of("img") == []
    assert len(page.of("script")) == 2
    assert all("onerror" not in attributes for _, attributes in page.tags)
    hostile = "</script><img src=x onerror=alert(1)>{{7*7}}"
    for words in (f"nail polish 0 {hostile}", f"Report on shop {hostile}", f"user-0{hostile}"):
        assert words in page.text
    assert "49" not in page.data["items"][shop.data.items_fingerprint]["titles"][0]
    titles = page.data["items"][shop.data.items_fingerprint]["titles"]
    assert titles[:3] == [shop.data.item_titles[row] for row in range(3)]
    assert titles[3] == shop.data.item_keys[3]  # an item without a title is shown by its key


def test_the_page_needs_nothing_else(text, page):
    assert re.findall(r"https?://", re.sub(r"http://www\.w3\.org/\S+", "", text)) == []
    links = [a.get("href") or a.get("src") for a in page.of("a", "link", "script", "img")]
    assert [link for link in links if link and not link.startswith(("#", "data:"))] == []
    (policy,) = [a for a in page.of("meta") if a.get("http-equiv")]
    assert policy["content"].startswith("default-src 'none'")
    assert len(text) < 400_000


def test_the_page_is_built_for_everybody(page):
    ids = Counter(attributes["id"] for _, attributes in page.tags if attributes.get("id"))
    assert [name for name, count in ids.items() if count > 1] == []
    targets = [a["href"][1:] for a in page.of("a")]
    assert len(targets) == 9
    assert set(targets) <= set(ids)
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    assert all(a.get("scope") in ("col", "row") for a in page.of("th"))
    images = [a for _, a in page.tags if a.get("role") == "img"]
    assert len(images) > 10
    assert all(len(a["aria-label"]) > 20 for a in images)
    assert all(
        a.get("aria-label") and a["tabindex"] == "0"
        for _, a in page.tags
        if a.get("role") == "region"
    )
    assert [a["lang"] for a in page.of("html")] == ["en"]


def test_everything_that_was_asked_for_is_there(page, shop):
    headings = [
        "How good the recommendations are",
        "Where they are good",
        "Diagnosis, and what to try next",
        "Recommendations to some users",
        "What the codes mean",
        "Map of the items",
        "Tree of prefixes",
        "Use of the codes",
        "Items with equal codes",
        "How training went",
        "What was run",
        "Settings in which the runs differ",
        "Data",
    ]
    assert [words for words in page.headings if words in headings] == headings
    for words in (
        "genrec train </script>",  # the command, without the folder of the program
        "1 min 15 s for 5 steps",
        "popularity",
        "co-occurrence",
        "History hidden",
        "uniform over legal codes",
        "Loss of each code",
        "Scores all items; writes no codes.",
        "learning_rate",
        "nail polish 100",
    ):
        assert words in page.text, words
    (table,) = page.data["tables"]
    assert [len(column) for column in table["codes"]] == [32] * 3
    assert len(table["x"]) == len(table["y"]) == 32
    assert {*table["words"]} == {str(code) for code in table["codes"][0]}
    assert "generation decoder/shop" in page.text  # two of one kind are told apart
    assert "generation items/shop" in page.text
    assert page.of("code")


def test_items_with_equal_codes_are_counted_before_and_after_repair(page, shop):
    """The two items that lie at one place have equal codes whatever the quantiser."""
    codes = np.array(page.data["tables"][0]["codes"]).T
    assert codes[0, :2].tolist() == codes[1, :2].tolist()
    _, sizes = np.unique(codes[:, :2], axis=0, return_counts=True)
    shared = int(sizes[sizes > 1].sum())
    table = re.search(r"same codes before repair after 1, alone (\d+) (\d+) (.*?)The", page.text)
    assert (int(table[1]), int(table[2])) == (len(codes) - shared, len(codes))
    assert shared >= 2


def test_metrics_at_hand_are_reused(shop, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(shop.sasrec, run)
    names = [f"{h}{m}" for h in ("", "hidden_") for m in ("mrr", "coverage")]
    names += [
        f"{h}{m}@{k}" for h in ("", "hidden_") for m in ("recall", "ndcg") for k in (1, 5, 10)
    ]
    row = dict.fromkeys(names, 0.4321) | {"users": 30.0, "users_per_s": 1.0}
    write_json_atomic(
        run / "metrics.json", {"test": {"settings": {"max_history": 4}, "SASRec": row}}
    )
    found = Page(build_report([run], TOLD)).text
    assert "0.4321" in found
    assert "Taken from the runs' metrics.json : SASRec." in found
    again = Page(build_report([run], Told(users=20, split="valid"))).text
    assert "0.4321" not in again
    assert "Valid split" in again


def test_parts_that_do_not_apply_say_why(shop, tmp_path, capsys):
    alone = Page(build_report([shop.stage_one], TOLD)).text
    assert alone.count("Left out: no run that recommends was given, only stage one.") == 3
    assert "What the codes mean" in alone
    plain = Page(build_report([shop.sasrec], TOLD)).text
    assert "Left out: none of the runs has semantic IDs." in plain
    moved = tmp_path / "moved"
    shutil.copytree(shop.items, moved)
    meta = read_json(moved / "meta.json")
    write_json_atomic(moved / "meta.json", meta | {"prepared": str(tmp_path / "gone")})
    found = Page(build_report([moved], TOLD)).text
    assert found.count(f"data set of {moved} must still be at its place") == 4
    assert "warning: what needs the data set is left out: data set of" in capsys.readouterr().err
    assert "the map needs the data set" in found
    assert "Left out: the stage-one run is no longer at runs/rqvae/shop." in found
    (moved / "metrics.jsonl").unlink()
    found = Page(build_report([moved], Told(users=20, data=shop.data))).text
    assert "the run has no metrics.jsonl" in found
    assert "Left out: no user was asked for" in found


def test_equal_input_gives_the_same_page(shop, text):
    again = build_report([shop.decoder, shop.items, shop.sasrec], TOLD)
    stamp = re.compile(r"on \d{4}-.*? UTC")
    assert stamp.sub("", again) == stamp.sub("", text)


def test_an_older_page_is_replaced_whole_or_not_at_all(shop, tmp_path):
    out = tmp_path / "sub" / "report.html"
    assert write_report([shop.sasrec], out, TOLD) == out
    before = out.read_bytes()
    assert before.startswith(b"<!doctype html>")
    with pytest.raises(MissingPathError):
        write_report([shop.sasrec, tmp_path / "none"], out, TOLD)
    assert out.read_bytes() == before
    assert os.listdir(out.parent) == ["report.html"]
    write_report([shop.stage_one], out, TOLD)
    assert out.read_bytes() != before


def test_a_full_disk_is_one_line_and_leaves_nothing(shop, tmp_path, monkeypatch):
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    out = tmp_path / "report.html"
    out.write_text("older")
    monkeypatch.setattr(Path, "write_text", refuse)
    with pytest.raises(ConfigError, match=r"--out must be a place to write to, .*No space left"):
        write_report([shop.stage_one], out, TOLD)
    assert out.read_text() == "older"
    assert os.listdir(tmp_path) == ["report.html"]


def test_wrong_input_is_refused_before_the_work(shop, tmp_path):
    with pytest.raises(ConfigError, match="--out must be a file, got the folder"):
        write_report([shop.sasrec], tmp_path, TOLD)
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(ConfigError, match=r"--out must be a place to write to, .*takes no files"):
        write_report([shop.sasrec], file / "report.html", TOLD)
    with pytest.raises(ConfigError, match="RUNS must be named once each"):
        build_report([shop.sasrec, shop.sasrec], TOLD)
    other = tmp_path / "other"
    shutil.copytree(shop.sasrec, other)
    meta = read_json(other / "meta.json")
    write_json_atomic(other / "meta.json", meta | {"log_fingerprint": "0"})
    with pytest.raises(ArtifactError, match="must have been trained on one data set"):
        build_report([shop.items, other], TOLD)
    with pytest.raises(ConfigError, match="split to evaluate"):
        build_report([shop.sasrec], Told(split="tset"))


def command(*words: object):
    app = typer.Typer()
    app_command(app)
    app.callback()(lambda: None)  # keeps the command's name with a single command
    return CliRunner().invoke(app, ["report", *map(str, words)])


def test_the_command_says_where_the_page_lies(shop, tmp_path):
    out = tmp_path / "page.html"
    user = shop.data.user_keys[4]
    done = command(shop.sasrec, "--out", out, "--users", 10, "--user", user)
    assert done.exit_code == 0, done.output
    assert f"wrote {out}, " in done.output
    assert f"User {html.escape(user)}".replace("&#x27;", "'") in out.read_text()
    wrong = command(shop.sasrec, "--out", out, "--user", "nobody")
    assert wrong.exit_code == 2
    assert "--user must be a user of the data set, got 'nobody'" in wrong.output
    wrong = command(shop.sasrec, "--out", out, "--split", "tset")
    assert wrong.exit_code == 2
    assert "--split must be valid or test, got 'tset'" in wrong.output
    assert command(tmp_path / "none").exit_code == 2
    none = command(shop.sasrec, "--out", out, "--samples", 0)
    assert none.exit_code == 0
    assert "no user was asked for" in Path(out).read_text()
    (tmp_path / "meta.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"--out must end in .html, got .*meta.json; name for"):
        write_report([shop.sasrec], tmp_path / "meta.json", TOLD)
