"""The processes that accelerate launch or torchrun started, from their first line to their last."""

from __future__ import annotations

import atexit
import gc
import importlib
import os
from collections.abc import Callable
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from genrec.errors import ConfigError

__all__ = ["launcher_watch", "start_accelerator"]

#: Set by torchrun, and by accelerate launch, in the processes that they start.
_LAUNCHERS = ("TORCHELASTIC_RUN_ID", "ACCELERATE_MIXED_PRECISION")
_PARENT = os.getppid()


def start_accelerator(**options: Any) -> Accelerator:
    """Join the other processes; options are those of ``accelerate.Accelerator``.

    A run may follow another one in the same process, with another precision. The process group is
    left when Python ends.

    Raises:
        ConfigError: If a launcher started several processes that ``accelerate`` does not join; each
            would train alone.
    """
    if torch.distributed.is_available():
        # Before there is a group: DDP imports it, and defaults of its functions would then hold the
        # group, whose threads no end of it stops.
        importlib.import_module("torch.distributed.nn")
    AcceleratorState._reset_state()  # the precision; the processes stay joined
    accelerator = Accelerator(**options)
    launched = os.environ.get("WORLD_SIZE", "1") if "LOCAL_RANK" in os.environ else "1"
    if accelerator.num_processes == 1 and launched != "1":
        raise ConfigError(
            f"processes must train together, got {launched} that accelerate leaves alone; without "
            "a GPU use accelerate launch --cpu, or set ACCELERATE_USE_CPU=true"
        )
    if accelerator.num_processes > 1:
        atexit.unregister(_leave_group)
        atexit.register(_leave_group)
    return accelerator


def launcher_watch() -> Callable[[], bool] | None:
    """Keep an eye on the process that launched this one.

    Returns:
        Tells whether it has died; None where no launcher started this one, since a
        terminal may be closed without an end to what runs in it.
    """
    if not any(name in os.environ for name in _LAUNCHERS):
        return None
    return lambda: os.getppid() != _PARENT


def _leave_group() -> None:
    """Stop the threads of the group: one that still runs at the end aborts the process."""
    if torch.distributed.is_initialized():
        gc.collect()  # models and accelerators in cycles hold it too
        torch.distributed.destroy_process_group()
