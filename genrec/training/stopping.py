"""What saves or ends a run between two steps: signals, a dead launcher, and the clock."""

from __future__ import annotations

import signal
import sys
import threading
import time
from types import FrameType
from typing import Any

import torch
from accelerate import Accelerator

from genrec.training.processes import launcher_watch

__all__ = ["Watch"]

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_ECHO_S = 1.0  # a terminal and a launcher both pass on one Ctrl-C


class Watch:
    """Looks between steps whether to save or to stop, with one answer for all processes.

    While it is entered, the first Ctrl-C or SIGTERM ends the run after the step that all
    processes agree on, and a later one ends it at once.

    Args:
        accelerator: The processes.
        save_every_s: Seconds between saves; 0 for never.
        log_every: Steps between the looks of several processes on a GPU, where each would make
            the host wait for the device.
    """

    def __init__(
        self, accelerator: Accelerator, *, save_every_s: float = 0.0, log_every: int = 1
    ) -> None:
        self.accelerator, self.save_every_s = accelerator, save_every_s
        self.together = accelerator.num_processes > 1
        self.look_every = log_every if self.together and accelerator.device.type != "cpu" else 1
        self.number = 0
        self._told = False  # why it stops
        self._launcher_died = launcher_watch()
        self._saved_at = self._asked_at = time.monotonic()
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Watch:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._request) for number in _SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def look(self, step: int) -> tuple[int, bool]:
        """Ask after a step whether to stop or to save.

        Args:
            step: Optimiser steps done.

        Returns:
            The number of the signal that ends the run, 0 for none, and whether a save is due by
            the clock; the same on every process.
        """
        if step % self.look_every:
            return 0, False
        orphaned = self._launcher_died is not None and self._launcher_died()
        if orphaned and not self.number:
            self.number = signal.SIGTERM
        waited = time.monotonic() - self._saved_at
        due = self.save_every_s > 0 and waited >= self.save_every_s
        number, saving = self.number, due
        if self.together:
            seen = [self.number, int(due), int(orphaned)]
            answer = torch.tensor(seen, device=self.accelerator.device)
            torch.distributed.all_reduce(answer, op=torch.distributed.ReduceOp.MAX)
            number, saving, orphaned = answer.tolist()
        if number:  # whichever process saw it first, the main one says it
            died = "the launcher of this process died; " if orphaned else ""
            self._say(f"{died}stopping after this step")
        return number, bool(saving)

    def saved(self) -> None:
        """Start the clock anew."""
        self._saved_at = time.monotonic()

    def _request(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if not self.number:
            self.number, self._asked_at = number, now
            self._say("stopping after this step; press Ctrl-C again to stop at once")
        elif self._launcher_died is None or now - self._asked_at > _ECHO_S:
            raise KeyboardInterrupt

    def _say(self, text: str) -> None:
        if self.accelerator.is_main_process and not self._told:
            self._told = True
            print(f"\n{text}", file=sys.stderr)
