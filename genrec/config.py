"""The gin front door: files, overrides, and errors that name the near names.

A stage's settings, a dataclass, become the gin root ``train``, and what a file and its overrides
bind makes one object of it. Nothing else in the library reads gin.
"""

from __future__ import annotations

import ast
import enum
import logging
import os
import re
import sys
import tokenize
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import MISSING, fields
from pathlib import Path
from typing import TypeVar

import gin

from genrec.errors import ConfigError, GenRecError, MissingPathError, did_you_mean
from genrec.settings import Settings

__all__ = ["ROOT", "configure"]

ROOT = "train"  # what every file binds

#: What gin, its parser and the modules that a file imports raise of a text that is none.
_GIN_ERRORS = (
    ArithmeticError,
    AttributeError,
    ImportError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
    tokenize.TokenError,
)

S = TypeVar("S", bound=Settings)


def configure(
    settings: type[S],
    config: str | os.PathLike[str] | None,
    bindings: Sequence[str] = (),
    *,
    root: str = ROOT,
) -> S:
    """Read a gin file and overrides into settings.

    Args:
        settings: The stage's class, whose fields are the names below ``train``.
        config: The file, or None for overrides alone.
        bindings: Overrides such as ``train.batch_size=128``; they win over the file.
        root: What the file binds.

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
                f"override must name its root, got {binding!r}; write {root}.{binding}"
            )
    gin.clear_config()
    # Under one name for all stages: the last one configured is what files speak of.
    gin.enter_interactive_mode()
    make = gin.external_configurable(settings, name=root, module="genrec")
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
        bound = gin.config_str()  # which some numbers cannot be written in
    except ModuleNotFoundError as error:
        missing = re.search(r"No module named '([\w.]+)'", str(error))  # gin drops error.name
        raise ConfigError(
            "import in a gin file must name a module that exists, got "
            f"{missing.group(1) if missing else error}; for example `import genrec.models.rqvae`"
        ) from error
    except _GIN_ERRORS as error:
        unread = _unread_value(bindings, Path(config) if config is not None else None)
        raise ConfigError(unread or _explain(error, names, root)) from error
    if found := re.search(rf"^(\S+/)(?:genrec\.)?{root}\.(\w+) =", bound, re.MULTILINE):
        # gin keeps it for a scope that nobody ever enters.
        raise ConfigError(
            f"setting must stand below {root} alone, got {found[1]}{root}.{found[2]}; write "
            f"{root}.{found[2]}=VALUE"
        )
    required = [field.name for field in fields(settings) if field.default is MISSING]
    given = gin.get_bindings(f"genrec.{root}", resolve_references=False)
    absent = [name for name in required if name not in given]
    if absent:
        raise ConfigError(
            f'settings must be given, got none for {", ".join(absent)}; add --gin "{root}.NAME='
            'VALUE"'
        )
    try:
        made: S = make()
    except GenRecError:
        raise
    except _GIN_ERRORS as error:  # references are followed only now
        raise ConfigError(_explain(error, names, root)) from error
    return made


@contextmanager
def _without_log() -> Iterator[None]:
    """Silence gin, which logs an error for each folder that lacks an included file."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        yield
    finally:
        logging.disable(before)


def _unread_value(bindings: Sequence[str], file: Path | None) -> str | None:
    """Name the binding whose value is neither a number nor a quoted text nor a name of gin's."""
    lines = [] if file is None else file.read_text("utf-8", "replace").splitlines()
    for line in [*bindings, *lines]:
        found = re.fullmatch(r"\s*([\w./]+)\s*=\s*([^#]*?)\s*(?:#.*)?", line)
        if found is None or not found[2]:
            continue
        name, value = found.groups()
        try:
            # What gin refers to with % and @ counts as a text here.
            ast.literal_eval(re.sub(r"[%@][\w./]+(\(\))?", "''", value))
        except (MemoryError, RecursionError, SyntaxError, ValueError) as error:
            if isinstance(error, SyntaxError) and line in lines:
                continue  # goes on in the next line
            bare = re.fullmatch(r"[^\s'\"()\[\]{},]+", value)
            fix = (
                f"write texts in quotes, \"{name}='{value}'\""
                if bare
                else "write numbers plainly and texts in quotes, for example [1, 2] or ['a', 'b']"
            )
            return (
                f"value of {name} must be a number, a text in quotes or a list, got {value}; {fix}"
            )
    return None


def _explain(error: Exception, names: Sequence[str], root: str) -> str:
    """Turn a message of gin into what, got, allowed and fix."""
    text = str(error).strip()
    first = text.splitlines()[0] if text else type(error).__name__
    if found := re.search(r"'?(\S+?)'? doesn't have a parameter named '(\w+)'", text):
        where, name = found.groups()
        near = did_you_mean(name, names)
        more = "" if near.startswith("did you mean") else "; `genrec settings STAGE` lists them"
        return f"setting must exist, got {where.split('.')[-1]}.{name}; {near}{more}"
    if found := re.search(r"No configurable matching (?:reference )?'?@?([\w./]+)", text):
        name = found.group(1)
        near = did_you_mean(name, [root, *names])
        return f"setting must exist, got {name!r}; {near} Write {root}.NAME=VALUE"
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
