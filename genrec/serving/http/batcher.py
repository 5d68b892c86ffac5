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
    """A few threads that answer what waits, as much at once as may be.

    While they answer, the next requests gather. Where the batch before had several, more are on
    their way, since their senders have just been answered: then a thread waits as long as they
    keep coming, until as many are there. A lone request waits for nobody.

    With several threads each takes its share of what waits and of what is being answered, so that
    batches stay of like size and one gathers while another is answered.

    Args:
        work: From some requests to as many results; a result that is an exception is raised at
            its request. Called from several threads where there are more.
        max_users: Most users of a batch, >= 1; a larger request makes a batch of its own.
        wait_s: How long it waits for the next request; in all at most ten times as long.
        queue_users: Users that may wait.
        threads: Batches that may be answered at the same time, >= 1.
        least_share: Users that must wait before a batch begins beside another, >= 1.
        begin: Called in each thread first.
    """

    def __init__(
        self,
        work: Callable[[Sequence[Q]], Sequence[R | Exception]],
        *,
        max_users: int,
        wait_s: float,
        queue_users: int,
        threads: int = 1,
        least_share: int = 1,
        begin: Callable[[], None] = lambda: None,
    ) -> None:
        self._work, self._max_users = work, max_users
        self._wait_s, self._queue_users = wait_s, queue_users
        self._least_share, self._begin = min(least_share, max_users), begin
        self._queue: deque[_Waiting[Q]] = deque()
        self._users = 0
        self._answering = 0  # users of the batches that threads are at
        self._turn = threading.Lock()  # one thread at a time gathers
        self._changed = threading.Condition()
        self._gathering = False
        self._expected = 1  # requests that are on their way
        self._closing = False
        self._threads = [
            threading.Thread(target=self._run, name=f"search-{number}", daemon=True)
            for number in range(threads)
        ]
        for thread in self._threads:
            thread.start()

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
            self._wake()
        late = loop.call_later(timeout_s, _expire, answer)
        try:
            return await answer
        finally:
            late.cancel()

    def close(self) -> None:
        """Answer what waits, take no more, and end the threads."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        self._begin()
        while batch := self._take():
            asked = [waiting for waiting in batch if not waiting.answer.done()]  # given up since
            if asked:
                _deliver(asked, self._results([waiting.query for waiting in asked]))
            with self._changed:
                self._answering -= sum(waiting.query.num_users for waiting in batch)
                self._wake()

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
        with self._turn, self._changed:
            while not (self._may_begin() or self._closing):
                self._changed.wait()
            self._gather()
            share = -(-(self._users + self._answering) // len(self._threads))
            most = min(self._max_users, max(self._least_share, share))
            batch: list[_Waiting[Q]] = []
            users = 0
            while self._queue:
                size = self._queue[0].query.num_users
                if batch and users + size > most:
                    break
                users += size
                batch.append(self._queue.popleft())
            self._users -= users
            self._answering += users
            self._expected = len(batch)
            return batch

    def _gather(self) -> None:
        """Wait for those who are on their way, as long as they keep coming."""
        until = time.monotonic() + _MOST_WAITS * self._wait_s
        self._gathering = True
        while not (self._closing or self._is_whole()):
            before = len(self._queue)
            self._changed.wait(min(self._wait_s, until - time.monotonic()))
            if len(self._queue) == before or time.monotonic() >= until:
                break
        self._gathering = False

    def _wake(self) -> None:
        """Wake the thread whose turn it is, where that has something to do."""
        if self._is_whole() if self._gathering else self._may_begin():
            self._changed.notify()

    def _may_begin(self) -> bool:
        """Whether a batch is worth a thread."""
        least = self._least_share if self._answering else 0
        return bool(self._queue) and self._users >= least

    def _is_whole(self) -> bool:
        """Whether nobody need be waited for."""
        return len(self._queue) >= self._expected or self._users >= self._max_users


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
