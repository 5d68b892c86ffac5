"""``genrec serve``: its token, its door, its journal's place, and the extra that it needs."""

from __future__ import annotations

import json
import re
import socket
import sys

import pytest
from typer.testing import CliRunner

from genrec.cli import build_app
from genrec.commands.serve import TOKEN_VARIABLE, _check_packages, _journal, read_token
from genrec.errors import ConfigError, MissingPathError

GOOD = "0123456789abcdef"


def test_a_token_of_the_environment_or_of_a_file(tmp_path, monkeypatch):
    monkeypatch.delenv(TOKEN_VARIABLE, raising=False)
    assert read_token(None) is None
    monkeypatch.setenv(TOKEN_VARIABLE, GOOD)
    assert read_token(None) == GOOD
    (tmp_path / "token").write_text(f"{GOOD}-of-a-file\n")
    assert read_token(tmp_path / "token") == f"{GOOD}-of-a-file"


@pytest.mark.parametrize("token", ["", "short", "0123456789 abcdef", "0123456789abcdé"])
def test_a_token_that_is_none(token, tmp_path, monkeypatch):
    monkeypatch.setenv(TOKEN_VARIABLE, token)
    with pytest.raises(ConfigError, match=rf"at least 16 .* in {TOKEN_VARIABLE}; make one"):
        read_token(None)
    (tmp_path / "token").write_text(token, encoding="utf-8")
    with pytest.raises(ConfigError, match="openssl rand"):
        read_token(tmp_path / "token")
    for path in (tmp_path, tmp_path / "gone"):
        with pytest.raises(MissingPathError, match="--token-file must be a text file"):
            read_token(path)


def test_the_journal_lies_beside_the_run(tmp_path):
    run, beside = tmp_path / "run", tmp_path / "run.journal"
    assert _journal(None, run, None) is None
    assert _journal(None, run, GOOD) == beside
    assert _journal(tmp_path / "own", run, None) == tmp_path / "own"
    beside.touch()
    assert _journal(None, run, None) == beside


def test_a_missing_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    with pytest.raises(
        ConfigError,
        match=r"got no (fastapi|uvicorn); .*pip install .*\[serve\]",
    ):
        _check_packages()


def test_the_door(monkeypatch):
    pytest.importorskip("uvicorn", reason="the extra serve is not installed")
    from genrec.serving.http.server import listen

    with listen("127.0.0.1", 0) as door:
        door.listen()
        port = door.getsockname()[1]
        assert door.family == socket.AF_INET
        with pytest.raises(ConfigError, match=f"--port must be free, got {port} on 127.0.0.1"):
            listen("127.0.0.1", port)
    with pytest.raises(ConfigError, match="--port must be free"):
        listen("192.0.2.1", 0)  # an address of nobody

    def unknown(*_, **__):
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(
        ConfigError, match="--host must be an address of this machine, got 'nowhere'"
    ):
        listen("nowhere", 0)


def test_the_container_starts_a_command_that_exists(repository):
    text = (repository / "Containerfile").read_text(encoding="utf-8")
    told = dict(re.findall(r"^(COPY|ENTRYPOINT) (.*)$", text, flags=re.MULTILINE))
    program, command, *words = json.loads(told["ENTRYPOINT"])
    assert (program, command) == ("genrec", "serve")
    known = CliRunner().invoke(build_app(), ["serve", "--help"], env={"COLUMNS": "200"})
    options = [word for word in words if word.startswith("--")]
    assert options
    assert [option for option in options if option not in known.output] == []
    (wheel,) = re.findall(r"dist/\S+\.whl", told["COPY"])
    ignored = (repository / ".containerignore").read_text(encoding="utf-8").split()
    assert f"!{wheel}" in ignored
    assert "!constraints.txt" in ignored
