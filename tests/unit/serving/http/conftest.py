"""A service over the small runs, in this process, or on a port of its own."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from genrec.serving.http.service import Service, Source
from genrec.serving.http.settings import ServiceSettings

Serve = Callable[..., str]


@pytest.fixture
def open_service():
    """A function that opens a service; all are closed at the end."""
    opened = []

    def start(run, *, settings=None, **source) -> Service:
        where = Source(run=str(run), device="cpu", **source)
        service = Service(where, settings or ServiceSettings())
        opened.append(service)
        return service

    yield start
    for service in opened:
        service.close()


@pytest.fixture(scope="module")
def serve() -> Iterator[Serve]:
    """A function that serves a run until the module's tests end, and returns its address."""
    uvicorn = pytest.importorskip("uvicorn", reason="the service needs uvicorn: extra serve")
    from genrec.serving.http.app import build_app
    from genrec.serving.http.metrics import Metrics

    servers: list[tuple[uvicorn.Server, threading.Thread]] = []

    def start(run: Path, **options: bool) -> str:
        service = Service(Source(run=str(run), device="cpu"), ServiceSettings())
        app = build_app(service, token=None, metrics=Metrics(), **options)
        server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning", ws="none"))
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()
        servers.append((server, thread))
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        return f"http://127.0.0.1:{port}/"

    yield start
    for server, _ in servers:
        server.should_exit = True
    for _, thread in servers:
        thread.join(10)
