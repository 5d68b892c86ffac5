"""``genrec train``: from a recipe to a run, one stage or the whole way."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from genrec.commands import add_command

__all__ = ["TrainArguments", "app_command"]


@dataclass(frozen=True, kw_only=True)
class TrainArguments:
    """What ``genrec train`` is told."""

    what: Annotated[
        list[str],
        typer.Argument(
            metavar="WHAT...",
            help="Stages (rqvae, decoder, sasrec) and recipes, by name or as gin files; or auto, "
            "which picks a recipe for --data.",
            show_default=False,
        ),
    ]
    data: Annotated[
        Path | None,
        typer.Option(help="The source's folder or a prepared data set. [the recipe's]"),
    ] = None
    split: Annotated[str | None, typer.Option(help="Part of the release, for example beauty.")] = (
        None
    )
    name: Annotated[
        str | None,
        typer.Option(help="Name of the runs, runs/STAGE/NAME. [the recipe's]"),
    ] = None
    gin: Annotated[
        list[str] | None,
        typer.Option(
            metavar="BINDING",
            help='An override: "train.batch_size=128", and with several stages '
            '"decoder.batch_size=128"; may be repeated. `genrec settings STAGE` lists them.',
        ),
    ] = None
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Go on from the latest checkpoint; of several stages, finished ones are kept.",
        ),
    ] = False
    threads: Annotated[int | None, typer.Option(min=1, help="Threads on a CPU. [one a core]")] = (
        None
    )


def app_command(app: typer.Typer) -> None:
    """Add the command to an application."""

    def work(told: TrainArguments) -> None:
        from genrec.auto import pick
        from genrec.entry import settle_process
        from genrec.stages import Options, plan, run_plan, say

        settle_process(told.threads)
        folder = None if told.data is None else str(told.data)
        options = Options(told.split, folder, told.name, told.gin or (), told.resume)
        words, options, reasons = pick(told.what, options)
        steps = plan(words, options)
        for line in reasons:
            say(line)
        run_plan(steps)

    about = (
        "Train recipes. `genrec train amazon` goes the whole way: semantic IDs (rqvae), then "
        "the model that writes them (decoder). `genrec train sasrec amazon` trains one stage; "
        "`genrec train rqvae/amazon decoder/amazon_cpu` names a recipe for each."
    )
    add_command(app, "train", TrainArguments, work, about=about)
