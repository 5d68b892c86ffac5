"""The processes that accelerate launch or torchrun started, from their first line to their last."""

from __future__ import annotations

import atexit
import gc
import importlib
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import InitProcessGroupKwargs

from genrec.errors import ConfigError, GenRecError, TrainingError

__all__ = ["launcher_watch", "start_accelerator", "together"]

#: Set by torchrun, and by accelerate launch, in the processes that they start.
_LAUNCHERS = ("TORCHELASTIC_RUN_ID", "ACCELERATE_MIXED_PRECISION")
_PARENT = os.getppid()
#: Ways of Accelerate that share the weights of one model out.
_SHARDING = ("FSDP", "DEEPSPEED", "MEGATRON_LM", "TP")
#: What gloo, NCCL and the store say when a process does not answer; gloo has no class for it.
_LOST = re.compile(
    "gloo|NCCL|connection (closed|reset|refused)|broken pipe|timed out|timeout", re.IGNORECASE
)


def start_accelerator(*, timeout_s: float = 1800.0, **options: Any) -> Accelerator:
    """Join the other processes; options are those of ``accelerate.Accelerator``.

    A run may follow another one in the same process, with another precision. The process group is
    left when Python ends.

    Args:
        timeout_s: Seconds that one process waits for another that lives and does not answer, such
            as the first while it prepares data.
        **options: Of the accelerator.

    Raises:
        ConfigError: If a launcher started several processes that ``accelerate`` does not join, so
            that each would train alone; or if it shares one model out over them.
    """
    if torch.distributed.is_available():
        # Before there is a group: DDP imports it, and defaults of its functions would then hold the
        # group, whose threads no end of it stops.
        importlib.import_module("torch.distributed.nn")
    AcceleratorState._reset_state()  # the precision; the processes stay joined
    waiting = InitProcessGroupKwargs(timeout=timedelta(seconds=timeout_s))
    accelerator = Accelerator(kwargs_handlers=[waiting], **options)
    launched = os.environ.get("WORLD_SIZE", "1") if "LOCAL_RANK" in os.environ else "1"
    if accelerator.num_processes == 1 and launched != "1":
        raise ConfigError(
            f"processes must train together, got {launched} that accelerate leaves alone; without "
            "a GPU use accelerate launch --cpu, or set ACCELERATE_USE_CPU=true"
        )
    how = str(getattr(accelerator.distributed_type, "value", accelerator.distributed_type))
    if how in _SHARDING:
        # Checkpoints would hold one process's share of the weights.
        raise ConfigError(
            f"distributed_type must leave each process a whole model, got {how}; use MULTI_GPU, "
            "as configs/accelerate/gpus.yaml does"
        )
    if accelerator.num_processes > 1:
        atexit.unregister(_leave_group)
        atexit.register(_leave_group)
    return accelerator


@contextmanager
def together() -> Iterator[None]:
    """Say in one line that another process of the group died, or answers no more.

    Raises:
        TrainingError: In place of what the group raises then.
    """
    try:
        yield
    except RuntimeError as error:
        group = torch.distributed
        joined = group.is_available() and group.is_initialized() and group.get_world_size() > 1
        if not joined or isinstance(error, GenRecError):
            raise
        if not isinstance(error, group.DistError) and not _LOST.search(str(error)):
            raise
        reason = " ".join(str(error).split()).partition(". ")[0][-60:]
        raise TrainingError(
            f"processes must go on until all are done, got one that is gone (... {reason}); see "
            "what it said, then start all again, a training with --resume"
        ) from error


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
