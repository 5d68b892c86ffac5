"""The commands of ``genrec``, one module each; all of them call the library.

What a command can be told is a frozen dataclass: each word is described once, at its field.
"""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Callable, Mapping
from inspect import Parameter, Signature
from typing import Annotated, Any, TypeVar, get_type_hints

import typer
from typer.models import ArgumentInfo

from genrec.errors import run_command

__all__ = ["add_command", "as_typed"]

A = TypeVar("A")

_DEBUG = Annotated[bool, typer.Option(help="Show the traceback of an error.")]


def add_command(
    app: typer.Typer,
    name: str,
    arguments: type[A],
    work: Callable[[A], object],
    *,
    about: str,
    options: Mapping[str, str] | Callable[[A], Mapping[str, str]] | None = None,
) -> None:
    """Add a command to an application; ``--debug`` comes with it.

    Args:
        app: The application.
        name: What the user types.
        arguments: A dataclass whose fields are annotated with a ``typer.Argument`` or
            ``typer.Option``; a field without a default must be given.
        work: Does it; a :class:`~genrec.errors.GenRecError` becomes one line and exit status 2.
        about: One sentence for ``--help``.
        options: See :func:`~genrec.errors.run_command`; or a function from what was typed to them.
    """
    hints = get_type_hints(arguments, include_extras=True)
    words = [
        Parameter(
            known.name,
            Parameter.KEYWORD_ONLY,
            annotation=hints[known.name],
            default=Parameter.empty if known.default is dataclasses.MISSING else known.default,
        )
        for known in dataclasses.fields(arguments)  # type: ignore[arg-type]
    ]
    debug = Parameter("debug", Parameter.KEYWORD_ONLY, annotation=_DEBUG, default=False)

    def command(*, debug: bool, **given: Any) -> None:
        told = arguments(**given)
        named = options(told) if callable(options) else options
        run_command(lambda: work(told), debug=debug, options=named)

    # typer reads both: the order and defaults here, the types there.
    command.__signature__ = Signature([*words, debug])  # type: ignore[attr-defined]
    command.__annotations__ = {word.name: word.annotation for word in [*words, debug]}
    first = about.partition(". ")[0].rstrip(".") + "."  # whole in the list of commands
    app.command(name, help=about, short_help=first)(command)


def as_typed(name: str, told: Any) -> str:
    """Write a command as it was typed, as far as it differs from the defaults.

    Args:
        name: Of the command.
        told: Its words, whose options are named after their fields.

    Returns:
        One line for a shell.
    """
    hints = get_type_hints(type(told), include_extras=True)
    words = ["genrec", name]
    for known in dataclasses.fields(told):
        value = getattr(told, known.name)
        if value == known.default:
            continue
        values = value if isinstance(value, (list, tuple)) else [value]
        if isinstance(hints[known.name].__metadata__[0], ArgumentInfo):
            words += map(str, values)
            continue
        option = known.name.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{option}" if value else f"--no-{option}")
        else:
            words += [word for one in values for word in (f"--{option}", str(one))]
    return shlex.join(words)
