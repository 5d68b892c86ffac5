"""Runs a command in a process of its own, which may be killed at a point that is named.

Processes are forked from a server that has everything imported, so that one costs a fraction of a
second. What touches a folder is counted by Python's audit events: the 17th change of the folder is
a point that any run of the same command passes, and there it can be killed.
"""

from __future__ import annotations

import multiprocessing
import os
import resource
import runpy
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["Done", "Limits", "run"]

_CHANGES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.chmod", "os.truncate")
_NOBODY = 65534
_PRELOAD = ["torch._dynamo", "torch.distributed.nn", "torch.distributed.tensor", "pydantic"]
_PRELOAD += ["accelerate", "polars", "sklearn.decomposition", "genrec.stages", "genrec.config"]
_PRELOAD += ["sklearn.feature_extraction.text", "genrec.training.rqvae", "genrec.training.decoder"]
_PRELOAD += ["genrec.serving.files", "genrec.cli", "genrec.evaluation.compare", "genrec.entry"]


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How a process is hindered.

    Attributes:
        kill_at: Kill it at this change of the folder, from 1; None for never.
        kill_after_s: Kill it after these seconds; None for never.
        file_bytes: Longest file that it may write, which is how a full disk shows.
        as_nobody: Take the rights of root away, so that a folder can be read-only.
        timeout_s: Seconds after which it has hung.
    """

    kill_at: int | None = None
    kill_after_s: float | None = None
    file_bytes: int | None = None
    as_nobody: bool = False
    timeout_s: float = 120.0


@dataclass(frozen=True)
class Done:
    """What came of a process.

    Attributes:
        status: Exit status; negative the signal that killed it; None where it hung.
        output: What it printed.
        errors: What it printed as errors.
        changes: Changes of the folder.
        seconds: How long it took.
    """

    status: int | None
    output: str
    errors: str
    changes: int
    seconds: float

    @property
    def is_one_line(self) -> bool:
        """Whether it ended as a command ends on bad input: one line, status 2, no traceback."""
        lines = [
            line
            for line in self.errors.splitlines()
            if line.strip() and not line.startswith("warning: ")
        ]
        return self.status == 2 and len(lines) == 1 and lines[0].startswith("error: ")


def run(
    words: Sequence[str], folder: Path, *, limits: Limits | None = None, call: str | None = None
) -> Done:
    """Run ``genrec`` with some words, or a Python file.

    Args:
        words: The command's words; those of the file with ``call``.
        folder: An existing one, below which it writes.
        limits: How it is hindered.
        call: A Python file to run in place of ``genrec``.

    Returns:
        What came of it.
    """
    limits = limits or Limits()
    context: Any = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOAD)
    logs = folder.parent / f".{folder.name}.logs"
    logs.mkdir(exist_ok=True, parents=True)
    process = context.Process(target=_work, args=(list(words), folder, logs, limits, call))
    began = time.monotonic()
    process.start()
    process.join(limits.kill_after_s if limits.kill_after_s is not None else limits.timeout_s)
    hung = False
    if process.is_alive():
        hung = limits.kill_after_s is None
        process.kill()
        process.join()
    texts = [(logs / name).read_text("utf-8", "replace") if (logs / name).exists() else ""
             for name in ("out", "err", "changes")]  # fmt: skip
    for file in logs.iterdir():
        file.unlink()
    status = None if hung else process.exitcode
    seconds = time.monotonic() - began
    return Done(status, texts[0], texts[1], int(texts[2] or 0), seconds)


def _work(words: list[str], folder: Path, logs: Path, limits: Limits, call: str | None) -> None:
    """Do the work in the new process."""
    for number, name in ((1, "out"), (2, "err")):
        handle = os.open(logs / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(handle, number)
    sys.stdout = os.fdopen(1, "w", buffering=1)
    sys.stderr = os.fdopen(2, "w", buffering=1)
    sys.argv = ["genrec", *words]
    signal.signal(signal.SIGINT, signal.default_int_handler)
    changes = _watch(folder, limits.kill_at)
    if limits.file_bytes is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limits.file_bytes, limits.file_bytes))
    if limits.as_nobody and os.geteuid() == 0:
        os.setegid(_NOBODY)
        os.seteuid(_NOBODY)
    try:
        if call is not None:
            runpy.run_path(call, run_name="__main__")
        else:
            from genrec.cli import main

            main(words)
    finally:
        if limits.file_bytes is None and not limits.as_nobody:
            (logs / "changes").write_text(str(changes[0]))


def _watch(folder: Path, kill_at: int | None) -> list[int]:
    """Count the changes of a folder, and end the process at one of them."""
    place, seen = str(folder), [0]

    def hook(event: str, values: tuple[Any, ...]) -> None:
        if event == "open":
            changes = isinstance(values[2], int) and values[2] & (os.O_WRONLY | os.O_RDWR)
        else:
            changes = event in _CHANGES
        if not changes or not str(values[0]).startswith(place):
            return
        seen[0] += 1
        if seen[0] == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
    return seen
