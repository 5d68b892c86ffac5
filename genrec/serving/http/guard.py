"""The door of a service: who may change something, how long a body may be, how long it may take."""

from __future__ import annotations

import asyncio
import hmac
import re
import sys
import time
from collections.abc import Awaitable, Callable, Collection, Coroutine, Mapping, MutableMapping
from typing import Any

import orjson

from genrec.errors import printable
from genrec.serving.http.refusals import Refusal

__all__ = ["Guard", "error_body"]

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

_READING = ("GET", "HEAD", "OPTIONS")
#: All else below ``/v1`` that is not a reading method changes something.
_ASKING = ("/v1/recommend",)
_KEYED = b"/v1/items/"
_PORT = re.compile(r":[0-9]*$")


class Guard:
    """An ASGI application before everything else.

    Args:
        app: What it guards.
        token: What a change must bring; None refuses all changes.
        max_body_bytes: Longest body.
        timeout_s: Longest time for a body to come.
        count: Told of each request: method, route, status, seconds.
        lanes: By method and path what answers a body with JSON at once, past all other layers.
        refusal_of: From what a lane raised to what its client is told; None for a failure.
        failure: What the client of a lane is told of a failure, before it is raised again.
        hosts: Names, in small letters and without a port, that the Host header may have, against
            pages that point a name of theirs at this machine; None lets any pass.
    """

    def __init__(
        self,
        app: Callable[[Scope, Receive, Send], Awaitable[None]],
        *,
        token: str | None,
        max_body_bytes: int,
        timeout_s: float,
        count: Callable[[str, str, int, float], None],
        lanes: Mapping[tuple[str, str], Callable[[bytes], Awaitable[bytes]]],
        refusal_of: Callable[[Exception], Refusal | None],
        failure: str,
        hosts: Collection[str] | None = None,
    ) -> None:
        self.app, self._count = app, count
        self._lanes, self._refusal_of, self._hosts = lanes, refusal_of, hosts
        self._failure = failure
        self._token = None if token is None else token.encode()
        self._max_body_bytes, self._timeout_s = max_body_bytes, timeout_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request pass, or refuse it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        begin, status = time.perf_counter(), 499  # as nginx names a client that went away
        route: str | None = None

        method = scope["method"]
        if method == "HEAD":
            scope = {**scope, "method": "GET"}  # the same headers, and then nothing

        async def noted(message: MutableMapping[str, Any]) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            elif method == "HEAD":
                message = {**message, "body": b""}
            await send(message)

        if scope.get("raw_path", b"").startswith(_KEYED):
            # A key may hold a slash: routes see it as it was written, and decode the key.
            scope["path"] = scope["raw_path"].decode("latin-1")
        try:
            self._check_host(scope)
            self._check_token(scope)
            if scope["method"] in _READING:
                await self.app(scope, receive, noted)
                return
            body = await self._whole_body(scope, receive)
            lane = self._lanes.get((scope["method"], scope["path"]))
            if lane is None:
                await self.app(scope, _replay(body, receive), noted)
            else:
                route = scope["path"]
                await self._answer(lane, body, noted)
        except Refusal as refusal:
            await _send_json(refusal.status, error_body(refusal.message), refusal.headers, noted)
        except _Gone:
            pass
        finally:
            known = route or str(getattr(scope.get("route"), "path", "other"))
            self._count(method, known, status, time.perf_counter() - begin)

    def _check_host(self, scope: Scope) -> None:
        if self._hosts is None:
            return
        given = _header(scope, b"host").decode("latin-1")
        if _PORT.sub("", given.strip().lower()) not in self._hosts:
            raise Refusal(
                421,
                f"Host must be {' or '.join(sorted(self._hosts))}, got {given!r:.80}; start the "
                "service with --allow-host NAME to answer to another",
            )

    def _check_token(self, scope: Scope) -> None:
        path = scope["path"]
        if scope["method"] in _READING or path in _ASKING or not path.startswith("/v1/"):
            return
        if self._token is None:
            raise Refusal(
                403,
                "changes must be allowed, got a service without a token; start it with "
                "GENREC_SERVE_TOKEN or --token-file",
            )
        scheme, _, given = _header(scope, b"authorization").strip().partition(b" ")
        right = hmac.compare_digest(given.strip(), self._token)
        if scheme.lower() != b"bearer" or not right:
            raise Refusal(
                401,
                "changes must bring the service's token, got "
                f"{'another' if given else 'none'}; send Authorization: Bearer TOKEN",
                headers={"WWW-Authenticate": "Bearer"},
            )

    async def _answer(
        self, lane: Callable[[bytes], Awaitable[bytes]], body: bytes, send: Send
    ) -> None:
        try:
            answer = await lane(body)
        except Exception as error:
            refusal = self._refusal_of(error)
            if refusal is not None:
                raise refusal from None
            await _send_json(500, error_body(self._failure), {}, send)
            raise
        await _send_json(200, answer, {}, send)

    async def _whole_body(self, scope: Scope, receive: Receive) -> bytes:
        """Read the whole body before anything else is done."""
        length = _header(scope, b"content-length")
        if length.isdigit() and int(length) > self._max_body_bytes:
            raise self._too_long()
        try:
            return await _within(self._timeout_s, self._body(receive))
        except (asyncio.TimeoutError, TimeoutError):
            raise Refusal(
                408,
                f"body must come within {self._timeout_s:g} seconds, got a part of it; send it "
                "faster",
                headers={"Connection": "close"},
            ) from None

    async def _body(self, receive: Receive) -> bytes:
        message = await receive()
        parts = [message.get("body", b"")]
        size = len(parts[0])
        while message.get("more_body", False) or message["type"] == "http.disconnect":
            if message["type"] == "http.disconnect":
                raise _Gone
            if size > self._max_body_bytes:
                raise self._too_long()
            message = await receive()
            parts.append(message.get("body", b""))
            size += len(parts[-1])
        if size > self._max_body_bytes:
            raise self._too_long()
        return b"".join(parts)

    def _too_long(self) -> Refusal:
        return Refusal(
            413,
            f"body must have at most {self._max_body_bytes:,} bytes, got more; send fewer "
            "histories or items at a time",
            headers={"Connection": "close"},
        )


async def _within(seconds: float, work: Coroutine[Any, Any, bytes]) -> bytes:
    """Wait for a result, but not for ever."""
    if sys.version_info >= (3, 11):  # needs no task of its own, which costs as much as all else
        async with asyncio.timeout(seconds):
            return await work
    return await asyncio.wait_for(work, seconds)


class _Gone(Exception):
    """The client went away."""


def error_body(message: str) -> bytes:
    """Write an error as the service answers it: one line that steers no terminal."""
    return orjson.dumps({"error": {"message": printable(" ".join(message.split()))}})


async def _send_json(status: int, body: bytes, headers: Mapping[str, str], send: Send) -> None:
    written = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        *((name.lower().encode(), value.encode()) for name, value in headers.items()),
    ]
    await send({"type": "http.response.start", "status": status, "headers": written})
    await send({"type": "http.response.body", "body": body})


def _replay(body: bytes, receive: Receive) -> Receive:
    """Give a body that was read to the next reader."""
    unread: list[MutableMapping[str, Any]] = [
        {"type": "http.request", "body": body, "more_body": False}
    ]

    async def replayed() -> MutableMapping[str, Any]:
        return unread.pop() if unread else await receive()

    return replayed


def _header(scope: Scope, name: bytes) -> bytes:
    """Find a header, empty where it is not given."""
    return next((value for known, value in scope["headers"] if known == name), b"")
