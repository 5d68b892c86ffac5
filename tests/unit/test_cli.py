"""The command ``genrec``: what it lists, and how it answers mistakes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from genrec.cli import build_app
from genrec.version import __version__

COMMANDS = Path(__file__).resolve().parent.parent.parent / "genrec" / "commands"
NAMES = sorted(path.stem for path in COMMANDS.glob("*.py") if path.stem != "__init__")


def call(*words: str):
    return CliRunner().invoke(build_app(), list(words), env={"COLUMNS": "200", "NO_COLOR": "1"})


def test_every_module_is_a_command_and_says_what_it_does():
    assert {"evaluate", "prepare", "recommend", "tokenize"} <= set(NAMES)
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


@pytest.mark.parametrize("words", [("recomend",), ("recommend",), ("recommend", "x", "--kk", "3")])
def test_words_that_are_wrong_are_refused(words):
    assert call(*words).exit_code == 2


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
