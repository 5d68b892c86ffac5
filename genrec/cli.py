"""The command ``genrec``: every module of :mod:`genrec.commands` adds one command.

The modules import the library inside their commands, so that ``genrec --help`` answers at once.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Sequence
from typing import Annotated

import typer

from genrec import commands
from genrec.version import __version__

__all__ = ["build_app", "main"]


def build_app() -> typer.Typer:
    """Gather the commands.

    Returns:
        The application.
    """
    app = typer.Typer(
        name="genrec",
        help="Generative recommendation: semantic IDs, and a model that writes them. "
        "`genrec train sample` tries the whole way on a small synthetic shop.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
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
