"""``genrec report``: one page about one or several runs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from genrec.commands import add_command

__all__ = ["ReportArguments", "app_command"]

#: What messages of the library call otherwise than the options here.
_OPTIONS = {"split to evaluate": "--split"}


@dataclass(frozen=True, kw_only=True)
class ReportArguments:
    """What ``genrec report`` is told."""

    runs: Annotated[
        list[Path], typer.Argument(help="Runs of any training, on one data set.", metavar="RUN...")
    ]
    out: Annotated[Path, typer.Option(help="File to write; an older one is replaced.")] = Path(
        "report.html"
    )
    split: Annotated[str, typer.Option(help="Split of the table: valid or test.")] = "test"
    users: Annotated[
        int, typer.Option(min=1, help="Validation users that the diagnosis looks at.")
    ] = 2000
    samples: Annotated[int, typer.Option(min=0, help="Users to show recommendations for.")] = 4
    user: Annotated[
        list[str] | None,
        typer.Option(help="A user to show recommendations for; may be repeated."),
    ] = None
    data: Annotated[
        Path | None, typer.Option(help="Prepared data set. [that of the first run]")
    ] = None
    device: Annotated[str | None, typer.Option(help="e.g. cpu or cuda. [a GPU if any]")] = None


def app_command(app: typer.Typer) -> None:
    """Add the command to an application."""

    def work(told: ReportArguments) -> None:
        from genrec.entry import settle_process

        settle_process()
        from genrec.commands.recommend import pick_users
        from genrec.data.prepared import PreparedDataset
        from genrec.device import pick_device
        from genrec.errors import DataError
        from genrec.reporting.report import Told, write_report

        def choose(data: PreparedDataset) -> list[int]:
            try:
                return pick_users(data, told.user or (), told.samples)
            except DataError:
                if told.user:
                    raise
                return []  # nobody has a held-out item, which the page says

        written = write_report(
            told.runs,
            told.out,
            Told(
                split=told.split,
                users=told.users,
                choose=choose,
                data=None if told.data is None else PreparedDataset.load(told.data),
                device=pick_device(told.device),
            ),
        )
        size = written.stat().st_size
        print(f"wrote {written}, {size / 1e6:.1f} MB; open it in a browser")

    about = (
        "Write one page about runs: how good they are, what their codes mean, what they "
        "recommend, what is wrong and what to try next."
    )
    add_command(app, "report", ReportArguments, work, about=about, options=_OPTIONS)
