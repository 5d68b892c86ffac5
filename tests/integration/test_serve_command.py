"""``genrec serve`` as a process: its door, its signals, its end, and what survives."""

from __future__ import annotations

import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="the extra serve is not installed")

TOKEN = "a-token-of-the-tests"
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "GENREC_SERVE_TOKEN": TOKEN}
ASKING = "POST /v1/recommend HTTP/1.1\r\nHost: localhost"
COMMAND = [sys.executable, "-m", "genrec", "serve"]


class Running:
    """A service of its own process."""

    def __init__(self, run: Path, *words: object) -> None:
        self.process = subprocess.Popen(
            [*COMMAND, str(run), "--port", "0", *map(str, words)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=ENVIRONMENT,
        )
        line = self.process.stdout.readline()
        assert line.startswith("serving "), line + self.process.stderr.read()
        self.port = int(re.search(r"127\.0\.0\.1:(\d+)", line)[1])

    def ask(self, method: str, path: str, body: object = None, timeout: float = 60) -> tuple:
        """Send one request on a connection of its own."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            told = None if body is None else json.dumps(body)
            connection.request(method, path, told, {"Authorization": f"Bearer {TOKEN}"})
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())
        finally:
            connection.close()

    def end(self, number: int = signal.SIGTERM) -> tuple[int, str]:
        """Stop it; give its status and what it said at last."""
        self.process.send_signal(number)
        out, err = self.process.communicate(timeout=60)
        return self.process.returncode, out + err


@pytest.fixture
def start():
    """A function that starts services; those that still run at the end are killed."""
    running = []

    def begin(*words) -> Running:
        running.append(Running(*words))
        return running[-1]

    yield begin
    for one in running:
        if one.process.poll() is None:
            one.process.kill()
        one.process.communicate()


@pytest.fixture
def run(sample_decoder, tmp_path) -> Path:
    return shutil.copytree(sample_decoder, tmp_path / "run")


def refused(*words: object, env: dict[str, str] = ENVIRONMENT) -> str:
    """Start what cannot start; give its one line."""
    done = subprocess.run(
        [*COMMAND, *map(str, words)], capture_output=True, text=True, timeout=120, env=env
    )
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""
    return done.stderr


def some_keys(running: Running, count: int) -> list[str]:
    _, found = running.ask("POST", "/v1/recommend", {"histories": [[]], "k": count})
    return [item["item"] for item in found["results"][0]["items"]]


def test_a_service_from_beginning_to_end(run, start, tmp_path):
    service = start(run, "--timeout", "2")
    assert "--port must be free" in refused(run, "--port", service.port)
    keys = some_keys(service, 3)
    assert service.ask("DELETE", f"/v1/items/{keys[0]}")[0] == 200
    new = {"items": [{"item": "n/1", "title": "Red cup", "text": "Red cup; kitchen"}]}
    assert service.ask("POST", "/v1/items", new)[0] == 200
    only = {"histories": [[keys[1]]], "allow": ["n/1", keys[0]], "k": 5}
    first = service.ask("POST", "/v1/recommend", only)[1]["results"]
    assert [item["item"] for item in first[0]["items"]] == ["n/1"]

    # A client that sends half of a request, and one that sends nothing more than a byte.
    with socket.create_connection(("127.0.0.1", service.port)) as slow:
        slow.sendall(b"%s\r\nContent-Length: 99\r\n\r\n{" % ASKING.encode())
        assert slow.recv(1000).startswith(b"HTTP/1.1 408")
    idle = socket.create_connection(("127.0.0.1", service.port))
    idle.sendall(b"P")

    service.process.kill()
    service.process.wait()
    idle.close()
    with (tmp_path / "run.journal").open("ab") as journal:
        journal.write(b"0123456789abcdef {half of a li")
    again = start(run)
    assert again.ask("POST", "/v1/recommend", only)[1]["results"] == first
    assert again.ask("GET", f"/v1/items/{keys[0]}")[0] == 404
    status, said = again.end()
    assert status == 0
    assert said.splitlines()[0] == "ended"
    assert "dropped 30 bytes of a torn last line" in said


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_the_commands_of_the_readme(run, start, repository):
    service = start(run)
    readme = (repository / "README.md").read_text(encoding="utf-8")
    block = next(part for part in readme.split("```") if "curl -s" in part)
    lines = block.removeprefix("bash\n").replace("\\\n", " ").strip().splitlines()
    assert len(lines) == 7
    for line in lines:
        told = line.replace("127.0.0.1:8000", f"127.0.0.1:{service.port}")
        done = subprocess.run(["bash", "-c", told], capture_output=True, text=True, env=ENVIRONMENT)
        assert done.returncode == 0, line
        found = json.loads(done.stdout)
        assert "error" not in found, (line, found)
        assert found.get("items", True) != [], line
    status, said = service.end(signal.SIGINT)
    assert (status, said) == (0, "ended\n")


def test_what_has_begun_is_answered(run, start):
    service = start(run, "--max-batch", "1")
    keys = some_keys(service, 8)
    answers = []

    def ask():
        answers.append(service.ask("POST", "/v1/recommend", {"histories": [keys] * 8, "k": 50})[0])

    crowd = [threading.Thread(target=ask) for _ in range(8)]
    for one in crowd:
        one.start()
    while service.ask("GET", "/v1/info")[0] == 200 and not answers:
        time.sleep(0.01)
    status, said = service.end(signal.SIGTERM)
    for one in crowd:
        one.join()
    assert answers == [200] * 8
    assert status == 0, said
    assert "Traceback" not in said


def test_what_cannot_start(run, tmp_path):
    plain = {name: value for name, value in ENVIRONMENT.items() if name != "GENREC_SERVE_TOKEN"}
    assert "token must have at least 16" in refused(run, env={**plain, "GENREC_SERVE_TOKEN": "x"})
    assert "run must be a folder with meta.json" in refused(tmp_path / "gone", "--port", "0")
    assert [path.name for path in tmp_path.iterdir() if "journal" in path.name] == []


async def crowd_asks(port, bodies, clients, until, on_answer):
    """Keep some clients asking; each answer is told with the moment when it was asked for."""
    import asyncio

    async def client(number):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        at = number
        while time.monotonic() < until():
            body = bodies[at % len(bodies)]
            at += 1
            asked = time.monotonic()
            head = f"{ASKING}\r\nContent-Length: {len(body)}\r\n\r\n"
            writer.write(head.encode() + body)
            lines = (await reader.readuntil(b"\r\n\r\n")).lower()
            length = int(re.search(rb"content-length: (\d+)", lines)[1])
            on_answer(asked, lines[:12], json.loads(await reader.readexactly(length)))
        writer.close()

    await asyncio.gather(*(client(number) for number in range(clients)))


@pytest.mark.slow
def test_a_storm(run, start, tmp_path):
    """64 clients ask while items come and go and the model is swapped; then the power fails."""
    import asyncio

    shutil.copytree(run, tmp_path / "models" / "newer")
    newer = tmp_path / "models" / "newer"
    best = (newer / "best").read_text().strip()
    other = next(path.name for path in newer.glob("step_*") if path.name != best)
    (newer / "best").write_text(f"{other}\n")  # other weights, the same items
    service = start(run, "--models", tmp_path / "models", "--timeout", "60")
    keys = some_keys(service, 100)
    removed: dict[str, float] = {}
    statuses: dict[bytes, int] = {}
    wrong = []
    stop = [float("inf")]

    def on_answer(asked, status, found):
        statuses[status] = statuses.get(status, 0) + 1
        for one in found.get("results", ()):
            if len(one["items"]) != 10:
                wrong.append(("fewer", len(one["items"])))
            wrong.extend(
                ("came back", item["item"])
                for item in one["items"]
                if removed.get(item["item"], float("inf")) < asked
            )

    bodies = [json.dumps({"histories": [[key]], "k": 10}).encode() for key in keys]
    crowd = threading.Thread(
        target=lambda: asyncio.run(crowd_asks(service.port, bodies, 64, lambda: stop[0], on_answer))
    )
    crowd.start()
    versions, alive = set(), []
    began, number = time.monotonic(), 0
    try:
        while number < 16 and time.monotonic() - began < 120:
            key = f"new/{number}"
            item = {"item": key, "title": f"Tent {number}", "text": f"Tent; number {number}"}
            assert service.ask("POST", "/v1/items", {"items": [item]})[0] == 200
            only = {"histories": [[keys[number % 100]]], "allow": [key]}
            found = service.ask("POST", "/v1/recommend", only)[1]["results"][0]["items"]
            assert [one["item"] for one in found] == [key]
            gone = keys[number] if number % 5 else key
            assert service.ask("DELETE", "/v1/items/" + gone.replace("/", "%2F"))[0] == 200
            removed[gone] = time.monotonic()
            alive += [key] if gone != key else []
            if number % 4 == 3:
                path = "newer" if number % 8 == 3 else None
                status, info = service.ask("POST", "/v1/model", {"path": path})
                assert status == 200, info
                versions.add(info["version"])
            number += 1
    finally:
        stop[0] = 0
        crowd.join()
    assert number > 7
    assert len(versions) == 2
    assert wrong == []
    assert list(statuses) == [b"http/1.1 200"]
    assert statuses[b"http/1.1 200"] > 64

    status, info = service.ask("GET", "/v1/info")
    ask_all = {"histories": [[keys[50]]], "k": 100}
    before = service.ask("POST", "/v1/recommend", ask_all)
    items = [service.ask("GET", "/v1/items/" + key.replace("/", "%2F")) for key in alive]
    service.process.kill()
    service.process.wait()
    again = start(run, "--models", tmp_path / "models")
    later = again.ask("GET", "/v1/info")[1]
    assert {**later, "changes": 0} == {**info, "changes": 0}
    assert again.ask("POST", "/v1/recommend", ask_all) == before
    assert [again.ask("GET", "/v1/items/" + key.replace("/", "%2F")) for key in alive] == items
    for key in removed:
        assert again.ask("GET", "/v1/items/" + key.replace("/", "%2F"))[0] == 404
