"""A recommender as one folder: saved, opened with little installed, put on a hub and fetched."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar
from urllib.parse import unquote

import numpy as np
import pytest
from typer.testing import CliRunner

from genrec.cli import build_app
from genrec.errors import ConfigError, MissingPathError
from genrec.rankers import Popularity
from genrec.serving.recommender import Recommender

HISTORIES = [["a1", "a2"], ["c3"], []]


@pytest.fixture
def changed(run, vectors) -> Recommender:
    return change(run, vectors)


def change(run: Path, vectors: np.ndarray) -> Recommender:
    """A recommender with an item more and another one less."""
    recommender = Recommender.from_pretrained(run, device="cpu")
    recommender.add_items([("new", "A new one", vectors[0])])
    recommender.remove_items(["b1"])
    return recommender


@pytest.mark.parametrize("which", ["run", "item_run"])
def test_what_is_saved_recommends_the_same(request, which, tmp_path, vectors):
    changed = change(request.getfixturevalue(which), vectors)
    expected = changed.recommend(HISTORIES, k=10)
    assert changed.save(tmp_path / "saved") == tmp_path / "saved"
    again = Recommender.from_pretrained(tmp_path / "saved", device="cpu")
    found = again.recommend(HISTORIES, k=10)
    assert (found.items, found.titles) == (expected.items, expected.titles)
    assert found.flat_scores.tolist() == expected.flat_scores.tolist()
    assert found.popular.tolist() == [False, False, True]
    assert again.num_items == changed.num_items == 32
    again.add_items([("newer", "", vectors[9])])
    assert again.similar_items("newer", k=1).items[0][0] == "b"
    suffixes = {path.suffix for path in (tmp_path / "saved").rglob("*") if path.is_file()}
    assert suffixes == {".json", ".npy", ".safetensors", ".md", ""}  # "" is the pointer
    whole = "".join(p.read_text() for p in (tmp_path / "saved").glob("*.json"))
    assert str(tmp_path.parent.parent) not in whole  # nothing of this machine


def test_a_model_without_ids_is_saved_too(sasrec_run, tmp_path):
    recommender = Recommender.from_pretrained(sasrec_run, device="cpu")
    recommender.remove_items(["b1"])
    recommender.save(tmp_path / "saved")
    again = Recommender.from_pretrained(tmp_path / "saved", device="cpu")
    assert again.recommend(HISTORIES).items == recommender.recommend(HISTORIES).items


def test_nothing_is_overwritten_unasked(changed, tmp_path, data):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ConfigError, match="folder to save to must be new or empty"):
        changed.save(tmp_path)
    assert (tmp_path / "file").read_text() == "mine"
    changed.save(tmp_path / "saved")
    changed.save_pretrained(tmp_path / "saved")
    (tmp_path / "saved" / ".git").mkdir()
    for place in (tmp_path, tmp_path / "saved", changed.path, tmp_path / "file"):
        before = sorted(file.name for file in tmp_path.rglob("*"))
        with pytest.raises(ConfigError, match="or hold a saved recommender and nothing else, got"):
            changed.save(place, overwrite=True)
        assert sorted(file.name for file in tmp_path.rglob("*")) == before
    with pytest.raises(ConfigError, match="only a recommender of a run can be saved, got popul"):
        Recommender(Popularity.fit(data)).save(tmp_path / "other")


def test_commands_take_a_saved_folder(run, data, tmp_path):
    Recommender.from_pretrained(run, device="cpu").save(tmp_path / "saved")
    for words, said in (
        (("evaluate", "--no-baselines", "-k", "5"), "test split, "),
        (("diagnose", "--users", "20"), "recall@10"),
    ):
        more = [str(tmp_path / "saved"), "--data", str(data.path)]
        answer = CliRunner().invoke(build_app(), [words[0], *more, *words[1:]])
        assert answer.exit_code == 0, answer.output
        assert said in answer.stdout
        assert answer.stderr == ""


HIDE = """
import sys
hidden = set(sys.argv[1].split(","))

class Hiding:
    def __init__(self, finder):
        self.finder = finder
    def find_spec(self, name, *more):
        return None if name.partition(".")[0] in hidden else self.finder.find_spec(name, *more)
    def __getattr__(self, name):
        return getattr(self.finder, name)

sys.meta_path[:] = [Hiding(finder) for finder in sys.meta_path]
"""
SERVE = """
from genrec import Recommender
recommender = Recommender.from_pretrained(sys.argv[2])
found = recommender.recommend([["a1", "a2"], ["c3"], []], k=10)
recommender.add_items([("newer", "", [10.0, 0, 0, 0, 0, 0])])
print([found.items, recommender.similar_items("newer", k=1).items[0][0]])
"""
FIND = """
from genrec.registry import QUANTIZERS, RANKERS, find
print(*(find(table, name).__name__ for table in (QUANTIZERS, RANKERS) for name in table))
"""


def run_with_little(code: str, *words: str) -> str:
    """Run Python where torch, numpy, safetensors and xxhash alone can be imported."""
    tomllib = pytest.importorskip("tomllib", reason="tomllib came with Python 3.11")
    project = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())["project"]
    needed = [name.partition(">")[0] for name in project["dependencies"]]
    little = {"torch", "numpy", "safetensors", "xxhash"}
    hidden = {name.replace("-", "_") for name in needed} - little
    hidden |= {"gin", "sklearn", "pandas"}
    hidden -= {"filelock"}  # torch itself needs it
    done = subprocess.run(
        [sys.executable, "-c", HIDE + code, ",".join(hidden), *words],
        capture_output=True,
        text=True,
    )
    assert done.stderr == ""
    return done.stdout.strip()


def test_torch_numpy_safetensors_and_xxhash_are_enough(changed, tmp_path):
    changed.save(tmp_path / "saved")
    found = run_with_little(SERVE, str(tmp_path / "saved"))
    assert found == str([changed.recommend(HISTORIES, k=10).items, "a"])


def test_every_model_and_quantizer_opens_with_as_little():
    from genrec.registry import QUANTIZERS, RANKERS, find

    names = (find(table, name).__name__ for table in (QUANTIZERS, RANKERS) for name in table)
    assert run_with_little(FIND) == " ".join(names)


def git_digest(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class Hub(BaseHTTPRequestHandler):
    """As much of the Hugging Face hub as one model needs."""

    files: ClassVar[dict[str, bytes]] = {}
    commit = "0" * 40

    def log_message(self, *_):
        pass

    def answer(self, content, status=200, **headers):
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers["Authorization"] != "Bearer secret":
            self.answer({"error": "no"}, 401)
        elif self.path == "/api/validate-yaml":
            self.answer({"errors": [], "warnings": []})
        elif self.path == "/api/repos/create":
            self.answer({"url": f"http://{self.headers['Host']}/me/shop", "name": "me/shop"})
        elif "/preupload/" in self.path:
            names = [file["path"] for file in json.loads(body)["files"]]
            modes = [{"path": p, "uploadMode": "regular", "shouldIgnore": False} for p in names]
            self.answer({"files": modes})
        elif "/commit/" in self.path:
            for line in body.decode().splitlines():
                entry = json.loads(line)
                if entry["key"] == "file":
                    value = entry["value"]
                    self.files[value["path"]] = base64.b64decode(value["content"])
            url = f"http://{self.headers['Host']}/me/shop/commit/{self.commit}"
            self.answer({"commitUrl": url, "commitOid": self.commit, "success": True})
        else:
            self.answer({"error": self.path}, 404)

    def do_GET(self):
        path = unquote(self.path.partition("?")[0])
        if path.startswith("/api/models/me/shop/tree/"):
            self.answer(
                [
                    {"type": "file", "path": name, "size": len(content), "oid": git_digest(content)}
                    for name, content in self.files.items()
                ]
            )
        elif path.startswith("/api/models/me/shop"):
            names = [{"rfilename": name} for name in self.files]
            self.answer({"id": "me/shop", "sha": self.commit, "siblings": names, "private": False})
        elif path.startswith("/me/shop/resolve/"):
            name = path.split("/", 5)[5]
            content = self.files[name]
            self.answer(content, ETag=f'"{git_digest(content)}"', X_Repo_Commit=self.commit)
        else:
            self.answer({"error": path}, 404)

    do_HEAD = do_GET


HUB = """
import sys
from genrec import Recommender
recommender = Recommender.from_pretrained(sys.argv[1], device="cpu")
print(recommender.push_to_hub("me/shop", token="secret"))
again = Recommender.from_pretrained("me/shop", device="cpu", token="secret")
histories = [["a1", "a2"], ["c3"], []]
assert again.recommend(histories).items == recommender.recommend(histories).items
for call in (
    lambda: recommender.push_to_hub("me/shop", token="wrong"),
    lambda: recommender.push_to_hub("shop"),
    lambda: Recommender.from_pretrained("me/nothing"),
):
    try:
        call()
    except Exception as error:
        print(type(error).__name__, error)
"""


def test_a_recommender_goes_to_a_hub_and_comes_back(run, tmp_path):
    Hub.files = {}
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    kept = {k: v for k, v in os.environ.items() if "proxy" not in k.lower()}
    settings = {
        "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}",
        "HF_HOME": str(tmp_path / "cache"),
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "NO_PROXY": "127.0.0.1",
    }
    try:
        done = subprocess.run(
            [sys.executable, "-c", HUB, str(run)],
            capture_output=True,
            text=True,
            env=kept | settings,
            timeout=120,
        )
    finally:
        server.shutdown()
        server.server_close()
    assert done.returncode == 0, done.stderr
    url, refused, name, missing = done.stdout.splitlines()
    assert url.endswith(f"/me/shop/commit/{Hub.commit}")
    assert refused.startswith("ConfigError the hub must take me/shop, got Client error '401 ")
    assert name == "ConfigError repo_id must be owner/name, got 'shop'; for example me/my-shop"
    assert missing.startswith("MissingPathError run must be a folder with meta.json or a name on")
    card = Hub.files["README.md"].decode()
    assert card.startswith("---\nlibrary_name: genrec\n")
    assert 'Recommender.from_pretrained("me/shop")' in card
    assert "| generation | 0.2500 | 0.1250 |" in card
    assert "1,234 parameters" in card
    assert {"meta.json", "step_0/model.safetensors", "catalogue/counts.npy"} <= set(Hub.files)


def test_a_name_of_the_hub_without_the_hub(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(MissingPathError, match=r"run must be a folder with meta.json, got me/noth"):
        Recommender.from_pretrained("me/nothing")
