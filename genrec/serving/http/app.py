"""The routes of a service."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection, Coroutine
from contextlib import asynccontextmanager
from typing import Annotated, Any
from urllib.parse import unquote

import orjson
from fastapi import Depends, FastAPI, Path, Query, Request, Response
from fastapi.routing import APIRoute
from fastapi.security import HTTPBearer
from pydantic import BaseModel
from starlette.concurrency import run_in_threadpool
from starlette.types import Receive, Scope, Send

from genrec.serving.http import messages as m
from genrec.serving.http.answers import Query as Asked
from genrec.serving.http.batcher import QueueFull
from genrec.serving.http.failures import FAILURE, HANDLERS, refusal_of
from genrec.serving.http.guard import Guard
from genrec.serving.http.journal import NewItem
from genrec.serving.http.metrics import Metrics
from genrec.serving.http.page import add_page
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
    random_user: bool = True,
) -> FastAPI:
    """Put a service behind HTTP.

    Args:
        service: Closed when the application ends.
        token: What a change of the catalogue must bring; None refuses all changes.
        metrics: Shown at ``/metrics``.
        hosts: Names that a request may call the service by, see :class:`Guard`; None for any.
        random_user: Whether anybody may see the history of a random user of the data set.

    Returns:
        The application.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        await run_in_threadpool(service.close)

    app = _Guarded(
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
    about = {"max_k": MAX_K, "random_user": random_user}
    _add_asking(app, service, about)
    if random_user:
        _add_random_user(app, service)
    _add_changing(app, service, about)
    _add_watching(app, service, metrics)
    add_page(app)
    for kind, answer in HANDLERS.items():
        app.add_exception_handler(kind, answer)

    async def recommend(body: bytes) -> bytes:
        return await _recommended(service, m.RecommendRequest.model_validate_json(body))

    app.guard = Guard(
        app.unguarded,
        lanes={("POST", "/v1/recommend"): recommend},
        refusal_of=refusal_of,
        failure=FAILURE,
        token=token,
        hosts=hosts,
        max_body_bytes=service.settings.max_body_bytes,
        timeout_s=service.settings.timeout_s,
        count=metrics.request,
    )
    metrics.watch(service)
    return app


class _Guarded(FastAPI):
    """Has its guard before FastAPI's own layers, each of which costs every request something."""

    guard: Guard

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer as ASGI."""
        await self.guard(scope, receive, send)

    async def unguarded(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer what the guard let pass."""
        await super().__call__(scope, receive, send)


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


def _described(info: dict[str, Any], about: dict[str, Any]) -> dict[str, Any]:
    """Say of the service what holds with what is served now."""
    return {**info, **about, "random_user": about["random_user"] and info["num_users"] > 0}


def _add_asking(app: FastAPI, service: Service, about: dict[str, Any]) -> None:
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

    @app.get("/v1/info", response_model=m.InfoAnswer)
    def show_info() -> Any:
        """Say what is served."""
        return _described(service.info(), about)


def _add_random_user(app: FastAPI, service: Service) -> None:
    """Add the route that shows what somebody had, which not every shop may show."""

    @app.get("/v1/users/random", response_model=m.UserAnswer, responses=_errors(404))
    def random_user() -> Any:
        """Show a random user of the data set with what he took next."""
        return service.random_user()


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
    found = {"unknown": answer.unknown_rules(), "results": answer.to_json()}
    return orjson.dumps({"model": answer.shelf.ranker.name, **found})


def _add_changing(app: FastAPI, service: Service, about: dict[str, Any]) -> None:
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
        return _json(_described(info, about))


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
