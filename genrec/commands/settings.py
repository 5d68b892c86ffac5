"""``genrec settings``: every setting of a stage, its default and its meaning."""

from __future__ import annotations

import shutil
import textwrap
from dataclasses import dataclass
from typing import Annotated

import typer

from genrec.commands import add_command
from genrec.errors import ConfigError

__all__ = ["SettingsArguments", "app_command", "format_settings"]


def format_settings(rows: list[tuple[str, str, str]], *, width: int) -> str:
    """Lay settings out for a terminal: name and default on a line, the meaning below.

    Args:
        rows: From :func:`genrec.settings.describe`.
        width: Columns of the terminal.

    Returns:
        Lines of text.
    """
    lines = []
    for name, default, meaning in rows:
        lines.append(f"{name} = {default}")
        lines += textwrap.wrap(
            meaning, max(width, 40), initial_indent=" " * 4, subsequent_indent=" " * 4
        )
    return "\n".join(lines)


@dataclass(frozen=True, kw_only=True)
class SettingsArguments:
    """What ``genrec settings`` is told."""

    stage: Annotated[str, typer.Argument(help="rqvae, decoder, sasrec or benchmark.")]
    grep: Annotated[
        str | None, typer.Option(help="Only those with this word in name or meaning.")
    ] = None


def app_command(app: typer.Typer) -> None:
    """Add the command to an application."""

    def work(told: SettingsArguments) -> None:
        from genrec.benchmark.settings import BenchmarkSettings
        from genrec.settings import describe
        from genrec.stages import find_stage

        wanted = BenchmarkSettings if told.stage == "benchmark" else find_stage(told.stage).settings
        rows = describe(wanted)
        word = (told.grep or "").lower()
        found = [row for row in rows if word in row[0].lower() or word in row[2].lower()]
        if not found:
            raise ConfigError(
                f"--grep must be a word of a setting, got {told.grep!r}; leave it out for all"
            )
        print(format_settings(found, width=shutil.get_terminal_size().columns))

    about = "List the settings of a training: name, default, meaning."
    add_command(app, "settings", SettingsArguments, work, about=about)
