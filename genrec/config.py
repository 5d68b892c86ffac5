"""The gin front door: files, overrides, and errors that name the near names.

A stage's settings, a dataclass, become the gin root ``train``, and what a file and its overrides
bind makes one object of it. Nothing else in the library reads gin.
"""

from __future__ import annotations

import argparse
import enum
import logging
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import TypeVar

import gin

from genrec.errors import ConfigError, MissingPathError, did_you_mean, run_command
from genrec.settings import Settings

__all__ = ["ROOT", "Arguments", "configure", "parse_arguments", "run"]

ROOT = "train"  # what every file binds

S = TypeVar("S", bound=Settings)


@dataclass
class Arguments:
    """What a training script is called with.

    Attributes:
        config: The gin file.
        split: Shorthand for ``train.dataset_split``, or None.
        bindings: Overrides, each ``name=value``.
        resume: Whether to go on from the run's latest checkpoint.
        debug: Whether to show tracebacks.
    """

    config: Path
    split: str | None = None
    bindings: list[str] = field(default_factory=list)
    resume: bool = False
    debug: bool = False


def parse_arguments(
    description: str, *, default_config: Path, argv: Sequence[str] | None = None
) -> Arguments:
    """Read the command line of a training script.

    Args:
        description: Shown by ``--help``.
        default_config: The file used when none is named.
        argv: Words of the command line; those of the process when None.

    Returns:
        The arguments.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument(
        "config", nargs="?", type=Path, default=default_config, help=f"default: {default_config}"
    )
    parser.add_argument("--split", help="data set split, for example beauty, sports or toys")
    parser.add_argument(
        "--gin",
        action="append",
        default=[],
        metavar="BINDING",
        help='an override, for example --gin "train.batch_size=128"; may be repeated',
    )
    parser.add_argument("--resume", action="store_true", help="go on from the latest checkpoint")
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    found = parser.parse_args(argv)
    return Arguments(found.config, found.split, found.gin, found.resume, found.debug)


def configure(
    settings: type[S],
    config: str | os.PathLike[str] | None,
    bindings: Sequence[str] = (),
) -> S:
    """Read a gin file and overrides into settings.

    Args:
        settings: The stage's class, whose fields are the names below ``train``.
        config: The file, or None for overrides alone.
        bindings: Overrides such as ``train.batch_size=128``; they win over the file.

    Returns:
        The settings.

    Raises:
        MissingPathError: If the file, or one that it includes, is not there.
        ConfigError: If a name is unknown, a value cannot be read or is out of range, or one that
            must be given is not.
    """
    names = [field.name for field in fields(settings)]
    for binding in bindings:
        name = binding.partition("=")[0].strip()
        if name in names:  # gin would take it for a macro
            raise ConfigError(
                f"override must name its root, got {binding!r}; write {ROOT}.{binding}"
            )
    gin.clear_config()
    # Under one name for all stages: the last one configured is what files speak of.
    gin.enter_interactive_mode()
    root = gin.external_configurable(settings, name=ROOT, module="genrec")
    gin.exit_interactive_mode()
    files = []
    if config is not None:
        path = Path(config)
        if not path.is_file():
            raise MissingPathError(
                f"config must be an existing gin file, got {path}; see configs/ for those at hand"
            )
        gin.add_config_file_search_path(str(path.resolve().parent))
        files.append(str(path))
    try:
        with _without_log():
            gin.parse_config_files_and_bindings(
                files, list(bindings), finalize_config=True, skip_unknown=False
            )
    except ModuleNotFoundError as error:
        missing = re.search(r"No module named '([\w.]+)'", str(error))  # gin drops error.name
        raise ConfigError(
            "import in a gin file must name a module that exists, got "
            f"{missing.group(1) if missing else error}; for example `import genrec.models.rqvae`"
        ) from error
    except (ValueError, SyntaxError, TypeError, OSError, AttributeError) as error:
        raise ConfigError(_explain(error, names)) from error
    required = [field.name for field in fields(settings) if field.default is MISSING]
    absent = [name for name in required if name not in gin.get_bindings(root)]
    if absent:
        raise ConfigError(
            f'settings must be given, got none for {", ".join(absent)}; add --gin "{ROOT}.NAME='
            'VALUE"'
        )
    made: S = root()
    return made


def run(
    settings: type[S],
    train: Callable[[S], object],
    arguments: Arguments,
) -> None:
    """Configure a stage and train it; errors in the input become one line and status 2.

    Args:
        settings: The stage's class.
        train: The stage's training.
        arguments: From :func:`parse_arguments`.
    """
    bindings = list(arguments.bindings)
    if arguments.split is not None:
        bindings.append(f"{ROOT}.dataset_split={arguments.split!r}")
    if arguments.resume:
        bindings.append(f"{ROOT}.resume=True")
    run_command(
        lambda: train(configure(settings, arguments.config, bindings)), debug=arguments.debug
    )


@contextmanager
def _without_log() -> Iterator[None]:
    """Silence gin, which logs an error for each folder that lacks an included file."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        yield
    finally:
        logging.disable(before)


def _explain(error: Exception, names: Sequence[str]) -> str:
    """Turn a message of gin into what, got, allowed and fix."""
    text = str(error).strip()
    first = text.splitlines()[0] if text else type(error).__name__
    if found := re.search(r"'?(\S+?)'? doesn't have a parameter named '(\w+)'", text):
        where, name = found.groups()
        return f"setting must exist, got {where.split('.')[-1]}.{name}; {did_you_mean(name, names)}"
    if found := re.search(r"No configurable matching (?:reference )?'?@?([\w./]+)", text):
        name = found.group(1)
        near = did_you_mean(name, [ROOT, *names])
        return f"setting must exist, got {name!r}; {near} Write train.NAME=VALUE"
    if found := re.search(r"(\S+) set to `%gin.REQUIRED`", text):
        return f'settings must be given, got none for {found.group(1)}; add --gin "NAME=VALUE"'
    if found := re.search(r"'([\w./]+)/gin\.macro'", text):
        name = found.group(1)
        return f"constant must exist, got %{name}; {_near_constant(name)}"
    if found := re.search(r"Unable to open file: (\S+?)\. Searched", text):
        return (
            f"included file must exist, got {found.group(1)}; name it from the folder of its file"
        )
    return (
        f"configuration must be valid gin, got: {first}; write numbers plainly, "
        "texts in quotes, and NAME=VALUE for each override"
    )


def _near_constant(name: str) -> str:
    """Phrase the members of the enum that a mistyped constant belongs to."""
    path, _, member = name.rpartition(".")
    module, _, kind = path.rpartition(".")
    known = getattr(sys.modules.get(module), kind, None)
    if not (isinstance(known, type) and issubclass(known, enum.Enum)):
        return "check the enum member, and that its module is imported in the file"
    return did_you_mean(member, known.__members__)
