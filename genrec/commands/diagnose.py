"""``genrec diagnose``: what is wrong with a stage-one run."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from genrec.errors import run_command

__all__ = ["app_command"]


def app_command(app: typer.Typer) -> None:
    """Add the command to an application.

    Args:
        app: The application.
    """

    @app.command("diagnose", help="Name what is wrong with a stage-one run, and what to change.")
    def command(
        run_dir: Annotated[Path, typer.Argument(help="A run of `genrec train rqvae`.")],
        as_json: Annotated[bool, typer.Option("--json", help="Print one JSON list.")] = False,
        debug: Annotated[bool, typer.Option(help="Show the traceback of an error.")] = False,
    ) -> None:
        def work() -> None:
            from genrec.reporting.diagnose import diagnose_run, format_findings

            findings = diagnose_run(run_dir)
            if as_json:
                print(json.dumps([asdict(finding) for finding in findings]))
            else:
                print(format_findings(findings))

        run_command(work, debug=debug)
