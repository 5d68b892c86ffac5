"""What a command that trains or evaluates does to its own process; no library call does it."""

from __future__ import annotations

import os

from genrec.allocator import keep_freed_memory

__all__ = ["settle_process"]

#: Threads that wait by spinning take the cores of a small machine from those that work.
_CALM = {"OMP_WAIT_POLICY": "PASSIVE", "KMP_BLOCKTIME": "0", "TOKENIZERS_PARALLELISM": "false"}


def settle_process(threads: int | None = None) -> None:
    """Set this process up for long work, before PyTorch is loaded.

    What the user has set in the environment wins.

    Args:
        threads: Threads of PyTorch on a CPU; None leaves ``OMP_NUM_THREADS``, else one a core.
    """
    for name, value in _CALM.items():
        os.environ.setdefault(name, value)
    import torch

    if threads is not None:
        torch.set_num_threads(threads)
    if not torch.cuda.is_available():
        keep_freed_memory()
    else:  # cuDNN makes a plan for each new shape of a batch, which takes longer than the batch
        torch.backends.cuda.enable_cudnn_sdp(False)
