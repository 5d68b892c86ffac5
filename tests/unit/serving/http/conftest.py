"""A service over the small runs, in this process."""

from __future__ import annotations

import pytest

from genrec.serving.http.service import Service, Source
from genrec.serving.http.settings import ServiceSettings


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
