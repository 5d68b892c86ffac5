"""``genrec evaluate``: how good the recommendations of a stage-two run are."""

from __future__ import annotations

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

    @app.command(
        "evaluate", help="Rank the held-out items of a data set; writes RUN_DIR/metrics.json."
    )
    def command(
        run_dir: Annotated[Path, typer.Argument(help="A run of scripts/train_decoder.py.")],
        split: Annotated[str, typer.Option(help="valid or test.")] = "test",
        beams: Annotated[int | None, typer.Option(help="Beams. [those of the run]")] = None,
        exclude_history: Annotated[
            bool | None,
            typer.Option(
                "--exclude-history/--keep-history",
                help="Never recommend items of the history. [as in the run]",
            ),
        ] = None,
        k: Annotated[
            list[int] | None,
            typer.Option("-k", help="Length of the list; may be repeated. [those of the run]"),
        ] = None,
        sasrec: Annotated[
            Path | None,
            typer.Option(help="A run of scripts/train_sasrec.py, to stand in the table too."),
        ] = None,
        reuse: Annotated[
            bool, typer.Option("--reuse", help="Print the numbers at hand where they still hold.")
        ] = False,
        debug: Annotated[bool, typer.Option(help="Show the traceback of an error.")] = False,
    ) -> None:
        def work() -> None:
            from genrec.training.retrieval_eval import evaluate_run

            evaluate_run(
                run_dir,
                split=split,
                num_beams=beams,
                exclude_history=exclude_history,
                ks=k,
                sasrec=sasrec,
                reuse=reuse,
            )

        run_command(work, debug=debug)
