"""``genrec serve``: recommendations over HTTP."""

from __future__ import annotations

import importlib
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from genrec.commands import add_command
from genrec.errors import ConfigError, MissingPathError, install_line

__all__ = ["ServeArguments", "app_command", "read_token"]

TOKEN_VARIABLE = "GENREC_SERVE_TOKEN"

_PACKAGES = ("fastapi", "uvicorn", "httptools", "prometheus_client", "orjson")
_LEAST_LETTERS = 16


@dataclass(frozen=True, kw_only=True)
class ServeArguments:
    """What ``genrec serve`` is told."""

    run_dir: Annotated[Path, typer.Argument(help="A run of any training but stage one.")]
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1"
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8000
    allow_host: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="A name that requests may call the service by in their Host header; give it again "
            "for more. [on 127.0.0.1 this machine's names, else any]",
        ),
    ] = None
    no_random_user: Annotated[
        bool,
        typer.Option(
            "--no-random-user",
            help="Do not show the history of a random user of the data set to who asks, for shops "
            "whose users are real.",
        ),
    ] = False
    token_file: Annotated[
        Path | None,
        typer.Option(
            help="File with the token that changes of the items must bring; "
            f"{TOKEN_VARIABLE} does as well. Without a token nothing can be changed."
        ),
    ] = None
    journal: Annotated[
        Path | None,
        typer.Option(help="File that keeps the changes. [RUN_DIR.journal, beside the run]"),
    ] = None
    adopt: Annotated[
        bool, typer.Option("--adopt", help="Make the changes of another run's journal on this one.")
    ] = False
    models: Annotated[
        Path | None, typer.Option(help="Folder below which newer runs may be swapped in.")
    ] = None
    data: Annotated[
        Path | None, typer.Option(help="Prepared data set, for its users. [the run's]")
    ] = None
    device: Annotated[str | None, typer.Option(help="e.g. cpu or cuda. [a GPU if any]")] = None
    beams: Annotated[int | None, typer.Option(min=1, help="Beams. [those of the run]")] = None
    threads: Annotated[
        int | None,
        typer.Option(min=1, help="Searches at a time on a CPU. [one a core but one, at least two]"),
    ] = None
    max_batch: Annotated[
        int, typer.Option(min=1, help="Most users of one search; 1 answers each request alone.")
    ] = 64
    batch_wait_ms: Annotated[
        float, typer.Option(help="How long a search waits for more requests while others come.")
    ] = 2.0
    queue: Annotated[int, typer.Option(help="Users that may wait; beyond them 503.")] = 1024
    timeout: Annotated[float, typer.Option(help="Seconds for a body and for an answer.")] = 10.0
    max_body_mb: Annotated[float, typer.Option(help="Longest body, in MB.")] = 4.0


#: What messages of the library call otherwise than the options here.
_OPTIONS = {
    "device": "--device",
    "num_beams": "--beams",
    "batch_wait_ms": "--batch-wait-ms",
    "queue_users": "--queue",
    "timeout_s": "--timeout",
    "max_body_bytes": "--max-body-mb",
}


def app_command(app: typer.Typer) -> None:
    """Add the command to an application."""

    def work(told: ServeArguments) -> None:
        _check_packages()
        from genrec.entry import settle_process
        from genrec.runs import find_run
        from genrec.serving.http.service import Source
        from genrec.serving.http.settings import ServiceSettings

        token = read_token(told.token_file)
        settings = ServiceSettings(
            max_batch=told.max_batch,
            batch_wait_ms=told.batch_wait_ms,
            queue_users=told.queue,
            timeout_s=told.timeout,
            max_body_bytes=int(told.max_body_mb * 1e6),
        )
        settle_process(told.threads or _usual_threads())
        from genrec.serving.http.server import serve

        run = find_run(told.run_dir)
        if told.models is not None and not told.models.is_dir():
            raise MissingPathError(f"--models must be a folder, got {told.models}; check the path")
        source = Source(
            run=str(run),
            data=told.data,
            device=told.device,
            num_beams=told.beams,
            models=told.models,
            journal=_journal(told.journal, run, token),
            adopt=told.adopt,
        )
        serve(
            source,
            settings,
            host=told.host,
            port=told.port,
            token=token,
            allow_hosts=told.allow_host or (),
            random_user=not told.no_random_user,
        )

    about = (
        "Serve a run over HTTP: recommendations, search, similar items, and, with a token, items "
        "that come and go. /openapi.json says how."
    )
    add_command(app, "serve", ServeArguments, work, about=about, options=_OPTIONS)


def read_token(file: Path | None) -> str | None:
    """Find the token of a service.

    Args:
        file: Where it stands; None takes the environment's.

    Returns:
        The token, or None where there is none.

    Raises:
        ConfigError: If it is too short or not plain text.
        MissingPathError: If there is no such file.
    """
    where = TOKEN_VARIABLE
    if file is not None:
        where = str(file)
        try:
            token = file.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError):
            raise MissingPathError(
                f"--token-file must be a text file, got {file}; write the token into it"
            ) from None
    elif TOKEN_VARIABLE in os.environ:
        token = os.environ[TOKEN_VARIABLE].strip()
    else:
        return None
    if not re.fullmatch(rf"[!-~]{{{_LEAST_LETTERS},}}", token):
        raise ConfigError(
            f"token must have at least {_LEAST_LETTERS} letters, digits or signs and no blank, got "
            f"{len(token)} characters in {where}; make one with `openssl rand -hex 32`"
        )
    return token


def _usual_threads() -> int | None:
    """Leave one of many cores to HTTP, unless the environment says how many threads there are.

    Of two cores a search and HTTP alone leave a part idle.
    """
    if "OMP_NUM_THREADS" in os.environ:
        return None
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity is not None else os.cpu_count() or 1
    return max(min(2, cores), cores - 1)


def _journal(named: Path | None, run: Path, token: str | None) -> Path | None:
    """Name the journal; None where nothing can be changed and nothing was."""
    journal = named
    if journal is None:
        folder = run.resolve()
        journal = folder.with_name(f"{folder.name}.journal")
    return journal if named is not None or token is not None or journal.is_file() else None


def _check_packages() -> None:
    for name in _PACKAGES:
        try:
            importlib.import_module(name)
        except ImportError:
            raise ConfigError(
                f"genrec serve needs the extra serve, got no {name}; {install_line('serve')}"
            ) from None
