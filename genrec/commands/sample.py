"""``genrec sample``: the synthetic shop, written where there is no data yet."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from genrec.commands import add_command
from genrec.errors import ConfigError, StorageError

__all__ = ["SampleArguments", "app_command"]


@dataclass(frozen=True, kw_only=True)
class SampleArguments:
    """What ``genrec sample`` is told."""

    folder: Annotated[Path, typer.Argument(help="Folder to write.")]
    users: Annotated[int, typer.Option(min=1, help="Customers.")] = 2_000
    seed: Annotated[int, typer.Option(help="Seed of the generator.")] = 0


def app_command(app: typer.Typer) -> None:
    """Add the command to an application."""

    def work(told: SampleArguments) -> None:
        from genrec.data.sample import write_sample

        folder = told.folder
        try:
            write_sample(folder, seed=told.seed, num_users=told.users)
        except StorageError:  # it says itself what is wrong
            raise
        except OSError as error:
            raise ConfigError(
                f"FOLDER must be writable, got {folder} with {error.strerror}; name another"
            ) from error
        print(f"wrote {folder / 'items.csv'} and {folder / 'interactions.csv'}")
        print(f"train on it: genrec train sample --data {folder}")

    about = "Write a small synthetic shop, items.csv and interactions.csv, to try with."
    add_command(app, "sample", SampleArguments, work, about=about)
