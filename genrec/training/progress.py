"""How far a training is: a bar on a terminal, elsewhere a line every so often."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from types import TracebackType

from tqdm import tqdm

__all__ = ["Progress", "in_words"]

_FIRST_S, _EVERY_S = 5.0, 30.0
#: How long a line waits for the loss to be read.
_PATIENCE_S = 10.0


class Progress:
    """The progress of a run, for people; used as a context manager.

    Args:
        label: Shown before the bar.
        total: Steps of the whole run.
        done: Steps done in earlier sessions.
        shown: Whether this process speaks.
        clock: Seconds since some moment.
    """

    def __init__(
        self,
        label: str,
        *,
        total: int,
        done: int = 0,
        shown: bool = True,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.total, self.done, self.shown, self.clock = total, done, shown, clock
        self.begun = clock()
        self.next_line = self.begun + _FIRST_S
        self.bar = tqdm(
            total=total,
            initial=done,
            desc=label,
            unit="step",
            disable=not (shown and sys.stderr.isatty()),
            dynamic_ncols=True,
        )

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.bar.close()

    def advance(self, step: int) -> None:
        """Count a step, so many of the whole run; tell of slow ones, whose loss nobody has read."""
        self.bar.update()
        now = self.clock()
        if now >= self.next_line + _PATIENCE_S:
            self._say(step, now, "", (step - self.done) / max(now - self.begun, 1e-9))

    def report(self, step: int, loss: float, rate: float) -> None:
        """Tell how it goes, at a step whose loss is known.

        Args:
            step: Steps done, of the whole run.
            loss: Mean since the last report.
            rate: Steps a second since then, evaluations left out.
        """
        self.bar.set_postfix({"loss": f"{loss:.4f}"})
        now = self.clock()
        if now >= self.next_line:
            self._say(step, now, f" loss {loss:.4f},", rate)

    def _say(self, step: int, now: float, loss: str, rate: float) -> None:
        if not self.shown or not self.bar.disable or step >= self.total:
            return
        self.next_line = now + _EVERY_S
        # Evaluations take their share of what is left as of what is done.
        left = (self.total - step) * (now - self.begun) / (step - self.done)
        print(
            f"step {step:,}/{self.total:,},{loss} {rate:,.3g} steps/s, {in_words(left)} left",
            flush=True,
        )


def in_words(seconds: float) -> str:
    """Phrase a duration, for example ``40 s``, ``12 min`` or ``3 h 5 min``."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min"
