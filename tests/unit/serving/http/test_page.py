"""What the page is sent as."""

from __future__ import annotations

import http.client
import re
from pathlib import Path
from urllib.parse import urlsplit

import pytest

import genrec

pytest.importorskip("fastapi", reason="the service needs fastapi: extra serve")

STATIC = Path(genrec.__file__).parent / "serving" / "http" / "static"
FILES = {path.name: path.read_text(encoding="utf-8") for path in STATIC.iterdir()}


def ask(address: str, path: str, method: str = "GET", **headers: str):
    """Ask for a path as it is written; return status, headers and body."""
    connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=20)
    connection.request(method, path, headers=headers)
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer.status, {name.lower(): value for name, value in answer.getheaders()}, body


@pytest.fixture(scope="module")
def address(serve, sasrec_run) -> str:
    return serve(sasrec_run)


def test_the_page_allows_nothing_from_elsewhere(address):
    status, headers, body = ask(address, "/")
    assert status == 200
    assert headers["content-type"] == "text/html; charset=utf-8"
    assert body.decode() == FILES["index.html"]
    policy = dict(
        part.strip().split(" ", 1) for part in headers["content-security-policy"].split(";")
    )
    assert policy["default-src"] == "'none'"
    assert {policy[f"{what}-src"] for what in ("script", "style", "connect", "img")} == {"'self'"}
    assert policy["frame-ancestors"] == "'none'"
    assert policy["require-trusted-types-for"] == "'script'"
    assert headers["x-content-type-options"] == "nosniff"
    assert ask(address, "/", "HEAD")[0] == 200


def test_every_file_that_is_named_is_sent(address):
    named = {
        *re.findall(r'(?:href|src)="static/([^"]+)"', FILES["index.html"]),
        *re.findall(r'from "\./([^"]+)"', "".join(FILES.values())),
    }
    assert named == set(FILES) - {"index.html"}
    types = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
    for name in named:
        status, headers, body = ask(address, f"/static/{name}")
        assert status == 200
        assert headers["content-type"].split(";")[0] == types[Path(name).suffix]
        assert body.decode() == FILES[name]
        again = ask(address, f"/static/{name}", **{"If-None-Match": headers["etag"]})
        assert (again[0], again[2]) == (304, b"")


@pytest.mark.parametrize(
    "path", ["/static/none.js", "/static/../page.py", "/static/%2e%2e/page.py", "/static/"]
)
def test_no_other_file_is_sent(address, path):
    assert ask(address, path)[0] == 404


def test_the_files_hold_nothing_inline_and_name_no_other_host():
    page = FILES["index.html"]
    assert re.findall(r"<script(?![^>]*\bsrc=)[^>]*>|<style|\sstyle=|\son\w+=", page) == []
    for name, text in FILES.items():
        hosts = re.findall(r"https?://[^\s\"')]+", text)
        known = ("http://www.w3.org/2000/svg", "https://www.w3.org/WAI/")
        assert [host for host in hosts if not host.startswith(known)] == [], name
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", text)
