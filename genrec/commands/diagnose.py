"""``genrec diagnose``: what is wrong with a run, of either stage."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import typer

from genrec.commands import add_command
from genrec.errors import ConfigError

__all__ = ["DiagnoseArguments", "app_command"]

_OPTIONS = {"users": "--users"}


@dataclass(frozen=True, kw_only=True)
class DiagnoseArguments:
    """What ``genrec diagnose`` is told."""

    run_dir: Annotated[Path, typer.Argument(help="A run of any `genrec train`.")]
    as_json: Annotated[
        bool,
        typer.Option("--json", help="Print JSON: of stage one a list of findings, else an object."),
    ] = False
    users: Annotated[
        int | None,
        typer.Option(min=1, help="Validation users to look at; not for stage one. [2000]"),
    ] = None
    data: Annotated[
        Path | None, typer.Option(help="Prepared data set; not for stage one. [that of the run]")
    ] = None


def app_command(app: typer.Typer) -> None:
    """Add the command to an application."""

    def work(told: DiagnoseArguments) -> None:
        from genrec.atomic import read_json
        from genrec.checkpoint import resolve_step
        from genrec.registry import RANKERS
        from genrec.runs import find_run

        run = find_run(told.run_dir)
        if (run / "meta.json").is_file():
            config = read_json(resolve_step(run, prefer=("latest",)) / "config.json")
            if config.get("model") in RANKERS:
                _diagnose_ranking(run, told)
                return
        if told.users is not None or told.data is not None:
            raise ConfigError(
                f"--users and --data must be left out of stage one's diagnosis, got {run}, which "
                "reads what training wrote down; leave them out, or give a run that recommends"
            )
        from genrec.reporting.diagnose import diagnose_run, format_findings

        findings = diagnose_run(run)
        if told.as_json:
            print(json.dumps([asdict(finding) for finding in findings]))
        else:
            print(format_findings(findings))

    about = "Name what is wrong with a run, and what to change."
    add_command(app, "diagnose", DiagnoseArguments, work, about=about, options=_OPTIONS)


def _diagnose_ranking(run: Path, told: DiagnoseArguments) -> None:
    """Diagnose a run that recommends."""
    from genrec.entry import settle_process

    settle_process()
    from genrec.data.prepared import PreparedDataset
    from genrec.device import pick_device
    from genrec.reporting.ranking_diagnosis import format_diagnosis
    from genrec.reporting.ranking_findings import USERS, diagnose_ranking
    from genrec.trained import load_trained, open_data

    trained = load_trained(run, device=pick_device(None))
    data = open_data(trained) if told.data is None else PreparedDataset.load(told.data)
    found = diagnose_ranking(trained, data, users=USERS if told.users is None else told.users)
    print(json.dumps(found.to_dict()) if told.as_json else format_diagnosis(found))
