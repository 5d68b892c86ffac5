"""The command ``genrec``: every module of :mod:`genrec.commands` adds one command.

The modules import the library inside their commands, so that ``genrec --help`` answers at once.
"""

from __future__ import annotations

import importlib
import pkgutil
import re
import sys
from collections.abc import Sequence
from functools import partial
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from genrec import commands
from genrec.errors import printable, run_command
from genrec.version import __version__

__all__ = ["build_app", "main"]


class _Commands(TyperGroup):
    """Commands whose mistakes in words and options are one line, as all others are."""

    def main(  # type: ignore[override]
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        *,
        standalone_mode: bool = True,
        **more: Any,
    ) -> Any:
        """Run the words; see :class:`typer.core.TyperGroup`."""
        if not standalone_mode:
            return super().main(args, prog_name, standalone_mode=False, **more)
        try:
            status = super().main(args, prog_name, standalone_mode=False, **more)
        except Exception as error:
            # typer brings a copy of click along in some versions, so no class can be named.
            if not hasattr(error, "format_message"):
                raise
            message = " ".join(str(error.format_message()).split())
            if type(error).__name__ == "NoArgsIsHelpError":  # no word was given
                run_command(partial(print, error.format_message()))
            elif message:
                path = getattr(getattr(error, "ctx", None), "command_path", self.name)
                message = re.sub(r"(?<=argument ')\w+", lambda name: name[0].upper(), message)
                got = _given(error, sys.argv[1:] if args is None else args)
                if got is not None and repr(got) not in message:
                    message = f"{message.rstrip('.')}, got {got!r:.80}"
                print(
                    f"error: {printable(message.rstrip('.'))}; see `{path} --help`",
                    file=sys.stderr,
                )
            status = getattr(error, "exit_code", 2)
        raise SystemExit(status if isinstance(status, int) else 0)


def _given(error: Exception, words: Sequence[str]) -> str | None:
    """Find what was given to the option that an error names, which the error itself may not say."""
    options: Sequence[str] = getattr(getattr(error, "param", None), "opts", ())
    for place in reversed(range(len(words))):
        name, equals, value = words[place].partition("=")
        if name in options:
            return value if equals else next(iter(words[place + 1 : place + 2]), None)
    return None


def build_app() -> typer.Typer:
    """Gather the commands.

    Returns:
        The application.
    """
    app = typer.Typer(
        name="genrec",
        cls=_Commands,
        help="Generative recommendation: semantic IDs, and a model that writes them. "
        "`genrec train sample` tries the whole way on a small synthetic shop.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,  # its tables cut long words at the width of the screen
    )
    app.callback()(_options)
    for module in pkgutil.iter_modules(commands.__path__):
        importlib.import_module(f"{commands.__name__}.{module.name}").app_command(app)
    return app


def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            is_eager=True,
            callback=lambda wanted: _print_version() if wanted else None,
            help="Print the version and exit.",
        ),
    ] = False,
) -> None:
    pass


def _print_version() -> None:
    print(f"genrec {__version__}")
    raise typer.Exit


def main(words: Sequence[str] | None = None) -> None:
    """Run the command line.

    Args:
        words: Its words; those of this process when None.
    """
    build_app()(words)
