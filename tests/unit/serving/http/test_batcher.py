"""Requests of the same time are one piece of work."""

from __future__ import annotations

import asyncio
import threading
import time
from dataclasses import dataclass

import pytest

from genrec.serving.http.batcher import Batcher, QueueFull


@dataclass(frozen=True)
class Ask:
    name: str
    num_users: int = 1


def batcher(work, *, max_users=8, wait_s=0.05, queue_users=20, **more) -> Batcher:
    return Batcher(work, max_users=max_users, wait_s=wait_s, queue_users=queue_users, **more)


class Gate:
    """Work that waits until it is let go, and notes its batches."""

    def __init__(self):
        self.batches, self.open, self.entered = [], threading.Event(), threading.Event()

    def __call__(self, asked):
        self.batches.append([one.name for one in asked])
        self.entered.set()
        assert self.open.wait(10)
        return [one.name.upper() for one in asked]


async def entered(gate):
    while not gate.entered.is_set():
        await asyncio.sleep(0.001)


def test_what_comes_while_it_works_is_one_batch_in_order():
    gate = Gate()

    async def work():
        known = batcher(gate)
        first = asyncio.create_task(known.submit(Ask("a"), 5))
        await entered(gate)
        rest = [asyncio.create_task(known.submit(Ask(name), 5)) for name in "bcdefghijk"]
        await asyncio.sleep(0.01)
        assert known.num_waiting == 10
        gate.open.set()
        assert await asyncio.gather(first, *rest) == list("ABCDEFGHIJK")
        known.close()

    asyncio.run(work())
    assert gate.batches == [["a"], list("bcdefghi"), ["j", "k"]]


def test_a_large_request_goes_alone_and_none_overtakes():
    gate = Gate()

    async def work():
        known = batcher(gate)
        asked = [Ask("a"), Ask("b", 3), Ask("c", 12), Ask("d", 4)]
        tasks = []
        for ask in asked:
            tasks.append(asyncio.create_task(known.submit(ask, 5)))
            await entered(gate)
        gate.open.set()
        await asyncio.gather(*tasks)
        known.close()

    asyncio.run(work())
    assert gate.batches == [["a"], ["b"], ["c"], ["d"]]


def test_more_than_may_wait_is_refused():
    gate = Gate()

    async def work():
        known = batcher(gate, queue_users=5)
        first = asyncio.create_task(known.submit(Ask("a", 5), 5))
        await entered(gate)
        second = asyncio.create_task(known.submit(Ask("b", 5), 5))
        await asyncio.sleep(0)
        with pytest.raises(QueueFull):
            await known.submit(Ask("c"), 5)
        gate.open.set()
        assert await asyncio.gather(first, second) == ["A", "B"]
        known.close()
        with pytest.raises(QueueFull):
            await known.submit(Ask("d"), 5)

    asyncio.run(work())


def test_what_comes_too_late_is_not_worked_on():
    gate = Gate()

    async def work():
        known = batcher(gate)
        first = asyncio.create_task(known.submit(Ask("a"), 5))
        await entered(gate)
        with pytest.raises(TimeoutError):
            await known.submit(Ask("b"), 0.01)
        third = asyncio.create_task(known.submit(Ask("c"), 5))
        await asyncio.sleep(0)
        gate.open.set()
        assert await asyncio.gather(first, third) == ["A", "C"]
        known.close()

    asyncio.run(work())
    assert gate.batches == [["a"], ["c"]]


def test_one_request_spoils_no_other():
    def work(asked):
        if any(one.name == "bad" for one in asked):
            raise RuntimeError("broken")
        return [ValueError(one.name) if one.name == "worse" else one.name for one in asked]

    async def ask():
        known = batcher(work)
        names = ["a", "bad", "worse", "b"]
        tasks = [known.submit(Ask(name), 5) for name in names]
        found = await asyncio.gather(*tasks, return_exceptions=True)
        known.close()
        return found

    found = asyncio.run(ask())
    assert [found[0], found[3]] == ["a", "b"]
    assert isinstance(found[1], RuntimeError)
    assert isinstance(found[2], ValueError)


def test_a_lone_request_waits_for_nobody_and_several_wait_for_each_other():
    batches = []

    def work(asked):
        batches.append(len(asked))
        return [one.name for one in asked]

    async def ask():
        known = batcher(work, wait_s=0.3)
        began = time.perf_counter()
        await known.submit(Ask("a"), 5)
        lone = time.perf_counter() - began
        await asyncio.gather(*(known.submit(Ask(name), 5) for name in "abcd"))
        batches.clear()

        async def later(seconds, name):
            await asyncio.sleep(seconds)
            await known.submit(Ask(name), 5)

        await asyncio.gather(*(later(0.02 * at, name) for at, name in enumerate("abcd")))
        known.close()
        return lone

    assert asyncio.run(ask()) < 0.25
    assert sum(batches) == 4
    assert len(batches) < 4


def test_closing_answers_what_waits():
    gate = Gate()

    async def work():
        known = batcher(gate)
        tasks = [asyncio.create_task(known.submit(Ask(name), 5)) for name in "abc"]
        await entered(gate)
        gate.open.set()
        await asyncio.to_thread(known.close)
        return await asyncio.gather(*tasks)

    assert asyncio.run(work()) == ["A", "B", "C"]


class Gates:
    """Work of several threads, each batch of which waits until it is let go."""

    def __init__(self):
        self.batches, self.gates, self.begun = [], [], []

    def __call__(self, asked):
        gate = threading.Event()
        self.batches.append([one.name for one in asked])
        self.gates.append(gate)
        assert gate.wait(10)
        return [one.name.upper() for one in asked]

    async def reach(self, count):
        until = time.monotonic() + 10
        while len(self.gates) < count:
            assert time.monotonic() < until, self.batches
            await asyncio.sleep(0.001)


def test_threads_work_side_by_side_each_on_its_share():
    gates, begun = Gates(), []

    async def work():
        known = batcher(
            gates, threads=2, least_share=2, queue_users=99, begin=lambda: begun.append(1)
        )
        first = asyncio.create_task(known.submit(Ask("a"), 5))
        await gates.reach(1)
        second = asyncio.create_task(known.submit(Ask("b"), 5))
        await asyncio.sleep(0.02)
        assert len(gates.batches) == 1  # one alone is not worth a thread beside another
        third = asyncio.create_task(known.submit(Ask("c"), 5))
        await gates.reach(2)
        rest = [asyncio.create_task(known.submit(Ask(name), 5)) for name in "defgh"]
        await asyncio.sleep(0.02)
        assert len(gates.batches) == 2  # both are at work
        gates.gates[0].set()
        assert await first == "A"
        await gates.reach(3)
        gates.gates[2].set()
        await asyncio.sleep(0.02)
        assert len(gates.batches) == 3  # the last one is alone again
        gates.gates[1].set()
        await gates.reach(4)
        for gate in gates.gates:
            gate.set()
        assert await asyncio.gather(second, third, *rest) == list("BCDEFGH")
        known.close()

    asyncio.run(work())
    # Of the two that are answered and the five that wait each thread takes half.
    assert gates.batches == [["a"], ["b", "c"], list("defg"), ["h"]]
    assert begun == [1, 1]


def test_many_threads_under_load_answer_each_once():
    batches = []

    def work(asked):
        batches.append(len(asked))
        time.sleep(0.002)
        return [one.name for one in asked]

    async def ask():
        known = batcher(work, threads=3, least_share=4, max_users=16, wait_s=0.002, queue_users=99)

        async def client(name):
            return [await known.submit(Ask(f"{name}/{at}"), 10) for at in range(20)]

        found = await asyncio.gather(*(client(name) for name in range(40)))
        await asyncio.to_thread(known.close)
        return found, known.num_waiting

    found, waiting = asyncio.run(ask())
    assert found == [[f"{name}/{at}" for at in range(20)] for name in range(40)]
    assert waiting == 0
    assert max(batches) <= 16


def test_closing_ends_all_threads():
    async def work():
        known = batcher(lambda asked: asked, threads=3)
        await asyncio.to_thread(known.close)
        return threading.active_count()

    before = threading.active_count()
    assert asyncio.run(work()) <= before + 1  # of to_thread
