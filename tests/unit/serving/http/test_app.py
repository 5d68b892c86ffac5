"""The routes: what goes in and comes out, and what is refused."""

from __future__ import annotations

import json
import re
import shutil
import time

import pytest

fastapi = pytest.importorskip("fastapi", reason="the extra serve is not installed")
pytest.importorskip("httpx", reason="httpx is in the extra dev")

from pydantic import ValidationError  # noqa: E402
from starlette.testclient import TestClient  # noqa: E402

from genrec.models.beam_ranker import BeamRanker  # noqa: E402
from genrec.serving.http.app import build_app  # noqa: E402
from genrec.serving.http.batcher import QueueFull  # noqa: E402
from genrec.serving.http.messages import RecommendRequest  # noqa: E402
from genrec.serving.http.metrics import Metrics  # noqa: E402
from genrec.serving.http.service import Service, Source  # noqa: E402
from genrec.serving.http.settings import ServiceSettings  # noqa: E402

TOKEN = "0123456789abcdef"
RIGHT = {"Authorization": f"Bearer {TOKEN}"}
VECTOR = [9.0, 0.5, 0.0, 0.0, 0.0, 0.0]
OTHER = [0.0, 0.0, 9.0, 0.0, 0.5, 0.0]


def client_of(run, journal=None, token=TOKEN, **settings):
    metrics = Metrics()
    service = Service(
        Source(run=str(run), device="cpu", journal=journal),
        ServiceSettings(**settings),
        observe=metrics.search,
    )
    app = build_app(service, token=token, metrics=metrics)
    return TestClient(app, raise_server_exceptions=False)


@pytest.fixture
def client(run, tmp_path):
    with client_of(run, tmp_path / "journal", max_body_bytes=2000) as client:
        yield client


def message_of(answer, status) -> str:
    assert answer.status_code == status, answer.text
    assert list(answer.json()) == ["error"]
    assert list(answer.json()["error"]) == ["message"]
    line = answer.json()["error"]["message"]
    assert "\n" not in line
    return line


def test_recommend(client):
    told = {"histories": [["a1", "a2"], ["nothing"]], "k": 2, "explain": True}
    answer = client.post("/v1/recommend", json=told)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    found = answer.json()
    assert found["model"] == "generation"
    first, second = found["results"]
    assert [item["rank"] for item in first["items"]] == [1, 2]
    assert set(first["items"][0]) == {"item", "title", "score", "rank", "codes", "why"}
    assert (first["user"], first["popular"], second["popular"]) == (None, False, True)
    named = client.post("/v1/recommend", json={"users": ["user 3"], "histories": None}).json()
    assert named["results"][0]["user"] == "user 3"
    assert len(named["results"][0]["items"]) == 10
    assert "codes" not in named["results"][0]["items"][0]
    assert client.post("/v1/recommend", json={"histories": []}).json()["results"] == []


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (400, "{", "body must be JSON"),
        (400, "[" * 1500, "body must be JSON"),
        (400, '{"histories": [["\\ud800"]]}', "body must be JSON"),
        (400, b"\xff\xfe", "body must be JSON"),
        (422, "[]", "body: "),
        (422, "{}", "histories or users must be given"),
        (422, '{"histories": [["a1"]], "k": 0}', r"k: .*greater than or equal to 1, got 0"),
        (422, '{"histories": [["a1"]], "k": 101}', "k: .*less than or equal to 100"),
        (422, '{"histories": [["a1"]], "k": 2.0}', "k: "),
        (422, '{"histories": [["a1"]], "k": true}', "k: "),
        (422, '{"histories": [["a1"]], "K": 3}', "K: extra inputs are not permitted"),
        (
            422,
            '{"histories": [["a1"]], "K\\n\\u001b[1m": 3}',
            r"K \\u001b\[1m: extra inputs are not",
        ),
        (422, '{"histories": ["a1"]}', "histories.0: .*array, got 'a1'"),
        (422, '{"histories": [[1.5]]}', "histories.0.0"),
        (422, '{"histories": [[true]]}', "histories.0.0"),
        (422, '{"histories": [[""]]}', "histories.0.0"),
        (422, '{"histories": [[18446744073709551616]]}', "histories.0.0"),
        (
            422,
            '{"histories": [["a1"]], "users": []}',
            "users must be as many as histories, 1, got 0",
        ),
        (422, '{"histories": [["a1"]], "on_unknown": "warn"}', "on_unknown"),
        (422, '{"histories": [["zzz"]], "on_unknown": "raise"}', "'zzz'.*did you mean|'zzz'"),
        (422, json.dumps({"histories": [[]] * 129}), "histories: .*at most 128"),
        (413, json.dumps({"histories": [["a" * 3000]]}), "body must have at most 2,000 bytes"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(client, status, body, said):
    line = message_of(client.post("/v1/recommend", content=body), status)
    assert re.search(said, line), line


@pytest.mark.parametrize(
    ("told", "most"),
    [
        ({"histories": [["a1"] * 1_001]}, 1_000),
        ({"histories": [["a1"]], "allow": ["a1"] * 10_001}, 10_000),
        ({"histories": [["a1"]], "exclude": ["a1"] * 10_001}, 10_000),
    ],
)
def test_lists_have_an_end(told, most):
    with pytest.raises(ValidationError, match=f"at most {most} items"):
        RecommendRequest.model_validate(told)
    longest = {name: keys[:most] for name, keys in told.items() if name != "histories"}
    RecommendRequest.model_validate({"histories": [told["histories"][0][:most]], **longest})


@pytest.mark.parametrize("size", [3e38, 1e20, 1e18])
def test_vectors_that_are_too_long_are_refused(client, size):
    told = {"items": [{"item": "x", "vector": [size, -size, 0, 0, 0, 0]}]}
    line = message_of(client.post("/v1/items", json=told, headers=RIGHT), 422)
    assert "vector must have a length of at most 1e+18, got" in line
    message_of(client.get("/v1/items/x"), 404)
    told["items"][0]["vector"][:2] = [1e17, 1e17]
    assert client.post("/v1/items", json=told, headers=RIGHT).status_code == 200
    near = client.get("/v1/items/x/similar?k=40").json()["items"]
    assert len({item["score"] for item in near}) > 1


def test_a_body_without_a_length_is_measured_too(client):
    def parts():
        for _ in range(5):
            yield b"[" * 1000

    message_of(client.post("/v1/recommend", content=parts()), 413)


def test_items(client):
    key, path = "a/b ü?#%2F", "/v1/items/a%2Fb%20%C3%BC%3F%23%252F"
    told = {
        "items": [
            {"item": key, "title": "Red cup", "vector": VECTOR},
            {"item": 7, "vector": OTHER},
        ]
    }
    message_of(client.get(path), 404)
    added = client.post("/v1/items", json=told, headers=RIGHT)
    assert added.json() == {"added": [key, "7"], "returned": [], "unused": {}, "num_items": 34}
    shown = client.get(path).json()
    assert (shown["item"], shown["title"], len(shown["codes"])) == (key, "Red cup", 3)
    assert client.get("/v1/items/7").json()["title"] == "7"
    near = client.get(f"{path}/similar", params={"k": 2}).json()["items"]
    assert [item["rank"] for item in near] == [1, 2]
    found = client.get("/v1/items", params={"q": "RED"}).json()
    assert found == {"items": [{"item": key, "title": "Red cup"}]}
    assert client.delete(path, headers=RIGHT).json() == {"removed": key, "num_items": 33}
    message_of(client.get(path), 404)
    message_of(client.delete(path, headers=RIGHT), 404)
    assert client.get("/v1/items", params={"q": "RED"}).json() == {"items": []}
    back = client.post("/v1/items", json={"items": told["items"][:1]}, headers=RIGHT).json()
    assert back == {"added": [], "returned": [key], "unused": {}, "num_items": 34}
    assert client.delete(path, headers=RIGHT).status_code == 200
    changed = {"items": [{**told["items"][0], "title": "Blue cup"}]}
    back = client.post("/v1/items", json=changed, headers=RIGHT).json()
    assert back == {
        "added": [],
        "returned": [key],
        "unused": {key: ["title"]},
        "num_items": 34,
    }
    message_of(client.post("/v1/items", json=told, headers=RIGHT), 409)


@pytest.mark.parametrize(
    "item",
    [
        {"item": "x"},
        {"item": "x", "vector": []},
        {"item": "x", "vector": [1e300] * 6},
        {"item": "x", "vector": [1.0]},
        {"item": "", "vector": VECTOR},
        {"item": "x", "text": "red", "colour": "red"},
        {"item": "x", "text": "the run keeps no encoder"},
    ],
)
def test_items_that_cannot_be_added(client, item):
    message_of(client.post("/v1/items", json={"items": [item]}, headers=RIGHT), 422)
    nan = json.dumps({"items": [{"item": "x", "vector": [float("nan")] * 6}]})
    message_of(client.post("/v1/items", content=nan, headers=RIGHT), 422)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/items"),
        ("DELETE", "/v1/items/a1"),
        ("POST", "/v1/model"),
        ("PUT", "/v1/anything"),
    ],
)
def test_changes_need_the_token(client, run, method, path):
    for headers in ({}, {"Authorization": "Bearer other"}, {"Authorization": f"Basic {TOKEN}"}):
        answer = client.request(method, path, json={}, headers=headers)
        assert "send Authorization: Bearer TOKEN" in message_of(answer, 401)
        assert answer.headers["www-authenticate"] == "Bearer"
    wrong = {"Authorization": "Bearer é".encode("latin-1")}
    message_of(client.request(method, path, json={}, headers=wrong), 401)
    with client_of(run, token=None) as closed:
        assert "--token-file" in message_of(closed.request(method, path, headers=RIGHT), 403)


def test_model(client):
    before = client.get("/v1/info").json()
    after = client.post("/v1/model", json={}, headers=RIGHT).json()
    assert after == {**before, "changes": 1}
    refused = client.post("/v1/model", json={"path": "other"}, headers=RIGHT)
    assert "--models" in message_of(refused, 403)


def test_what_is_not_there(client):
    message_of(client.get("/nothing"), 404)
    answer = client.put("/v1/recommend", headers=RIGHT)
    message_of(answer, 405)
    assert answer.headers["allow"] == "POST"
    message_of(client.get("/v1/items"), 422)
    message_of(client.get("/v1/items", params={"q": "a", "limit": 0}), 422)
    message_of(client.get("/v1/items/"), 404)
    message_of(client.get("/v1/items/%FF"), 404)
    message_of(client.get("/v1/items/a1/similar", params={"k": "x"}), 422)


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/static/page.js",
        "/healthz",
        "/readyz",
        "/openapi.json",
        "/v1/info",
        "/v1/items?q=a1",
        "/v1/items/a1",
        "/v1/items/a1/similar",
        "/v1/items/nothing",
        "/v1/items",
        "/nothing",
    ],
)
def test_head_is_get_without_its_body(client, path):
    shown, head = client.get(path), client.head(path)
    assert head.status_code == shown.status_code
    assert dict(head.headers) == dict(shown.headers)
    assert head.content == b""
    assert shown.content


def test_head_of_what_is_not_read(client):
    for path in ("/v1/recommend", "/v1/model"):
        answer = client.head(path)
        assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
    answer = client.put("/healthz", headers=RIGHT)
    assert (answer.status_code, answer.headers["allow"]) == (405, "GET, HEAD")
    assert 'genrec_requests_total{method="HEAD",route="/v1/info"' not in client.get("/metrics").text
    client.head("/v1/info")
    assert 'genrec_requests_total{method="HEAD",route="/v1/info"' in client.get("/metrics").text


def test_no_user_is_shown_where_that_is_turned_off(client, run):
    assert client.get("/v1/users/random").status_code == 200
    assert client.get("/v1/info").json()["random_user"] is True
    service = Service(Source(run=str(run), device="cpu"), ServiceSettings())
    app = build_app(service, token=None, metrics=Metrics(), random_user=False)
    with TestClient(app, raise_server_exceptions=False) as closed:
        message_of(closed.get("/v1/users/random"), 404)
        assert closed.get("/v1/info").json()["random_user"] is False
        assert "/v1/users/random" not in closed.get("/openapi.json").json()["paths"]


def test_watching(client):
    assert client.get("/healthz").json() == {"status": "alive"}
    assert client.get("/readyz").json() == {"status": "ready"}
    client.post("/v1/recommend", json={"histories": [["a1"], ["a2"]]})
    client.post("/v1/recommend", content="{")
    text = client.get("/metrics").text
    for line in (
        'genrec_requests_total{method="POST",route="/v1/recommend",status="200"} 1.0',
        'genrec_requests_total{method="POST",route="/v1/recommend",status="400"} 1.0',
        "genrec_search_users_sum 2.0",
        "genrec_items 32.0",
        'genrec_model_info{kind="EncoderDecoderRetrievalModel",model="generation"',
    ):
        assert line in text, text


def test_a_late_answer(run, monkeypatch):
    search = BeamRanker.rank

    def slow(*args, **options):
        time.sleep(0.3)
        return search(*args, **options)

    monkeypatch.setattr(BeamRanker, "rank", slow)
    with client_of(run, queue_users=128, timeout_s=0.05) as client:
        answer = client.post("/v1/recommend", json={"histories": [["a1"]] * 60, "k": 30})
        assert "in time" in message_of(answer, 504)


def test_a_full_queue(client, monkeypatch):
    async def full(*_):
        raise QueueFull

    monkeypatch.setattr(Service, "recommend", full)
    answer = client.post("/v1/recommend", json={"histories": [["a1"]]})
    assert "queue must have room" in message_of(answer, 503)
    assert answer.headers["retry-after"] == "1"
    monkeypatch.setattr(Service, "num_waiting", 5000)
    assert client.get("/readyz").headers["retry-after"] == "1"


def test_a_failure_says_nothing_of_its_inside(run, monkeypatch):
    with client_of(run) as client:
        monkeypatch.setattr(Service, "find", lambda *_: 1 / 0)
        line = message_of(client.get("/v1/items", params={"q": "a"}), 500)
        assert line == "service failed; its log says where"
        monkeypatch.setattr(Service, "recommend", lambda *_: 1 / 0)
        line = message_of(client.post("/v1/recommend", json={"histories": [["a1"]]}), 500)
        assert line == "service failed; its log says where"


def test_examples_of_the_schema_are_answered(client):
    schema = client.get("/openapi.json").json()
    body = schema["paths"]["/v1/recommend"]["post"]["requestBody"]["content"]["application/json"]
    name = body["schema"]["$ref"].rpartition("/")[2]
    examples = schema["components"]["schemas"][name]["examples"]
    assert len(examples) == 2
    for example in examples:
        assert client.post("/v1/recommend", json=example).status_code == 200
    changing = [
        (path, method)
        for path, methods in schema["paths"].items()
        for method, told in methods.items()
        if "security" in told
    ]
    assert changing == [("/v1/items", "post"), ("/v1/items/{key}", "delete"), ("/v1/model", "post")]


def test_what_is_not_known_is_named(client):
    told = {"users": ["user 3", "nobody"], "allow": ["a1", "zz", "zz"], "exclude": ["yy"]}
    found = client.post("/v1/recommend", json=told).json()
    assert found["unknown"] == ["zz", "yy"]
    assert [result["unknown"] for result in found["results"]] == [[], ["nobody"]]
    line = message_of(
        client.post("/v1/items", json={"items": [{"item": "n1"}]}, headers=RIGHT), 422
    )
    assert "got neither for 'n1'" in line


def test_without_a_data_set_there_is_no_random_user(run, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    meta = json.loads((tmp_path / "run" / "meta.json").read_text())
    (tmp_path / "run" / "meta.json").write_text(json.dumps({**meta, "prepared": "gone"}))
    with client_of(tmp_path / "run") as client:
        info = client.get("/v1/info").json()
        assert (info["num_users"], info["random_user"]) == (0, False)
        assert client.get("/v1/users/random").status_code == 404
