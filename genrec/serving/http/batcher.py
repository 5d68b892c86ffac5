"""Requests that come at the same time are gathered into one piece of work."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

__all__ = ["Batcher", "QueueFull"]

_MOST_WAITS = 10


class Sized(Protocol):
    """A request of some users."""

    @property
    def num_users(self) -> int: ...


Q = TypeVar("Q", bound=Sized)
R = TypeVar("R")


class QueueFull(Exception):
    """More wait than may wait."""


@dataclass(frozen=True)
class _Waiting(Generic[Q]):
    query: Q
    answer: asyncio.Future[Any]


class Batcher(Generic[Q, R]):
    """One thread that answers what waits, as much at once as may be.

    While it answers, the next requests gather. Where the batch before had several, more are on
    their way, since their senders have just been answered: then it waits as long as they keep
    coming, until as many are there. A lone request waits for nobody.

    Args:
        work: From some requests to as many results; a result that is an exception is raised at
            its request. Called from the one thread.
        max_users: Most users of a batch, >= 1; a larger request makes a batch of its own.
        wait_s: How long it waits for the next request; in all at most ten times as long.
        queue_users: Users that may wait.
    """

    def __init__(
        self,
        work: Callable[[Sequence[Q]], Sequence[R | Exception]],
        *,
        max_users: int,
        wait_s: float,
        queue_users: int,
    ) -> None:
        self._work, self._max_users = work, max_users
        self._wait_s, self._queue_users = wait_s, queue_users
        self._queue: deque[_Waiting[Q]] = deque()
        self._users = 0
        self._changed = threading.Condition()
        self._expected = 1  # requests that are on their way
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="search", daemon=True)
        self._thread.start()

    @property
    def num_waiting(self) -> int:
        """Users that wait now."""
        return self._users

    async def submit(self, query: Q, timeout_s: float) -> R:
        """Wait for the answer to a request.

        Raises:
            QueueFull: If too many wait already, or the service ends.
            TimeoutError: If the answer does not come in time; nothing is searched for it then.
        """
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[R] = loop.create_future()
        with self._changed:
            if self._closing or self._users + query.num_users > self._queue_users:
                raise QueueFull
            self._queue.append(_Waiting(query, answer))
            self._users += query.num_users
            count = len(self._queue)
            if count == 1 or count >= self._expected or self._users >= self._max_users:
                self._changed.notify()
        late = loop.call_later(timeout_s, _expire, answer)
        try:
            return await answer
        finally:
            late.cancel()

    def close(self) -> None:
        """Answer what waits, take no more, and end the thread."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        while batch := self._take():
            asked = [waiting for waiting in batch if not waiting.answer.done()]  # given up since
            self._expected = len(batch) + len(self._queue)
            if asked:
                _deliver(asked, self._results([waiting.query for waiting in asked]))

    def _results(self, queries: list[Q]) -> Sequence[Any]:
        """Answer together; where that fails alone, so that one request spoils no other."""
        try:
            return self._work(queries)
        except Exception as error:
            if len(queries) == 1:
                return [error]
            return [result for query in queries for result in self._results([query])]

    def _take(self) -> list[_Waiting[Q]]:
        """Take the oldest requests; none when it is time to end."""
        with self._changed:
            while not self._queue and not self._closing:
                self._changed.wait()
            until = time.monotonic() + _MOST_WAITS * self._wait_s
            while len(self._queue) < self._expected and self._users < self._max_users:
                before = len(self._queue)
                self._changed.wait(min(self._wait_s, until - time.monotonic()))
                if len(self._queue) == before or time.monotonic() >= until or self._closing:
                    break
            batch: list[_Waiting[Q]] = []
            users = 0
            while self._queue:
                size = self._queue[0].query.num_users
                if batch and users + size > self._max_users:
                    break
                users += size
                batch.append(self._queue.popleft())
            self._users -= users
            return batch


def _expire(answer: asyncio.Future[Any]) -> None:
    if not answer.done():
        answer.set_exception(TimeoutError())


def _deliver(asked: list[_Waiting[Any]], results: Sequence[Any]) -> None:
    """Hand results to the event loop, with one call for all of them."""

    def settle() -> None:
        for waiting, result in zip(asked, results, strict=True):
            if waiting.answer.done():
                continue
            if isinstance(result, Exception):
                waiting.answer.set_exception(result)
            else:
                waiting.answer.set_result(result)

    try:
        asked[0].answer.get_loop().call_soon_threadsafe(settle)
    except RuntimeError:  # the loop is closed: nobody waits any more
        return
