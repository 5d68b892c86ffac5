"""What a client is told of a request that fails: a status of HTTP and one line."""

from __future__ import annotations

from typing import Any

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from starlette.exceptions import HTTPException

from genrec.errors import GenRecError
from genrec.serving.http.batcher import QueueFull
from genrec.serving.http.guard import error_body
from genrec.serving.http.refusals import Refusal

__all__ = ["FAILURE", "HANDLERS", "refusal_of"]

FAILURE = "service failed; its log says where"


def _error(status: int, message: str, headers: dict[str, str] | None = None) -> Response:
    return Response(error_body(message), status, headers, media_type="application/json")


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
    headers = dict(error.headers or {})
    if headers.get("Allow") == "GET":
        headers["Allow"] = "GET, HEAD"  # which the guard answers
    return _error(error.status_code, message, headers)


async def _on_failure(request: Request, error: Any) -> Response:
    return _error(500, FAILURE)


#: By kind of error what answers it.
HANDLERS: dict[Any, Any] = {
    **dict.fromkeys((Refusal, GenRecError, ValidationError, QueueFull, TimeoutError), _on_error),
    RequestValidationError: _on_error,
    HTTPException: _on_status,
    Exception: _on_failure,
}
