"""Errors that a user can act on, and the one way in which commands report them."""

from __future__ import annotations

import difflib
import errno
import json
import os
import re
import signal
import sys
import warnings
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path

__all__ = [
    "ArtifactError",
    "ConfigError",
    "DataError",
    "GenRecError",
    "Interrupted",
    "MissingPathError",
    "StorageError",
    "TrainingError",
    "did_you_mean",
    "install_line",
    "printable",
    "run_command",
]


#: What steers a terminal: controls, halves of a letter, and what turns the direction of writing.
_STEERING = re.compile("[\\x00-\\x1f\\x7f-\\x9f\\u202a-\\u202e\\u2066-\\u2069\\ud800-\\udfff]")


class GenRecError(Exception):
    """Base of every error caused by input; its message says what, got, allowed and fix."""


class ConfigError(GenRecError, ValueError):
    """A setting is unknown or out of range."""


class DataError(GenRecError, ValueError):
    """A file was found but does not hold what it should."""


class ArtifactError(GenRecError, ValueError):
    """A checkpoint, ID table or prepared data set does not fit the request."""


class MissingPathError(GenRecError, FileNotFoundError):
    """A file or folder that was asked for is not there."""


class StorageError(GenRecError, OSError):
    """A file or folder cannot be written: the disk is full, or it may only be read."""

    @classmethod
    def of(cls, path: object, said: int | str) -> StorageError:
        """Say in one line what the system answered, by its error number or in its words."""
        full = isinstance(said, str) or said in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        fix = "free space, or choose another folder" if full else "check it, or choose another one"
        text = said if isinstance(said, str) else os.strerror(said)
        return cls(f"folder must be writable, got {text} for {path}; {fix}")


class TrainingError(GenRecError, RuntimeError):
    """Training cannot go on, for example because the loss is not finite."""


class Interrupted(KeyboardInterrupt):
    """A training was stopped from outside, after it had saved.

    Args:
        number: The signal that stopped it.
    """

    def __init__(self, number: int) -> None:
        super().__init__(f"signal {number}")
        self.number = number


def printable(text: str) -> str:
    """Escape what could steer the terminal that a text is shown on; JSON stays valid JSON."""
    return _STEERING.sub(lambda found: json.dumps(found.group())[1:-1], text)


def install_line(extra: str) -> str:
    """Say how an extra is installed: in the repository, or beside a package without one."""
    root = Path(__file__).resolve().parent.parent
    if (root / "constraints.txt").is_file():
        return f'in {root}: pip install -c constraints.txt -e ".[{extra}]"'
    return f"install genrec as before with [{extra}] behind its name"


def did_you_mean(name: str, choices: Iterable[str], *, limit: int = 3) -> str:
    """Phrase the names nearest to a mistyped one.

    Args:
        name: What the user wrote.
        choices: Names that exist.
        limit: Most names to offer.

    Returns:
        ``"did you mean a, b?"``; when nothing is near ``"allowed: a, b, c"``, or where that
        would be long ``"for example a, b, c"``. Of numbers none is near another.
    """
    known = sorted(set(choices))
    is_number = re.fullmatch(r"[-+\d.]+", name) is not None
    near = [] if is_number else difflib.get_close_matches(name, known, n=limit, cutoff=0.5)
    if near:
        return f"did you mean {', '.join(near)}?"
    if len(known) > 20:
        return f"for example {', '.join(known[:limit])}"
    return f"allowed: {', '.join(known)}"


def run_command(
    command: Callable[[], object],
    *,
    debug: bool = False,
    options: Mapping[str, str] | None = None,
) -> None:
    """Run a command; turn an error in the input into one line and exit status 2.

    Args:
        command: The work, without arguments.
        debug: Let the traceback through.
        options: How the command calls what messages of the library call otherwise, for example
            ``{"min_rating": "--min-rating"}``. A single word may be an everyday one, and is
            replaced only where a message begins with it.

    Raises:
        SystemExit: Status 2 for a user's error and for what the system refuses (a full disk,
            rights, memory), 141 where the reader of the output has gone, 130 for Ctrl-C, 143 where
            SIGTERM ended a training.
    """
    try:
        with warnings.catch_warnings():
            warnings.showwarning = partial(_say_warning, options or {})
            command()
    except GenRecError as error:
        if debug:
            raise
        # gin appends where the failing configurable was called; that is no help to a user.
        message = str(error).split("\n  In call to configurable")[0]
        message = _as_typed(" ".join(message.split()), options or {})
        print(f"error: {printable(message)}", file=sys.stderr)
        raise SystemExit(2) from None
    except BrokenPipeError:  # whoever reads our output has enough, as `| head` has
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(128 + signal.SIGPIPE) from None
    except (OSError, MemoryError, RuntimeError) as error:
        refused = _of_the_system(error)
        if debug or refused is None:
            raise
        print(f"error: {printable(refused)}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt as error:
        if debug:
            raise
        print("interrupted; what was saved is complete", file=sys.stderr)
        raise SystemExit(128 + getattr(error, "number", signal.SIGINT)) from None


def _of_the_system(error: Exception) -> str | None:
    """Say what the system refused, where an error is of that kind and no defect."""
    if isinstance(error, OSError) and error.errno is not None:
        where = f" for {error.filename}" if error.filename else ""
        return (
            f"the system must let files be read and written, got {os.strerror(error.errno)}{where};"
            " check path, rights and space"
        )
    text = str(error).splitlines()[0] if str(error) else ""
    memory = isinstance(error, MemoryError) or "allocate memory" in text or "out of memory" in text
    if memory:
        return (
            f"memory must suffice, got {text or 'too little'}; lower the batch size, or the sizes "
            "of the model"
        )
    return None


def _say_warning(options: Mapping[str, str], message: Warning | str, *rest: object) -> None:
    """Print a warning as one line, without the line of code that it came from."""
    text = _as_typed(" ".join(str(message).split()), options)
    print(f"warning: {printable(text)}", file=sys.stderr)


def _as_typed(message: str, options: Mapping[str, str]) -> str:
    """Put the options of a command for names of the library, but not inside paths and values."""
    for name, option in options.items():
        everyday = re.fullmatch("[a-z]+", name)
        where = rf"^{name}(?= must\b)" if everyday else rf"(?<![\w/.'-]){name}(?![\w/.='-])"
        message = re.sub(where, option, message)
    return message
