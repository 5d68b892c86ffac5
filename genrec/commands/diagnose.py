"""``genrec diagnose``: what is wrong with a stage-one run."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import typer

from genrec.commands import add_command

__all__ = ["DiagnoseArguments", "app_command"]


@dataclass(frozen=True, kw_only=True)
class DiagnoseArguments:
    """What ``genrec diagnose`` is told."""

    run_dir: Annotated[Path, typer.Argument(help="A run of `genrec train rqvae`.")]
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON list.")] = False


def app_command(app: typer.Typer) -> None:
    """Add the command to an application."""

    def work(told: DiagnoseArguments) -> None:
        from genrec.reporting.diagnose import diagnose_run, format_findings

        findings = diagnose_run(told.run_dir)
        if told.as_json:
            print(json.dumps([asdict(finding) for finding in findings]))
        else:
            print(format_findings(findings))

    about = "Name what is wrong with a stage-one run, and what to change."
    add_command(app, "diagnose", DiagnoseArguments, work, about=about)
