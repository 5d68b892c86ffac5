"""Fetching from a server on the loopback address that misbehaves in every way we know of."""

from __future__ import annotations

import hashlib
import http.server
import json
import threading

import pytest

from genrec.data.fetch import download
from genrec.data.fetch.download import check_digest, fetch
from genrec.errors import DataError

CONTENT = bytes(range(256)) * 4_000  # 1 MB
SHA = "sha256:" + hashlib.sha256(CONTENT).hexdigest()
MD5 = "md5:" + hashlib.md5(CONTENT, usedforsecurity=False).hexdigest()


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers by the first part of the path; the server keeps the script."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments):
        pass

    def do_GET(self):
        self.server.requests.append((self.path, dict(self.headers)))
        getattr(self, "serve_" + self.path.strip("/").split("/")[0])()

    def begin(self, status=200, length=None, **headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        if length is not None:
            self.send_header("Content-Length", str(length))
        self.end_headers()

    def span(self):
        """First byte that is asked for, where the version still fits."""
        header = self.headers.get("Range")
        if header and self.headers.get("If-Range") == self.server.etag:
            return int(header.removeprefix("bytes=").rstrip("-"))
        return 0

    def serve_whole(self):
        self.begin(length=len(CONTENT), ETag=self.server.etag)
        self.wfile.write(CONTENT)

    def serve_cut(self):
        """Sends some of what is asked for and drops the connection."""
        start = self.span()
        status = 206 if start else 200
        headers = (
            {"Content_Range": f"bytes {start}-{len(CONTENT) - 1}/{len(CONTENT)}"} if start else {}
        )
        self.begin(status, len(CONTENT) - start, ETag=self.server.etag, **headers)
        self.wfile.write(CONTENT[start : start + self.server.cut_bytes])
        self.wfile.flush()
        self.close_connection = True

    def serve_deaf(self):
        """Cuts too, and knows nothing of ranges."""
        self.server.cut_bytes += 400_000
        self.begin(length=len(CONTENT))
        self.wfile.write(CONTENT[: self.server.cut_bytes])
        self.close_connection = True

    def serve_wrongrange(self):
        start = self.span()
        if start and len(self.server.requests) == 2:
            self.begin(206, 10, Content_Range=f"bytes 0-9/{len(CONTENT)}", ETag=self.server.etag)
            self.wfile.write(CONTENT[:10])
            return
        self.serve_cut()

    def serve_busy(self):
        if len(self.server.requests) < 3:
            self.begin(503, 0)
        else:
            self.serve_whole()

    def serve_missing(self):
        self.begin(404, 0)

    def serve_stale(self):
        if "Range" in self.headers:
            self.begin(416, 0, ETag=self.server.etag)
        else:
            self.serve_whole()

    def serve_redirect(self):
        self.begin(302, 0, Location="/whole")

    def serve_away(self):
        self.begin(302, 0, Location="http://example.invalid/file")

    def serve_local(self):
        self.begin(302, 0, Location="file:///etc/hostname")

    def serve_loop(self):
        self.begin(302, 0, Location="/loop")

    def serve_chunked(self):
        self.begin(Transfer_Encoding="chunked")
        for start in range(0, len(CONTENT), 300_000):
            block = CONTENT[start : start + 300_000]
            self.wfile.write(f"{len(block):x}\r\n".encode() + block + b"\r\n")
            if self.path.endswith("cut") and len(self.server.requests) == 1:
                self.close_connection = True
                return
        self.wfile.write(b"0\r\n\r\n")


@pytest.fixture
def server(monkeypatch):
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as instance:
        instance.daemon_threads = True
        instance.requests, instance.etag, instance.cut_bytes = [], '"v1"', 300_000
        instance.address = f"http://127.0.0.1:{instance.server_port}"
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.delenv(name, raising=False)
        thread = threading.Thread(target=instance.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield instance
        instance.shutdown()
        thread.join()


def get(server, path, target, **options):
    return fetch(f"{server.address}/{path}", target, wait_s=0.0, timeout_s=5.0, **options)


@pytest.mark.parametrize("checksum", [None, SHA, MD5, SHA.upper().replace("SHA256", "sha256")])
def test_whole(server, tmp_path, checksum):
    path = get(server, "whole", tmp_path / "new" / "file", checksum=checksum)
    assert path.read_bytes() == CONTENT
    assert [p.name for p in path.parent.iterdir()] == ["file"]  # nothing is left behind


def test_a_file_that_is_there_is_checked_and_kept(server, tmp_path):
    get(server, "whole", tmp_path / "file", checksum=SHA)
    get(server, "whole", tmp_path / "file", checksum=SHA)
    assert len(server.requests) == 1
    (tmp_path / "file").write_bytes(b"other")
    with pytest.raises(
        DataError, match=r"file must have sha256 .*, got .*; delete .*fetch it again"
    ):
        get(server, "whole", tmp_path / "file", checksum=SHA)


def test_a_cut_connection_goes_on_where_it_stopped(server, tmp_path):
    path = get(server, "cut", tmp_path / "file", checksum=SHA)
    assert path.read_bytes() == CONTENT
    asked = [headers.get("Range") for _, headers in server.requests]
    assert asked == [None, "bytes=300000-", "bytes=600000-", "bytes=900000-"]


def test_a_later_call_goes_on_as_well(server, tmp_path):
    with pytest.raises(
        DataError, match=r"must be fetched from http.*ended after 300000 of 1024000"
    ):
        get(server, "cut", tmp_path / "file", checksum=SHA, attempts=1)
    assert not (tmp_path / "file").exists()
    assert (tmp_path / "file.part").stat().st_size == 300_000
    get(server, "cut", tmp_path / "file", checksum=SHA)
    assert server.requests[1][1]["Range"] == "bytes=300000-"
    assert (tmp_path / "file").read_bytes() == CONTENT


def test_a_new_version_is_fetched_from_its_beginning(server, tmp_path):
    with pytest.raises(DataError):
        get(server, "cut", tmp_path / "file", attempts=1)
    server.etag = '"v2"'
    path = get(server, "cut", tmp_path / "file", checksum=SHA)
    assert path.read_bytes() == CONTENT


def test_the_part_of_another_address_is_not_used(server, tmp_path):
    (tmp_path / "file.part").write_bytes(b"x" * 300_000)
    (tmp_path / "file.part.json").write_text(json.dumps({"url": "http://other", "version": '"v1"'}))
    assert get(server, "cut", tmp_path / "file").read_bytes() == CONTENT
    assert "Range" not in server.requests[0][1]


@pytest.mark.parametrize("note", ["", "[]", "{", '{"url": 3}'])
def test_a_damaged_note_starts_again(server, tmp_path, note):
    (tmp_path / "file.part").write_bytes(b"x" * 10)
    (tmp_path / "file.part.json").write_text(note)
    assert get(server, "whole", tmp_path / "file").read_bytes() == CONTENT


@pytest.mark.parametrize(
    "path", ["deaf", "wrongrange", "busy", "redirect", "chunked", "chunked/cut"]
)
def test_servers_with_manners_of_their_own(server, tmp_path, path):
    server.cut_bytes = 300_000 if path != "deaf" else 0
    assert get(server, path, tmp_path / "file", attempts=8, checksum=SHA).read_bytes() == CONTENT


def test_a_part_that_is_too_long_is_dropped(server, tmp_path):
    (tmp_path / "file.part").write_bytes(b"x" * 2_000_000)
    url = f"{server.address}/stale"
    (tmp_path / "file.part.json").write_text(json.dumps({"url": url, "version": '"v1"'}))
    assert get(server, "stale", tmp_path / "file", checksum=SHA).read_bytes() == CONTENT


def test_a_wrong_checksum_leaves_nothing(server, tmp_path):
    with pytest.raises(DataError, match="file must have sha256 0000, got"):
        get(server, "whole", tmp_path / "file", checksum="sha256:0000")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("missing", r"got HTTP 404 Not Found; without a network fetch it elsewhere, put it at"),
        ("away", r"address must be https, got http://example\.invalid/file"),
        ("local", r"address must be https, got file:///etc/hostname|HTTP 302"),
        ("loop", "got HTTP 302"),
    ],
)
def test_answers_that_end_it(server, tmp_path, path, message):
    with pytest.raises(DataError, match=message):
        get(server, path, tmp_path / "file", attempts=2)
    assert not (tmp_path / "file").exists()


@pytest.mark.parametrize("url", ["http://example.com/a", "ftp://127.0.0.1/a", "file:///etc/passwd"])
def test_only_https(tmp_path, url):
    with pytest.raises(DataError, match="address must be https, got"):
        fetch(url, tmp_path / "file")


def test_no_network_names_address_and_place(tmp_path):
    target = tmp_path / "ml-1m.zip"
    with pytest.raises(DataError) as caught:
        fetch("https://no-such-host.invalid/ml-1m.zip", target, wait_s=60)  # must not wait
    message = str(caught.value)
    assert "https://no-such-host.invalid/ml-1m.zip" in message
    assert f"put it at {target} and run again" in message
    assert "\n" not in message


def test_nothing_answers(tmp_path):
    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as closed:
        port = closed.server_port
    with pytest.raises(DataError, match="refused"):
        fetch(f"http://127.0.0.1:{port}/x", tmp_path / "file", attempts=2, wait_s=0.0)


def test_a_full_disk_is_seen_before(server, tmp_path, monkeypatch):
    usage = type("Usage", (), {"free": 1_000})
    monkeypatch.setattr(download.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(DataError, match="disk must have 0 MiB free for"):
        get(server, "whole", tmp_path / "file")


def test_digests(tmp_path):
    (tmp_path / "file").write_bytes(CONTENT)
    for checksum in (None, SHA, MD5):
        check_digest(tmp_path / "file", checksum)
    with pytest.raises(DataError, match="must have md5 ffff"):
        check_digest(tmp_path / "file", "md5:ffff")
