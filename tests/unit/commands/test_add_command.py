"""A dataclass becomes a command: names, defaults and errors."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

from genrec.commands import add_command
from genrec.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Words:
    folder: Annotated[Path, typer.Argument(help="Where.")]
    count: Annotated[int, typer.Option("-n", "--count", min=1, help="How many.")] = 3
    name: Annotated[list[str] | None, typer.Option(help="Again for more.")] = None
    as_json: Annotated[bool, typer.Option("--json", help="For machines.")] = False


@pytest.fixture
def call():
    told: list[Words] = []

    def work(words: Words) -> None:
        told.append(words)
        if words.count == 13:
            raise ConfigError("count must be lucky, got 13; take 12")

    app = typer.Typer()
    app.callback()(lambda: None)
    add_command(app, "try", Words, work, about="Try it.")

    def run(*typed: str):
        done = CliRunner().invoke(app, ["try", *typed], env={"COLUMNS": "120"})
        return done, told[-1] if told else None

    return run


def test_what_is_typed_arrives(call) -> None:
    assert call("here")[1] == Words(folder=Path("here"))
    done, told = call("here", "-n", "5", "--name", "a", "--name", "b", "--json")
    assert done.exit_code == 0
    assert told == Words(folder=Path("here"), count=5, name=["a", "b"], as_json=True)


def test_what_is_missing_or_out_of_range_is_refused(call) -> None:
    for typed in ((), ("here", "--count", "0"), ("here", "--no-such")):
        done, told = call(*typed)
        assert done.exit_code == 2
        assert told is None


def test_a_users_error_is_one_line(call) -> None:
    done, _ = call("here", "--count", "13")
    assert done.exit_code == 2
    assert done.output == "error: count must be lucky, got 13; take 12\n"
    done, _ = call("here", "--count", "13", "--debug")
    assert isinstance(done.exception, ConfigError)


def test_help_describes_each_word(call) -> None:
    text = call("--help")[0].output
    assert all(word in text for word in ("Try it.", "Where.", "How many.", "--json", "--debug"))
