"""``genrec benchmark``: models over seeds, in one table with what luck may explain."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated

import typer

from genrec.commands import add_command

__all__ = ["BenchmarkArguments", "app_command"]


@dataclass(frozen=True, kw_only=True)
class BenchmarkArguments:
    """What ``genrec benchmark`` is told."""

    config: Annotated[
        str,
        typer.Argument(
            help="A gin file, or a name in configs/benchmark: beauty, movielens, sample."
        ),
    ]
    data: Annotated[
        Path | None,
        typer.Option(help="The source's folder or a prepared data set. [the file's]"),
    ] = None
    split: Annotated[str | None, typer.Option(help="Part of the release, for example beauty.")] = (
        None
    )
    model: Annotated[
        list[str] | None,
        typer.Option(help="Run only this model of the file; may be repeated. [all]"),
    ] = None
    use: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="RUN",
            help="A finished run that stands for a training of the same settings and data; "
            "may be repeated. Those in the recipes' own folders are found without.",
        ),
    ] = None
    into: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="A Markdown file that gets short tables too, between its lines "
            "`<!-- benchmark NAME -->` and `<!-- end of benchmark NAME -->`, the name being that "
            "of the gin file.",
        ),
    ] = None
    gin: Annotated[
        list[str] | None,
        typer.Option(
            metavar="BINDING", help='An override: "benchmark.seeds=[0]"; may be repeated.'
        ),
    ] = None
    threads: Annotated[int | None, typer.Option(min=1, help="Threads on a CPU. [one a core]")] = (
        None
    )


def app_command(app: typer.Typer) -> None:
    """Add the command to an application."""

    def work(told: BenchmarkArguments) -> None:
        from genrec.entry import settle_process

        settle_process(told.threads)
        from genrec.benchmark.run import run_benchmark
        from genrec.benchmark.settings import BenchmarkSettings
        from genrec.config import configure
        from genrec.data.prepared import is_prepared
        from genrec.recipes import find_recipe
        from genrec.training.settings import DataSettings

        shorthands: dict[str, str | None] = {}
        words = ["genrec", "benchmark", told.config]
        if told.data is not None:
            shorthands["dataset_folder"] = str(told.data)
            words += ["--data", str(told.data)]
            if is_prepared(told.data):
                shorthands["dataset_split"] = None
        if told.split is not None:
            shorthands["dataset_split"] = told.split
            words += ["--split", told.split]
        on_data = [f"benchmark.{known.name}" for known in fields(DataSettings)]
        for binding in told.gin or ():  # of the others the rows keep the settings themselves
            if binding.partition("=")[0].strip() in on_data:
                words += ["--gin", binding]
        bindings = [f"benchmark.{name}={value!r}" for name, value in shorthands.items()]
        file = find_recipe(told.config, ("benchmark",))
        settings = configure(
            BenchmarkSettings, file, [*bindings, *(told.gin or ())], root="benchmark"
        )
        run_benchmark(
            settings,
            command=words,
            only=told.model or (),
            use=told.use or (),
            into=None if told.into is None else (told.into, Path(told.config).stem),
        )

    about = (
        "Train, fit and evaluate the models of a file over its seeds, and write the table. "
        "A second call goes on where the first one stopped."
    )
    add_command(app, "benchmark", BenchmarkArguments, work, about=about)
