"""Tasks on the workers of a Ray cluster, each of which opens its model once.

Tasks travel as JSON, results as JSON, bytes or ``.npy``: no code comes out of them. Ray comes with
the extra ``ray``.
"""

from __future__ import annotations

import importlib.util
import io
import json
import logging
import os
import re
import socket
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from genrec.errors import ConfigError, GenRecError, TrainingError, install_line

__all__ = ["Opening", "check_workers", "on_workers"]

#: Where workers die, new ones do what is left, so often.
_RETRIES = 2

#: Mistakes of the user's, which come back from workers by name.
_ERRORS = {kind.__name__: kind for kind in GenRecError.__subclasses__()}


@dataclass(frozen=True)
class Opening:
    """How a worker gets the function that does its tasks; travels to it.

    Attributes:
        function: Called once a worker; returns what is called with each task.
        arguments: Of the function.
    """

    function: Callable[..., Callable[[Any], Any]]
    arguments: tuple[Any, ...]


def check_workers(workers: int) -> None:
    """Make sure, before any other work, that there can be workers.

    Raises:
        ConfigError: If their number is below 1, Ray is not installed, or nobody answers at
            ``RAY_ADDRESS``.
    """
    if workers < 1:
        raise ConfigError(f"--ray must be >= 1, got {workers}; give the number of workers")
    if importlib.util.find_spec("ray") is None:
        raise ConfigError(f"--ray needs Ray, got none installed; {install_line('ray')}")
    place = re.fullmatch(r"(?:ray://)?([^:/]+):(\d+)", os.environ.get("RAY_ADDRESS", ""))
    if place is None:
        return
    try:  # Ray itself tries for minutes
        socket.create_connection((place[1], int(place[2])), timeout=10).close()
    except OSError as error:
        raise ConfigError(
            f"RAY_ADDRESS must name a running cluster, got {place[0]} ({error}); start one with "
            "`ray start --head`, or unset it for workers on this machine"
        ) from None


def on_workers(
    opening: Opening, tasks: Sequence[Any], *, workers: int, device: str | None = None
) -> Iterator[tuple[int, Any]]:
    """Do tasks on workers of the cluster of ``RAY_ADDRESS``, or of one that is started here.

    Args:
        opening: How a worker gets the function from a task to its result.
        tasks: JSON; a result is JSON, bytes or an array without objects.
        workers: Workers, >= 1.
        device: None gives each worker a GPU, or its share of one, where the cluster has any.

    Yields:
        The number of a task and its result, in the order in which they are done.

    Raises:
        ConfigError: See :func:`check_workers`; or if the cluster has fewer cores than workers.
        GenRecError: What the first task that failed raised.
        TrainingError: If workers die again and again.
    """
    check_workers(workers)
    left = dict(enumerate(tasks))
    with _cluster(workers) as ray:
        for again in range(_RETRIES + 1):
            try:
                for number, result in _results(ray, opening, left, workers, device):
                    if isinstance(result, GenRecError):
                        raise result
                    del left[number]
                    yield number, result
                return
            except ray.exceptions.RayTaskError:  # an error of the code, not of a worker
                raise
            except ray.exceptions.RayError as error:
                if again == _RETRIES:
                    reason = " ".join(str(error).split())[:100]
                    raise TrainingError(
                        f"workers must live until all is done, got {type(error).__name__} after "
                        f"{_RETRIES} new starts ({reason}); give them more memory, or use fewer, "
                        "and start again"
                    ) from error


def _results(
    ray: Any, opening: Opening, left: dict[int, Any], workers: int, device: str | None
) -> Iterator[tuple[int, Any]]:
    """Do what is left, on workers that are started for it."""
    if not left:
        return
    gpus = 0.0
    if device is None or device.startswith("cuda"):
        gpus = min(1.0, ray.cluster_resources().get("GPU", 0) / workers)
    rows = [{"number": number, "task": json.dumps(task)} for number, task in left.items()]
    # Blocks that lie there already: reading tasks would wait for cores that the workers hold.
    blocks = ray.data.from_items(rows, override_num_blocks=len(rows))
    with warnings.catch_warnings():  # what shall come in place of the last argument lacks this
        warnings.simplefilter("ignore")
        done = blocks.map_batches(
            _Worker,
            fn_constructor_args=[opening],
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(size=min(workers, len(rows))),
            num_cpus=1,
            num_gpus=gpus,
            # Ray's own restarts have no end, where a task kills its worker by what it needs.
            ray_remote_args_fn=lambda: {"max_restarts": 0, "max_task_retries": 0},
        )
    for row in done.iter_rows():
        yield int(row["number"]), _unpacked(row["kind"], row["result"])


class _Worker:
    """Opens once what it works with; a mistake of the user's goes back as a result."""

    def __init__(self, opening: Opening) -> None:
        self.opening = opening
        self.work: Callable[[Any], Any] | None = None

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        kinds, results = [], []
        for task in batch["task"]:
            try:
                if self.work is None:
                    self.work = self.opening.function(*self.opening.arguments)
                result = self.work(json.loads(task))
            except GenRecError as error:
                result = error
            kind, packed = _packed(result)
            kinds.append(kind)
            results.append(packed)
        packed_all = np.array(results, dtype=object)
        return {"number": batch["number"], "kind": np.array(kinds), "result": packed_all}


def _packed(result: Any) -> tuple[str, bytes]:
    """Write a result, with the name of how; an error by the name of its class."""
    if isinstance(result, bytes):
        return "bytes", result
    if isinstance(result, np.ndarray):
        file = io.BytesIO()
        np.save(file, result, allow_pickle=False)
        return "array", file.getvalue()
    if isinstance(result, GenRecError):
        return type(result).__name__, json.dumps(str(result)).encode()
    return "json", json.dumps(result).encode()


def _unpacked(kind: str, packed: bytes) -> Any:
    """Read what :func:`_packed` wrote."""
    if kind == "bytes":
        return packed
    if kind == "array":
        return np.load(io.BytesIO(packed), allow_pickle=False)
    found = json.loads(packed)
    if kind == "json":
        return found
    return _ERRORS.get(kind, GenRecError)(found)


@contextmanager
def _cluster(workers: int) -> Iterator[Any]:
    """Join a cluster, or start one of this machine's cores, and leave it afterwards."""
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    import ray
    import ray.data

    joined = ray.is_initialized()
    if not joined:
        logging.getLogger("ray").setLevel(logging.ERROR)
        here: dict[str, Any] = {}
        if "RAY_ADDRESS" not in os.environ:
            here = {"address": "local", "num_cpus": workers, "include_dashboard": False}
        try:
            ray.init(log_to_driver=False, logging_level=logging.ERROR, **here)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise ConfigError(
                f"RAY_ADDRESS must name a running cluster, got {os.environ.get('RAY_ADDRESS')!r} "
                f"({' '.join(str(error).split())[:160]}); start one with `ray start --head`, or "
                "unset it"
            ) from None
    try:
        cores = int(ray.cluster_resources().get("CPU", 0))
        if cores < workers:
            raise ConfigError(
                f"--ray must be at most the cores of the cluster, {cores}, got {workers}; use "
                "fewer workers, or add machines with `ray start --address=...`"
            )
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = context.print_on_execution_start = False
        logging.getLogger("ray.data").setLevel(logging.CRITICAL)
        yield ray
    finally:
        if not joined:
            ray.shutdown()
