"""The routes of a service."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection, Coroutine
from contextlib import asynccontextmanager
from typing import Annotated, Any
from urllib.parse import unquote

import orjson
from fastapi import Depends, FastAPI, Path, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from fastapi.security import HTTPBearer
from pydantic import BaseModel, ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from genrec.errors import GenRecError
from genrec.serving.http import messages as m
from genrec.serving.http.answers import Query as Asked
from genrec.serving.http.batcher import QueueFull
from genrec.serving.http.guard import Guard, error_body
from genrec.serving.http.journal import NewItem
from genrec.serving.http.metrics import Metrics
from genrec.serving.http.page import add_page
from genrec.serving.http.refusals import Refusal
from genrec.serving.http.service import Service
from genrec.serving.http.settings import MAX_FOUND, MAX_K, MAX_TEXT
from genrec.version import __version__

__all__ = ["build_app"]

_ABOUT = """Recommendations of a trained genrec model.

Item keys are the catalogue's own ids, text or whole numbers; in a path they are percent-encoded,
the slash too. Every error is `{"error": {"message": "..."}}`. What changes the catalogue needs the
service's token, `Authorization: Bearer TOKEN`, and is on the disk before it is answered.
"""
_CHANGES = [Depends(HTTPBearer(auto_error=False, description="The service's token."))]
_Key = Annotated[str, Path(description="Item key, percent-encoded.", examples=["G0316"])]
_WHAT = {
    400: "The body is no JSON.",
    401: "No token, or another one.",
    403: "The service does not allow changes.",
    404: "There is no such item or user.",
    408: "The body did not come in time.",
    409: "It cannot be done as things are.",
    413: "The body is too long.",
    421: "The Host header names another service.",
    422: "The request does not say what it should.",
    503: "Too much waits already, or the disk is full; try again.",
    504: "It took too long.",
}


def build_app(
    service: Service,
    *,
    token: str | None,
    metrics: Metrics,
    hosts: Collection[str] | None = None,
) -> FastAPI:
    """Put a service behind HTTP.

    Args:
        service: Closed when the application ends.
        token: What a change of the catalogue must bring; None refuses all changes.
        metrics: Shown at ``/metrics``.
        hosts: Names that a request may call the service by, see :class:`Guard`; None for any.

    Returns:
        The application.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        await run_in_threadpool(service.close)

    app = FastAPI(
        title="genrec",
        version=__version__,
        description=_ABOUT,
        docs_url=None,  # both load scripts of another host
        redoc_url=None,
        redirect_slashes=False,
        lifespan=lifespan,
        responses={} if hosts is None else _errors(421),
    )
    app.router.route_class = BodyRoute
    _add_asking(app, service)
    _add_changing(app, service)
    _add_watching(app, service, metrics)
    add_page(app)
    for kind, answer in _ERRORS.items():
        app.add_exception_handler(kind, answer)

    async def recommend(body: bytes) -> bytes:
        return await _recommended(service, m.RecommendRequest.model_validate_json(body))

    app.add_middleware(
        Guard,
        lanes={("POST", "/v1/recommend"): recommend},
        refusal_of=refusal_of,
        token=token,
        hosts=hosts,
        max_body_bytes=service.settings.max_body_bytes,
        timeout_s=service.settings.timeout_s,
        count=metrics.request,
    )
    metrics.watch(service)
    return app


class BodyRoute(APIRoute):
    """Reads a JSON body into its model in one step, whatever content type it says.

    FastAPI makes Python objects first and walks its dependencies; for a body that is the only
    thing told this takes half of the time that a request costs.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return what answers a request."""
        if self.body_field is None:
            return super().get_route_handler()
        kind: type[BaseModel] = self.body_field.field_info.annotation  # type: ignore[assignment]
        answer = self.dependant.call
        assert answer is not None

        async def handle(request: Request) -> Response:
            found: Response = await answer(kind.model_validate_json(await request.body()))
            return found

        return handle


def _add_asking(app: FastAPI, service: Service) -> None:
    """Add the routes that change nothing."""

    @app.post(
        "/v1/recommend",
        response_model=m.RecommendAnswer,
        responses=_errors(400, 408, 413, 422, 503, 504),
    )
    async def recommend(told: m.RecommendRequest) -> Response:
        """Recommend items to one user or many."""
        return Response(await _recommended(service, told), media_type="application/json")

    @app.get("/v1/items", response_model=m.FoundAnswer, responses=_errors(422))
    def find_items(
        q: Annotated[
            str,
            Query(
                max_length=MAX_TEXT,
                description="Words of the title, or a key.",
                examples=["red cup"],
            ),
        ],
        limit: Annotated[int, Query(ge=1, le=MAX_FOUND)] = 20,
    ) -> Any:
        """Find items by words of their titles."""
        return {"items": service.find(q, limit)}

    @app.get("/v1/items/{key}", response_model=m.ItemAnswer, responses=_errors(404, 422))
    def show_item(key: _Key) -> Any:
        """Show an item."""
        return service.item(unquote(key))

    @app.get(
        "/v1/items/{key}/similar", response_model=m.SimilarAnswer, responses=_errors(404, 409, 422)
    )
    def similar_items(key: _Key, k: Annotated[int, Query(ge=1, le=MAX_K)] = 10) -> Any:
        """Find the items nearest to one, which may be a removed one."""
        return {"items": service.similar(unquote(key), k)}

    @app.get("/v1/users/random", response_model=m.UserAnswer, responses=_errors(404))
    def random_user() -> Any:
        """Show a random user of the data set with what he took next."""
        return service.random_user()

    @app.get("/v1/info", response_model=m.InfoAnswer)
    def show_info() -> Any:
        """Say what is served."""
        return {**service.info(), "max_k": MAX_K}


async def _recommended(service: Service, told: m.RecommendRequest) -> bytes:
    answer = await service.recommend(
        Asked(
            histories=told.histories,
            users=told.users,
            k=told.k,
            exclude_seen=told.exclude_seen,
            exclude=told.exclude,
            allow=told.allow,
            on_unknown=told.on_unknown,
            explain=told.explain,
        )
    )
    return orjson.dumps({"model": answer.shelf.ranker.name, "results": answer.to_json()})


def _add_changing(app: FastAPI, service: Service) -> None:
    """Add the routes that need the token, which the guard has looked at."""
    usual = (400, 401, 403, 408, 409, 413, 422, 503)

    @app.post(
        "/v1/items", response_model=m.AddAnswer, responses=_errors(*usual), dependencies=_CHANGES
    )
    async def add_items(told: m.AddRequest) -> Response:
        """Add items, which are recommended from now on."""
        items = [NewItem(str(item.item), item.title, item.text, item.vector) for item in told.items]
        return _json(await run_in_threadpool(service.add, items))

    @app.delete(
        "/v1/items/{key}",
        response_model=m.RemoveAnswer,
        dependencies=_CHANGES,
        responses=_errors(401, 403, 404, 408, 413, 422, 503),
    )
    def remove_item(key: _Key) -> Any:
        """Never recommend an item again."""
        return service.remove(unquote(key))

    @app.post(
        "/v1/model", response_model=m.InfoAnswer, responses=_errors(*usual), dependencies=_CHANGES
    )
    async def swap_model(told: m.ModelRequest) -> Response:
        """Serve a newer run; no request is lost."""
        info = await run_in_threadpool(service.swap, told.path)
        return _json({**info, "max_k": MAX_K})


def _add_watching(app: FastAPI, service: Service, metrics: Metrics) -> None:
    """Add the routes for those who run it."""

    @app.get("/healthz", response_model=m.StateAnswer)
    async def healthz() -> Any:
        """Say that the process lives."""
        return {"status": "alive"}

    @app.get("/readyz", response_model=m.StateAnswer, responses=_errors(503))
    async def readyz() -> Any:
        """Say whether requests may be sent: the model is open, and the queue has room."""
        if service.num_waiting >= service.settings.queue_users:
            raise QueueFull
        return {"status": "ready"}

    @app.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
    def show_metrics() -> Response:
        """Show numbers for Prometheus."""
        return Response(metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


def _errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {status: {"model": m.ErrorAnswer, "description": _WHAT[status]} for status in statuses}


def _json(content: Any) -> Response:
    return Response(orjson.dumps(content), media_type="application/json")


def _error(status: int, message: str, headers: dict[str, str] | None = None) -> Response:
    line = " ".join(message.split())
    return Response(error_body(line), status, headers, media_type="application/json")


def _refused(errors: Any) -> Refusal:
    """Put what a model found wrong into one line."""
    first = errors[0]
    if first["type"] == "json_invalid":
        why = first.get("ctx", {}).get("error", first["msg"])
        return Refusal(400, f"body must be JSON, got something else: {why}; see /openapi.json")
    place = ".".join(str(part) for part in first["loc"] if part not in ("body", "query"))
    if first["type"] == "value_error":
        return Refusal(422, str(first["msg"]).removeprefix("Value error, "))
    more = f", and {len(errors) - 1} more" if len(errors) > 1 else ""
    got = "" if first["type"] == "missing" else f", got {first['input']!r:.80}"
    said = first["msg"][:1].lower() + first["msg"][1:]
    return Refusal(422, f"{place or 'body'}: {said}{got}{more}; see /openapi.json")


def refusal_of(error: Exception) -> Refusal | None:
    """Say what a client is told of an error; None where the service failed."""
    if isinstance(error, Refusal):
        return error
    if isinstance(error, ValidationError):
        return _refused(error.errors(include_url=False))
    if isinstance(error, RequestValidationError):
        return _refused(error.errors())
    if isinstance(error, GenRecError):
        return Refusal(422, str(error))
    if isinstance(error, QueueFull):
        why = "queue must have room, got too many waiting; try again"
        return Refusal(503, why, headers={"Retry-After": "1"})
    if isinstance(error, TimeoutError):
        why = "answer must come in time, got none yet; ask for fewer users, or try again"
        return Refusal(504, why)
    return None


async def _on_error(request: Request, error: Any) -> Response:
    refusal = refusal_of(error)
    assert refusal is not None  # handlers are set for these kinds alone
    return _error(refusal.status, refusal.message, refusal.headers)


async def _on_status(request: Request, error: Any) -> Response:
    what = f"{request.method} {request.url.path}"
    known = "see /openapi.json"
    message = f"request must be one that the service knows, got {what} ({error.detail}); {known}"
    return _error(error.status_code, message, error.headers)


async def _on_failure(request: Request, error: Any) -> Response:
    return _error(500, "service failed; its log says where")


_ERRORS: dict[Any, Any] = {
    **dict.fromkeys((Refusal, GenRecError, ValidationError, QueueFull, TimeoutError), _on_error),
    RequestValidationError: _on_error,
    HTTPException: _on_status,
    Exception: _on_failure,
}
