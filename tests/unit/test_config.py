"""The gin front door: what it accepts, and how it answers mistakes.

The root here has a name of its own, since two roots named ``train`` in one process are ambiguous.
"""

from __future__ import annotations

import enum
import re

import gin
import pytest

from genrec.config import Arguments, configure, operative_config, parse_arguments, run
from genrec.errors import ConfigError, MissingPathError

calls: list[dict] = []


@gin.constants_from_enum(module="config_test")
class Mode(enum.Enum):
    FAST = "fast"
    SLOW = "slow"


@gin.configurable(module="config_test")
def practise(
    batch_size: int = gin.REQUIRED,
    learning_rate: float = 1e-3,
    dataset_split: str | None = None,
    mode: Mode = Mode.SLOW,
    resume: bool = False,
) -> None:
    calls.append(dict(locals()))


@pytest.fixture(autouse=True)
def _clean():
    calls.clear()
    yield
    gin.clear_config()


@pytest.fixture
def write(tmp_path):
    def write(text: str, name: str = "a.gin"):
        path = tmp_path / name
        path.write_text(text)
        return path

    return write


def started(config, *bindings: str, **more) -> dict:
    run(practise, Arguments(config, bindings=list(bindings), **more))
    return calls[-1]


def test_file_then_overrides_then_split(write):
    path = write("practise.batch_size = 8\npractise.learning_rate = 0.1\n")
    got = started(path, "practise.learning_rate=0.5", split="beauty", resume=True)
    assert got == {
        "batch_size": 8,
        "learning_rate": 0.5,
        "dataset_split": "beauty",
        "mode": Mode.SLOW,
        "resume": True,
    }


def test_one_run_does_not_leak_into_the_next(write):
    started(write("practise.batch_size = 8\npractise.learning_rate = 0.1\n"))
    assert started(write("practise.batch_size = 4\n"))["learning_rate"] == 1e-3


def test_a_split_with_quotes_is_text_not_gin(write):
    path = write("practise.batch_size = 1")
    assert started(path, split="it's\npractise.batch_size=2")["batch_size"] == 1


def test_enum_constants(write):
    path = write("practise.batch_size = 1\npractise.mode = %config_test.Mode.FAST\n")
    assert started(path)["mode"] is Mode.FAST


def test_includes_are_found_beside_the_file_from_any_folder(write, tmp_path, monkeypatch):
    write("practise.batch_size = 16\n", "base.gin")
    path = write("include 'base.gin'\npractise.learning_rate = 2.0\n")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert started(path)["batch_size"] == 16


def test_the_operative_settings_name_every_parameter(write):
    started(write("practise.batch_size = 3\n"))
    text = operative_config()
    assert "practise.batch_size = 3" in text
    assert "practise.learning_rate = 0.001" in text  # the default is written out too


MISTAKES = [
    ("practise.batchsize = 1", [], r"got practise\.batchsize; did you mean batch_size\?"),
    ("", ["practise.batch_sizes=1"], r"got practise\.batch_sizes; did you mean batch_size\?"),
    ("", ["batch_size=1"], r"must name its root, got .*; write practise\.batch_size=1"),
    ("practice.batch_size = 1", [], r"must exist, got 'practice\S*'; did you mean practise\?"),
    ("practise.mode = %config_test.Mode.FASTER", [], r"constant must exist, got %config_test\.M"),
    (f"practise.mode = %{__name__}.Mode.FASTER", [], r"did you mean FAST\?"),
    ("practise.batch_size = ", [], "configuration must be valid gin"),
    ("practise.batch_size = two", [], "configuration must be valid gin"),
    ("import genrec.no_such", [], r"must name a module that exists, got genrec\.no_such;"),
    ("include 'missing.gin'", [], r"included file must exist, got missing\.gin;"),
    ("", [], r"must be given, got none for .*batch_size"),
]


@pytest.mark.parametrize(("text", "bindings", "message"), MISTAKES)
def test_mistakes_become_one_line_with_a_fix(write, capsys, text, bindings, message):
    with pytest.raises(SystemExit) as caught:
        run(practise, Arguments(write(text), bindings=bindings))
    assert caught.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert err.startswith("error: ")
    assert re.search(message, err), err
    assert calls == []


def test_a_missing_file_points_to_the_configs():
    with pytest.raises(MissingPathError, match=r"existing gin file, got no\.gin; see configs/"):
        configure("no.gin", root=practise)


def test_debug_shows_where_it_went_wrong(write):
    with pytest.raises(ConfigError):
        run(practise, Arguments(write("practise.batchsize = 1"), debug=True))


def test_the_configuration_is_locked_once_read(write):
    configure(write("practise.batch_size = 1"), root=practise)
    with pytest.raises(RuntimeError, match="modify locked Gin config"):
        gin.bind_parameter("practise.batch_size", 2)


def test_errors_of_the_program_are_not_taken_for_errors_of_the_user(write):
    @gin.configurable(module="config_test")
    def broken(size: int = 1) -> None:
        raise RuntimeError("the device is gone")

    with pytest.raises(RuntimeError, match="the device is gone"):
        run(broken, Arguments(write("")))


def test_command_line(tmp_path):
    default = tmp_path / "default.gin"
    assert parse_arguments("x", default_config=default, argv=[]) == Arguments(default)
    words = [
        "a.gin",
        "--split",
        "toys",
        "--gin",
        "t.a=1",
        "--gin",
        "t.b='c'",
        "--resume",
        "--debug",
    ]
    found = parse_arguments("x", default_config=default, argv=words)
    assert (str(found.config), found.split, found.bindings) == (
        "a.gin",
        "toys",
        ["t.a=1", "t.b='c'"],
    )
    assert (found.resume, found.debug) == (True, True)
