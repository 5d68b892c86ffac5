"""A service as a process: its socket, its signals, its end."""

from __future__ import annotations

import contextlib
import gc
import ipaddress
import re
import signal
import socket
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import uvicorn

from genrec.errors import ConfigError
from genrec.serving.http.app import build_app
from genrec.serving.http.metrics import Metrics
from genrec.serving.http.service import Service, Source
from genrec.serving.http.settings import ServiceSettings

__all__ = ["hosts_of", "listen", "serve"]

_HOST = re.compile(r"[\w.-]+|\[[0-9A-Fa-f:.]+\]", re.ASCII)


def serve(
    source: Source,
    settings: ServiceSettings,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    token: str | None = None,
    allow_hosts: Sequence[str] = (),
    random_user: bool = True,
) -> None:
    """Serve until SIGTERM or Ctrl-C; then answer what has begun, and return.

    Args:
        source: What to serve.
        settings: Numbers.
        host: Address to listen on.
        port: 0 takes any free one.
        token: What a change of the catalogue must bring; None refuses all changes.
        allow_hosts: See :func:`hosts_of`.
        random_user: See :func:`~genrec.serving.http.app.build_app`.

    Raises:
        GenRecError: If the address is not free, or the service cannot begin.
    """
    with listen(host, port) as door:  # before the model is read, which takes longer
        hosts = hosts_of(host, door.getsockname()[0], allow_hosts)
        metrics = Metrics()
        service = Service(source, settings, observe=metrics.search, say=_say)
        app = build_app(service, token=token, metrics=metrics, hosts=hosts, random_user=random_user)
        config = uvicorn.Config(
            app,
            log_level="warning",
            access_log=False,
            lifespan="on",
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=75,  # longer than the proxies before it, which then close first
            timeout_graceful_shutdown=max(1, round(settings.drain_s)),
        )
        gc.collect()
        gc.freeze()  # what was loaded stays: the collector need not walk it in between requests
        info = service.info()
        shown = f"[{host}]" if ":" in host else host
        address = f"http://{shown}:{door.getsockname()[1]}"
        changes = "changes need the token" if token is not None else "no changes without a token"
        ready = f"serving {info['kind']}, {info['num_items']:,} items, on {address} ({changes})"
        _Server(config, ready).run(sockets=[door])
        print("ended", flush=True)


def hosts_of(host: str, address: str, allowed: Sequence[str]) -> frozenset[str] | None:
    """Find the names that the Host header may have.

    A page of another site can have its name lead to 127.0.0.1, and then read what is there: on an
    address of this machine alone only the names of this machine pass.

    Args:
        host: What was asked to listen on.
        address: The address that this became.
        allowed: More names; on an address that others reach, the only ones but this machine's.

    Returns:
        The names, in small letters; None where any may pass.

    Raises:
        ConfigError: If one of those allowed is no name.
    """
    for name in allowed:
        if not _HOST.fullmatch(name):
            raise ConfigError(
                f"--allow-host must be a name as in a Host header, without a port, got {name!r}; "
                "for example shop.example or [fd00::1]"
            )
    own = ipaddress.ip_address(address.partition("%")[0])
    if not (own.is_loopback or allowed):
        return None
    here = [f"[{own}]" if own.version == 6 else str(own)] if own.is_loopback else []
    named = [host] if own.is_loopback and ":" not in host else []
    return frozenset(map(str.lower, ("localhost", "127.0.0.1", "[::1]", *here, *named, *allowed)))


def listen(host: str, port: int) -> socket.socket:
    """Take an address; connections are accepted once the service is ready.

    Raises:
        ConfigError: If it cannot be taken.
    """
    try:
        family, kind, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        door = socket.socket(family, kind)
    except (OSError, OverflowError, UnicodeError) as error:
        raise ConfigError(
            f"--host must be an address of this machine, got {host!r} with {error}; 127.0.0.1 is "
            "usual"
        ) from None
    try:
        door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        door.bind(address)
    except OSError as error:
        door.close()
        raise ConfigError(
            f"--port must be free, got {port} on {host} with {error.strerror or error}; name "
            "another --port, or stop what uses it"
        ) from None
    return door


class _Server(uvicorn.Server):
    """Says when it is ready, and takes a signal as the wish to end well."""

    def __init__(self, config: uvicorn.Config, ready: str) -> None:
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to accept."""
        await super().startup(sockets=sockets)
        if self.started:
            print(self._ready, flush=True)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """End on SIGINT and SIGTERM; unlike uvicorn, do not raise them again afterwards."""
        before: dict[int, Any] = {
            number: signal.signal(number, self.handle_exit)
            for number in (signal.SIGINT, signal.SIGTERM)
        }
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
