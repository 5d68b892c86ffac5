"""Independent pieces of work side by side on the cores of a CPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

__all__ = ["side_by_side"]

T = TypeVar("T")


def side_by_side(work: Callable[[int], T], count: int, device: torch.device | str) -> Iterator[T]:
    """Do pieces of work, on a CPU as many at a time as PyTorch has threads.

    Small matrix products and the element-wise operations between them gain little from a second
    core each; two pieces of work on a core each gain all of it.

    Args:
        work: From a piece's number to its result; called from several threads on a CPU.
        count: Pieces.
        device: Where the work runs; only CPUs have cores to share out.

    Yields:
        The results, in order. Pieces not begun are dropped when the caller stops early.
    """
    threads = min(torch.get_num_threads(), count)
    if torch.device(device).type != "cpu" or threads < 2:
        yield from map(work, range(count))
        return
    usual = torch.get_num_threads()
    pool = ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,))
    try:
        yield from pool.map(work, range(count))
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(usual)  # new threads take over what was set last, anywhere
