"""``genrec sample``: the synthetic shop, written where there is no data yet."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from genrec.errors import run_command

__all__ = ["app_command"]


def app_command(app: typer.Typer) -> None:
    """Add the command to an application."""

    @app.command(
        "sample", help="Write a small synthetic shop, items.csv and interactions.csv, to try with."
    )
    def command(
        folder: Annotated[Path, typer.Argument(help="Folder to write.")],
        users: Annotated[int, typer.Option(min=1, help="Customers.")] = 2_000,
        seed: Annotated[int, typer.Option(help="Seed of the generator.")] = 0,
        debug: Annotated[bool, typer.Option(help="Show the traceback of an error.")] = False,
    ) -> None:
        def work() -> None:
            from genrec.data.sample import write_sample
            from genrec.errors import ConfigError

            try:
                write_sample(folder, seed=seed, num_users=users)
            except OSError as error:
                raise ConfigError(
                    f"FOLDER must be writable, got {folder} with {error.strerror}; name another"
                ) from error
            print(f"wrote {folder / 'items.csv'} and {folder / 'interactions.csv'}")
            print(f"train on it: genrec train sample --data {folder}")

        run_command(work, debug=debug)
