"""The processes that accelerate launch or torchrun started, from their first line to their last."""

from __future__ import annotations

import atexit
from typing import Any

import torch
from accelerate import Accelerator

from genrec.allocator import keep_freed_memory

__all__ = ["start_accelerator"]


def start_accelerator(**options: Any) -> Accelerator:
    """Join the other processes and, on a CPU, keep freed memory.

    Args:
        **options: Of ``accelerate.Accelerator``.

    Returns:
        The accelerator; its process group is left when Python ends.
    """
    accelerator = Accelerator(**options)
    if accelerator.device.type == "cpu":
        keep_freed_memory()
    if accelerator.num_processes > 1:
        atexit.unregister(_leave_group)
        atexit.register(_leave_group)
    return accelerator


def _leave_group() -> None:
    """Stop the threads of the group: one that still runs at the end aborts the process."""
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
