"""Heads of answers go out with their bodies, and none is lost or comes late."""

from __future__ import annotations

import asyncio

import pytest

pytest.importorskip("uvicorn", reason="the service needs uvicorn: extra serve")

from genrec.serving.http.protocol import JoiningTransport

HEAD = b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\n"


class Noted:
    """A transport that notes its writes."""

    def __init__(self):
        self.done = []

    def write(self, data):
        self.done.append(data)

    def writelines(self, parts):
        self.done.append(b"".join(parts))

    def close(self):
        self.done.append("closed")

    def is_closing(self):
        return "closed" in self.done


def noted(*steps) -> list:
    """What the transport sees: of strings methods are called, None waits for the loop's turn."""

    async def work():
        below = Noted()
        transport = JoiningTransport(below, asyncio.get_running_loop())
        for step in steps:
            if step is None:
                await asyncio.sleep(0)
            elif isinstance(step, str):
                getattr(transport, step)()
            else:
                transport.write(step)
        assert transport.is_closing() == ("closed" in below.done)
        await asyncio.sleep(0)
        return below.done

    return asyncio.run(work())


def test_head_and_body_are_one_write():
    assert noted(HEAD, b"body") == [HEAD + b"body"]
    assert noted(HEAD, b"body", HEAD, b"more", b"rest") == [HEAD + b"body", HEAD + b"more", b"rest"]


def test_a_head_alone_goes_out_in_the_next_turn():
    assert noted(HEAD) == [HEAD]
    assert noted(HEAD, None, b"body") == [HEAD, b"body"]
    assert noted(b"HTTP/1.1 100 Continue\r\n\r\n", None, HEAD, b"body")[1] == HEAD + b"body"


def test_hanging_up_sends_what_is_held():
    assert noted(HEAD, "close") == [HEAD, "closed"]
    assert noted(HEAD, b"body", "close") == [HEAD + b"body", "closed"]
