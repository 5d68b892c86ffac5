"""The gin front door: what it accepts, and how it answers mistakes."""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass

import gin
import pytest

from genrec.config import configure
from genrec.errors import ConfigError, GenRecError, MissingPathError, run_command
from genrec.settings import Settings, setting
from genrec.training.rqvae import RqVaeSettings


@gin.constants_from_enum(module="config_test")
class Mode(enum.Enum):
    FAST = "fast"
    SLOW = "slow"


@dataclass(frozen=True, kw_only=True)
class Practice(Settings):
    batch_size: int = setting("Rows", least=1)
    learning_rate: float = setting("Rate", 1e-3)
    dataset_split: str | None = setting("Split", None)
    mode: Mode = setting("Mode", Mode.SLOW)
    resume: bool = setting("Resume", False)


@pytest.fixture(autouse=True)
def _clean():
    yield
    gin.clear_config()


@pytest.fixture
def write(tmp_path):
    def write(text: str, name: str = "a.gin"):
        path = tmp_path / name
        path.write_text(text)
        return path

    return write


def started(config, *bindings: str) -> Practice:
    return configure(Practice, config, bindings)


def test_file_then_overrides(write):
    path = write("train.batch_size = 8\ntrain.learning_rate = 0.1\n")
    got = started(path, "train.learning_rate=0.5", "train.dataset_split='beauty'")
    assert got == Practice(batch_size=8, learning_rate=0.5, dataset_split="beauty")


def test_overrides_alone_make_settings():
    assert started(None, "train.batch_size=3") == Practice(batch_size=3)


def test_one_run_does_not_leak_into_the_next(write):
    started(write("train.batch_size = 8\ntrain.learning_rate = 0.1\n"))
    assert started(write("train.batch_size = 4\n")).learning_rate == 1e-3


def test_two_stages_in_one_process(write):
    @dataclass(frozen=True, kw_only=True)
    class Other(Settings):
        width: int = setting("Width", 3)

    started(write("train.batch_size = 8\n"))
    assert configure(Other, write("train.width = 5\n")).width == 5
    with pytest.raises(ConfigError, match=r"got train\.batch_size"):
        configure(Other, write("train.batch_size = 8\n"))
    assert started(write("train.batch_size = 8\n")).batch_size == 8


def test_enum_constants(write):
    path = write("train.batch_size = 1\ntrain.mode = %config_test.Mode.FAST\n")
    assert started(path).mode is Mode.FAST


def test_includes_are_found_beside_the_file_from_any_folder(write, tmp_path, monkeypatch):
    write("train.batch_size = 16\n", "base.gin")
    path = write("include 'base.gin'\ntrain.learning_rate = 2.0\n")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert started(path).batch_size == 16


def test_what_a_run_writes_down_gives_it_back(write):
    settings = started(write("train.batch_size = 3\n"))
    text = settings.as_gin()
    assert "train.learning_rate = 0.001" in text  # the default is written out too
    assert started(write(text)) == settings


MISTAKES = [
    ("train.batchsize = 1", [], r"got train\.batchsize; did you mean batch_size\?"),
    ("", ["train.batch_sizes=1"], r"got train\.batch_sizes; did you mean batch_size\?"),
    ("", ["batch_size=1"], r"must name its root, got .*; write train\.batch_size=1"),
    ("trian.batch_size = 1", [], r"must exist, got 'trian\S*'; did you mean train\?"),
    ("train.mode = %config_test.Mode.FASTER", [], r"constant must exist, got %config_test\.M"),
    (f"train.mode = %{__name__}.Mode.FASTER", [], r"did you mean FAST\?"),
    ("train.batch_size = ", [], "configuration must be valid gin"),
    (
        "train.batch_size = two",
        [],
        r"value of train\.batch_size must .*, got two; write tex",
    ),
    ("", ["train.name=runs/a"], r"""got runs/a; write texts in quotes, "train\.name='runs/a'\""""),
    ("", ["train.name=my runs"], r"value of train\.name must be .*, got my runs; write numbers"),
    ("", ["train.sizes=[float('nan')]"], r"value of train\.sizes must .*, got \[float\('nan'\)\];"),
    ("x/train.batch_size = 1", [], r"below train alone, got x/train\.batch_size; write train\.b"),
    ("import genrec.no_such", [], r"must name a module that exists, got genrec\.no_such;"),
    ("include 'missing.gin'", [], r"included file must exist, got missing\.gin;"),
    ("", [], r"must be given, got none for .*batch_size"),
]


@pytest.mark.parametrize(("text", "bindings", "message"), MISTAKES)
def test_mistakes_become_one_line_with_a_fix(write, capsys, text, bindings, message):
    with pytest.raises(SystemExit) as caught:
        run_command(lambda: configure(Practice, write(text), bindings))
    assert caught.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert err.startswith("error: ")
    assert re.search(message, err), err


def test_a_missing_file_points_to_the_configs():
    with pytest.raises(MissingPathError, match=r"existing gin file, got no\.gin; see configs/"):
        configure(Practice, "no.gin")


def test_debug_shows_where_it_went_wrong(write):
    with pytest.raises(ConfigError):
        run_command(lambda: configure(Practice, write("train.batchsize = 1")), debug=True)


def test_the_configuration_is_locked_once_read(write):
    configure(Practice, write("train.batch_size = 1"))
    with pytest.raises(RuntimeError, match="modify locked Gin config"):
        gin.bind_parameter("train.batch_size", 2)


ODD = ["[", "'", "(", "@train()", "@train", "%nothing", "...", "1j", "set()", "lambda:1", "[{}]"]
ODD += ["%gin.REQUIRED", "1e30", "0", "nan"]


@pytest.mark.parametrize(
    "value", [*ODD, "1 2", "[" * 2000 + "]" * 2000, "9" * 5000, "0x" + "f" * 5000]
)
@pytest.mark.parametrize("name", ["iterations", "dataset", "log_every"])
def test_values_that_are_none_are_one_line(name, value):
    with pytest.raises(GenRecError) as caught:
        configure(RqVaeSettings, None, [f"train.{name}={value}"])
    assert str(caught.value)
