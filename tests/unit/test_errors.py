"""Errors in the input become one line on stderr and status 2; others stay what they are."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import warnings

import pytest

from genrec import errors
from genrec.errors import (
    ArtifactError,
    ConfigError,
    DataError,
    GenRecError,
    Interrupted,
    MissingPathError,
    StorageError,
    TrainingError,
    did_you_mean,
    printable,
    run_command,
)


def raising(error: BaseException):
    def command() -> None:
        raise error

    return command


@pytest.mark.parametrize(
    ("kind", "builtin"),
    [
        (ConfigError, ValueError),
        (DataError, ValueError),
        (ArtifactError, ValueError),
        (MissingPathError, FileNotFoundError),
        (StorageError, OSError),
        (TrainingError, RuntimeError),
    ],
)
def test_each_kind_is_also_the_builtin_that_callers_expect(kind, builtin, capsys):
    assert issubclass(kind, GenRecError)
    assert issubclass(kind, builtin)
    with pytest.raises(SystemExit) as caught:
        run_command(raising(kind("width must be 3, got 4;\n  use 3")))
    assert caught.value.code == 2
    out, err = capsys.readouterr()
    assert (out, err) == ("", "error: width must be 3, got 4; use 3\n")


def test_the_trail_that_gin_appends_is_cut(capsys):
    error = ConfigError("a must be b, got c; fix\n  In call to configurable 'train' (<function>)")
    with pytest.raises(SystemExit):
        run_command(raising(error))
    assert capsys.readouterr().err == "error: a must be b, got c; fix\n"


def test_messages_name_options_as_they_are_typed(capsys):
    error = ConfigError("ties must be x, got min_rating=2 in a/min_rating.csv; ties, min_rating")
    with pytest.raises(SystemExit):
        run_command(raising(error), options={"min_rating": "--min-rating", "ties": "--ties"})
    expected = "--ties must be x, got min_rating=2 in a/min_rating.csv; ties, --min-rating"
    assert capsys.readouterr().err == f"error: {expected}\n"


@pytest.mark.filterwarnings("always")
def test_warnings_name_options_too(capsys):
    def command() -> None:
        warnings.warn("ties must be x, got y; left out", stacklevel=1)

    run_command(command, options={"ties": "--ties"})
    assert capsys.readouterr().err == "warning: --ties must be x, got y; left out\n"


def test_numbers_are_near_no_number():
    numbers = [str(number) for number in range(100, 200)]
    assert did_you_mean("1999", numbers) == "for example 100, 101, 102"
    assert did_you_mean("a199", ["a198"]) == "did you mean a198?"


def test_ctrl_c_has_its_own_status(capsys):
    with pytest.raises(SystemExit) as caught:
        run_command(raising(KeyboardInterrupt()))
    assert caught.value.code == 130
    assert "what was saved is complete" in capsys.readouterr().err


def test_a_training_that_was_ended_has_the_status_of_its_signal(capsys):
    with pytest.raises(SystemExit) as caught:
        run_command(raising(Interrupted(signal.SIGTERM)))
    assert caught.value.code == 143


def test_control_characters_never_reach_the_terminal(capsys):
    readable = "caf\u00e9 \u4e2d\U0001f468\u200d\U0001f467 'a\"b' \\n"
    assert printable(readable) == readable
    hostile = "a\x1b[2Jb\x9b\x07\r\x7f\u202e\ud800"
    shown = printable(hostile)
    assert shown == r"a\u001b[2Jb\u009b\u0007\r\u007f\u202e\ud800"
    assert json.loads(printable(json.dumps(hostile, ensure_ascii=False))) == hostile
    with pytest.raises(SystemExit):
        run_command(raising(DataError("no item \x1b]0;title\x07")))
    assert capsys.readouterr().err == "error: no item \\u001b]0;title\\u0007\n"


def test_defects_are_not_dressed_up():
    with pytest.raises(ZeroDivisionError):
        run_command(raising(ZeroDivisionError()))


@pytest.mark.parametrize("error", [DataError("x"), KeyboardInterrupt()])
def test_debug_lets_the_traceback_through(error):
    with pytest.raises(type(error)):
        run_command(raising(error), debug=True)


def test_near_names_come_first_and_all_names_when_none_is_near():
    choices = ["beauty", "sports", "toys"]
    assert did_you_mean("beuty", choices) == "did you mean beauty?"
    assert did_you_mean("xyz", choices) == "allowed: beauty, sports, toys"
    names = [f"rate_{i}" for i in range(9)]
    assert did_you_mean("rate_1", names, limit=2).count(",") == 1
    users = [f"user-{i:04d}" for i in range(70)]
    assert did_you_mean("xyz", users) == "for example user-0000, user-0001, user-0002"


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.ENOSPC, "x", "a/b"), f"got {os.strerror(errno.ENOSPC)} for a/b; check path"),
        (PermissionError(errno.EACCES, "x"), f"got {os.strerror(errno.EACCES)}; check path"),
        (MemoryError(), "memory must suffice, got too little; lower the batch size"),
        (RuntimeError("can't allocate memory: 9 bytes"), "got can't allocate memory: 9 bytes; low"),
        (StorageError.of("a/b", errno.EROFS), f"got {os.strerror(errno.EROFS)} for a/b; check it"),
    ],
)
def test_what_the_system_refuses_is_one_line(error, said, capsys):
    with pytest.raises(SystemExit) as caught:
        run_command(raising(error))
    assert caught.value.code == 2
    shown = capsys.readouterr().err
    assert shown.startswith("error: ")
    assert said in shown
    assert len(shown.splitlines()) == 1
    with pytest.raises(type(error)):
        run_command(raising(error), debug=True)


@pytest.mark.parametrize("error", [RuntimeError("shapes differ"), OSError("without a number")])
def test_other_errors_are_defects(error):
    with pytest.raises(type(error)):
        run_command(raising(error))


def test_a_reader_that_has_enough_ends_a_command_in_silence():
    code = (
        "from genrec.errors import run_command\n"
        "run_command(lambda: [print('x' * 1000, flush=True) for _ in range(1000)])"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    process.stdout.read(10)
    process.stdout.close()
    said = process.stderr.read()
    process.stderr.close()
    assert (process.wait(), said) == (128 + signal.SIGPIPE, b"")


def test_an_extra_is_installed_from_where_the_package_came(tmp_path, monkeypatch) -> None:
    assert 'pip install -c constraints.txt -e ".[serve]"' in errors.install_line("serve")
    monkeypatch.setattr(errors, "__file__", str(tmp_path / "genrec" / "errors.py"))
    assert errors.install_line("serve") == "install genrec as before with [serve] behind its name"
