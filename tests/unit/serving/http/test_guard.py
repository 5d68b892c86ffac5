"""The door: which names of the service a request may use."""

from __future__ import annotations

import pytest

pytest.importorskip("fastapi", reason="the extra serve is not installed")
pytest.importorskip("httpx", reason="httpx is in the extra dev")

from starlette.testclient import TestClient

from genrec.errors import ConfigError
from genrec.serving.http.app import build_app
from genrec.serving.http.metrics import Metrics
from genrec.serving.http.server import hosts_of
from genrec.serving.http.service import Service, Source
from genrec.serving.http.settings import ServiceSettings

HERE = {"localhost", "127.0.0.1", "[::1]"}


@pytest.fixture
def client_for(run):
    """A function that opens a service as one that listens on an address."""
    service = Service(Source(run=str(run), device="cpu"), ServiceSettings())

    def start(host, address, allowed=()):
        hosts = hosts_of(host, address, allowed)
        app = build_app(service, token=None, metrics=Metrics(), hosts=hosts)
        return TestClient(app, raise_server_exceptions=False)

    yield start
    service.close()


def status(client, host) -> int:
    return client.get("/v1/users/random", headers={"Host": host}).status_code


def test_a_page_of_another_site_reads_nothing(client_for):
    client = client_for("127.0.0.1", "127.0.0.1")
    for host in ("localhost", "LocalHost:8000", "127.0.0.1:8000", "127.0.0.1", "[::1]:1", "[::1]"):
        assert status(client, host) == 200
    for host in ("evil.example", "evil.example:8000", "localhost.evil.example", "127.0.0.1.x", ""):
        assert status(client, host) == 421
    told = {"histories": [["a1"]]}
    for method, path in (
        ("GET", "/"),
        ("POST", "/v1/recommend"),
        ("POST", "/v1/items"),
        ("GET", "/metrics"),
    ):
        answer = client.request(method, path, json=told, headers={"Host": "evil.example:8000"})
        assert answer.status_code == 421
        line = answer.json()["error"]["message"]
        assert "got 'evil.example:8000'; start the service with --allow-host NAME" in line
        assert "\n" not in line
    shown = client.get("/openapi.json", headers={"Host": "localhost"}).json()
    assert "421" in shown["paths"]["/v1/recommend"]["post"]["responses"]


def test_more_names_pass_where_they_are_allowed(client_for):
    client = client_for("127.0.0.1", "127.0.0.1", ["Shop.example", "[fd00::1]"])
    for host in ("shop.example", "SHOP.example:443", "[fd00::1]:8000", "localhost:8000"):
        assert status(client, host) == 200
    assert status(client, "other.example") == 421


def test_an_address_that_others_reach_has_any_name(client_for):
    assert status(client_for("0.0.0.0", "0.0.0.0"), "shop.example") == 200
    client = client_for("0.0.0.0", "0.0.0.0", ["shop.example"])
    assert status(client, "shop.example:80") == 200
    assert status(client, "evil.example") == 421


def test_names_of_an_address():
    assert hosts_of("127.0.0.1", "127.0.0.1", ()) == HERE
    assert hosts_of("localhost", "::1", ()) == HERE
    assert hosts_of("::1", "::1", ()) == HERE
    assert hosts_of("127.0.0.2", "127.0.0.2", ()) == HERE | {"127.0.0.2"}
    assert hosts_of("My-Host", "127.0.1.1", ()) == HERE | {"my-host", "127.0.1.1"}
    assert hosts_of("fe80::1%eth0", "fe80::1%eth0", ()) is None
    assert hosts_of("::", "::", ["a"]) == HERE | {"a"}
    for name in ("", "a:80", "http://a", "a b", "*", "::1"):
        with pytest.raises(ConfigError, match="--allow-host must be a name"):
            hosts_of("127.0.0.1", "127.0.0.1", [name])
