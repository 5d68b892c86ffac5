"""``genrec runs``: what lies below a folder of runs, newest first."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from genrec.commands import add_command
from genrec.errors import printable

if TYPE_CHECKING:
    from genrec.runs import RunSummary

__all__ = ["RunsArguments", "app_command", "format_runs"]


@dataclass(frozen=True, kw_only=True)
class RunsArguments:
    """What ``genrec runs`` is told."""

    folder: Annotated[Path, typer.Argument(help="Folder with runs below it.")] = Path("runs")
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object a line.")] = False


#: What a state is called, where its name alone does not say it.
_STATES = {"saved": "saved recommender"}


def format_runs(runs: Sequence[RunSummary]) -> str:
    """Lay runs out as a table.

    Args:
        runs: In the order to show.

    Returns:
        Lines of text.
    """
    head = ("changed", "stage", "recipe", "data", "best", "state", "folder")
    rows = [head] + [
        (
            datetime.fromtimestamp(run.changed).strftime("%Y-%m-%d %H:%M"),
            run.stage or "-",
            run.recipe or "-",
            run.data or "-",
            "-" if run.value is None else f"{run.metric} {run.value:.4f}",
            _STATES.get(run.state, run.state)
            + ("" if run.step is None else f", step {run.step:,}"),
            str(run.path),
        )
        for run in runs
    ]
    widths = [max(len(row[place]) for row in rows) for place in range(len(head) - 1)]
    lines = (
        "  ".join([*(c.ljust(w) for c, w in zip(row[:-1], widths, strict=True)), row[-1]])
        for row in rows
    )
    return "\n".join(map(printable, lines))


def app_command(app: typer.Typer) -> None:
    """Add the command to an application."""

    def work(told: RunsArguments) -> None:
        from genrec.runs import list_runs

        found = list_runs(told.folder)
        if told.as_json:
            for run in found:
                print(json.dumps({**asdict(run), "path": str(run.path)}))
        elif found:
            print(format_runs(found))
        else:
            print(f"no runs below {told.folder}; `genrec train sample` makes some")

    about = "List the runs below a folder, the one changed last first, with their best metric."
    add_command(app, "runs", RunsArguments, work, about=about)
