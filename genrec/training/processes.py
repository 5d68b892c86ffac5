"""The processes that accelerate launch or torchrun started, from their first line to their last."""

from __future__ import annotations

import atexit
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

__all__ = ["start_accelerator"]


def start_accelerator(**options: Any) -> Accelerator:
    """Join the other processes; options are those of ``accelerate.Accelerator``.

    A run may follow another one in the same process, with another precision. The process group is
    left when Python ends.
    """
    AcceleratorState._reset_state()  # the precision; the processes stay joined
    accelerator = Accelerator(**options)
    if accelerator.num_processes > 1:
        atexit.unregister(_leave_group)
        atexit.register(_leave_group)
    return accelerator


def _leave_group() -> None:
    """Stop the threads of the group: one that still runs at the end aborts the process."""
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
