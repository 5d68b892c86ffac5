"""Requests that are refused: a status of HTTP and one line."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["Refusal"]


class Refusal(Exception):
    """A request that gets no answer but an error.

    Args:
        status: Of HTTP.
        message: One line: what, got, allowed, fix.
        headers: Of the answer.
    """

    def __init__(
        self, status: int, message: str, *, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.headers = status, message, dict(headers or {})
