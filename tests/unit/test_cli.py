"""The command ``genrec``: what it lists, and how it answers mistakes."""

from __future__ import annotations

import dataclasses
import importlib
import re
import subprocess
import sys
from pathlib import Path
from typing import get_type_hints

import pytest
from typer.testing import CliRunner

from genrec.cli import build_app
from genrec.version import __version__

COMMANDS = Path(__file__).resolve().parent.parent.parent / "genrec" / "commands"
NAMES = sorted(path.stem for path in COMMANDS.glob("*.py") if path.stem != "__init__")


def call(*words: str):
    return CliRunner().invoke(build_app(), list(words), env={"COLUMNS": "200", "NO_COLOR": "1"})


def test_every_module_is_a_command_and_says_what_it_does():
    assert {"evaluate", "prepare", "recommend", "tokenize", "train"} <= set(NAMES)
    listed = call("--help")
    assert listed.exit_code == 0
    for name in NAMES:
        assert f" {name} " in listed.output
        own = call(name, "--help")
        assert own.exit_code == 0
        assert f"{name} [OPTIONS]" in own.output
        assert "--debug" in own.output


def test_no_command_shows_the_help():
    assert "recommend" in call().output


def test_version():
    assert call("--version").output == f"genrec {__version__}\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("recomend",), "No such command 'recomend'. Did you mean 'recommend'?; see `"),
        (("recommend",), "Missing argument 'RUN_DIR'; see `"),
        (("recommend", "x", "--kk", "3"), "No such option: --kk"),
        (("recommend", "x", "--history"), "Option '--history' requires an argument"),
        (("recommend", "x", "-k", "a\x1b[1m"), "Invalid value for '-k': "),
    ],
)
def test_words_that_are_wrong_are_one_line(words, message):
    answer = call(*words)
    assert answer.exit_code == 2
    assert answer.stderr.startswith(f"error: {message}")
    assert answer.stderr.count("\n") == 1
    assert "\x1b" not in answer.stderr


@pytest.mark.parametrize("name", ["evaluate", "recommend"])
def test_a_folder_that_is_no_run_is_one_line(name, tmp_path):
    answer = call(name, str(tmp_path / "nowhere"))
    assert answer.exit_code == 2
    assert answer.stdout == ""
    assert answer.stderr.startswith("error: run must be a folder with meta.json")
    assert answer.stderr.count("\n") == 1


def test_the_module_is_the_command():
    done = subprocess.run(
        [sys.executable, "-m", "genrec", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout == f"genrec {__version__}\n"


@pytest.mark.parametrize(
    "words",
    [
        ("recommend", "x", "--beams", "0"),
        ("recommend", "x", "--users", "-1"),
        ("recommend", "x", "-k", "0"),
        ("evaluate", "x", "--beams", "-3"),
        ("evaluate", "x", "-k", "0"),
        ("train", "sample", "--threads", "0"),
    ],
)
def test_numbers_below_one_are_refused(words):
    answer = call(*words)
    assert answer.exit_code == 2
    assert f"Invalid value for '{words[-2]}'" in answer.output
    assert f", got '{words[-1]}'; see `genrec {words[0]} --help`" in answer.output
    joined = call(*words[:-2], f"{words[-2]}={words[-1]}")
    assert words[-2] == "-k" or joined.output == answer.output


def test_the_sample_shop_is_the_one_that_is_shipped(tmp_path):
    answer = call("sample", str(tmp_path / "shop"))
    assert answer.exit_code == 0
    for name in ("items.csv", "interactions.csv"):
        shipped = COMMANDS.parent.parent / "data" / "sample" / name
        assert (tmp_path / "shop" / name).read_bytes() == shipped.read_bytes()


def test_a_sample_shop_below_a_file_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    answer = call("sample", str(tmp_path / "file" / "shop"))
    assert answer.exit_code == 2
    assert answer.stderr.startswith("error: FOLDER must be writable")


def test_settings_are_wrapped_and_searched():
    whole = call("settings", "rqvae")
    assert "vae_n_layers = 3\n    Code levels" in whole.output
    found = CliRunner().invoke(
        build_app(), ["settings", "decoder", "--grep", "beams"], env={"COLUMNS": "40"}
    )
    assert found.output.startswith("num_beams = 30\n    ")
    assert max(map(len, found.output.splitlines())) <= 40


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("decodr",), "STAGE must be known, got 'decodr'; did you mean decoder?"),
        (("decoder", "--grep", "no such word"), "--grep must be a word of a setting"),
    ],
)
def test_settings_that_are_not_there(words, message):
    answer = call("settings", *words)
    assert answer.exit_code == 2
    assert message in answer.stderr


def test_a_mistake_in_training_is_one_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    answer = call("train", "sample", "--gin", "decoder.num_beems=3")
    assert answer.exit_code == 2
    assert answer.stdout == ""
    assert answer.stderr.startswith(
        "error: setting must exist, got decoder.num_beems; did you mean"
    )
    assert answer.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", NAMES)
def test_help_shows_what_stands_in_brackets(name):
    """The usual value of an option does; typer would take it for markup and drop it."""
    module = importlib.import_module(f"genrec.commands.{name}")
    own = [v for v in vars(module).values() if getattr(v, "__module__", "") == module.__name__]
    (words,) = filter(dataclasses.is_dataclass, own)
    hints = get_type_hints(words, include_extras=True).values()
    helps = " ".join(hint.__metadata__[0].help or "" for hint in hints)
    shown = CliRunner().invoke(build_app(), [name, "--help"], env={"COLUMNS": "600"}).output
    shown = " ".join(shown.split())  # lines may end between the words
    assert [part for part in re.findall(r"\[[^]]+\]", helps) if part not in shown] == []


@pytest.mark.parametrize("columns", ["80", "100"])
@pytest.mark.parametrize("name", [None, *NAMES])
def test_no_help_is_cut(name, columns):
    words = ["--help"] if name is None else [name, "--help"]
    shown = CliRunner().invoke(build_app(), words, env={"COLUMNS": columns}).output
    assert "\u2026" not in shown
    cut = [line for line in shown.splitlines() if line.endswith("...") and "Usage" not in line]
    assert cut == []
    # Long words stand whole: each option that the widest screen shows.
    wide = CliRunner().invoke(build_app(), words, env={"COLUMNS": "600"}).output
    options = re.findall(r"--[a-z][a-z-]+", wide)
    assert options
    assert [option for option in options if option not in shown] == []
