"""Feed the service damaged requests, in this process: an answer, or an error in one line."""

from __future__ import annotations

import importlib.util
import json
import random
from pathlib import Path
from typing import Any
from urllib.parse import quote

from genrec.errors import DataError, printable
from soaking.fuzz import Reader, bend
from soaking.shop import Shop

__all__ = ["service_readers"]

_TOKEN = "token"
_NEW = {"item": "new", "title": "A red cup", "text": "red cup"}
_ASKED: list[tuple[str, str, dict[str, Any] | None]] = [
    ("POST", "/v1/recommend", {"histories": [["i01", "i02"], ["i30"]], "k": 3, "explain": True}),
    ("POST", "/v1/recommend", {"users": ["u01"], "exclude": ["i01"], "allow": ["i02", "i03"]}),
    ("POST", "/v1/recommend", {"histories": [[1, 2]], "on_unknown": "raise", "k": 1}),
    ("POST", "/v1/items", {"items": [_NEW]}),
    ("POST", "/v1/model", {"path": "decoder"}),
    ("DELETE", "/v1/items/new", None),
    ("GET", "/v1/items?q=red+cup&limit=3", None),
    ("GET", "/v1/items/i01/similar?k=3", None),
    ("GET", "/v1/items/i01", None),
    ("GET", "/v1/users/random", None),
]


def service_readers(shop: Shop) -> list[Reader]:
    """Make the reader; none where the extra ``serve`` or ``httpx`` is not installed."""
    if any(importlib.util.find_spec(name) is None for name in ("fastapi", "httpx")):
        return []
    from starlette.testclient import TestClient

    from genrec.serving.http.app import build_app
    from genrec.serving.http.metrics import Metrics
    from genrec.serving.http.service import Service, Source
    from genrec.serving.http.settings import ServiceSettings

    service = Service(Source(run=str(shop.decoder), device="cpu"), ServiceSettings())
    app = build_app(service, token=_TOKEN, metrics=Metrics())
    client = TestClient(app, raise_server_exceptions=False)

    def ask(draw: random.Random, folder: Path) -> None:
        method, path, told = draw.choice(_ASKED)
        body = None if told is None else json.dumps(told).encode()
        if body is not None and draw.random() < 0.8:
            body = bend(body, draw)
        else:  # every client writes what is no letter of a path as %XX
            path = "/" + quote(bend(path[1:].encode(), draw), safe="/?=&+%")
        headers = {"Authorization": f"Bearer {_TOKEN}"}
        answer = client.request(method, path, content=body, headers=headers)
        if answer.status_code >= 500 and answer.status_code != 503:
            raise AssertionError(f"{method} {path!r} {body!r}: {answer.status_code} {answer.text}")
        if answer.status_code >= 400:
            message = answer.json()["error"]["message"]
            if not message or "\n" in message or printable(message) != message:
                raise AssertionError(f"{method} {path!r} {body!r}: {message!r}")
            raise DataError(message)

    return [Reader("service", ask, 3.0)]
