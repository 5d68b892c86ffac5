"""The C library's memory: kept between steps instead of handed back and faulted in anew."""

from __future__ import annotations

import ctypes
import os
import sys

__all__ = ["keep_freed_memory"]

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4
_TOP_PAD = 1 << 26
_NEVER = -1  # as documented for the trim threshold; a number would end at 2 GiB


def keep_freed_memory() -> bool:
    """Let this process keep the memory that it frees, for the next step to use.

    PyTorch asks the C library for every array on a CPU. By default glibc maps large ones anew
    each time, and the kernel zeroes them page by page: 30 % of a training step of the retrieval
    model. Whoever has set glibc's own variables, or another allocator, is left alone.

    Returns:
        Whether it was set: only with glibc.
    """
    own = ("GLIBC_TUNABLES", "MALLOC_MMAP_MAX_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_")
    if not sys.platform.startswith("linux") or any(name in os.environ for name in own):
        return False
    library = ctypes.CDLL(None)
    if not hasattr(library, "gnu_get_libc_version"):  # another C library
        return False
    settings = ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, _NEVER), (_M_TOP_PAD, _TOP_PAD))
    done = [library.mallopt(name, value) for name, value in settings]
    return all(status == 1 for status in done)
