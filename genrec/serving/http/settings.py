"""What a service is told, each setting once."""

from __future__ import annotations

from dataclasses import dataclass

from genrec.errors import ConfigError

__all__ = ["ServiceSettings"]

#: What one request may ask for; the schema of ``/openapi.json`` says so too.
MAX_K = 100
MAX_HISTORIES = 128
MAX_HISTORY = 1000  # items; only the newest of them count for the model
MAX_LISTED = 10_000  # items of ``allow`` and of ``exclude``
MAX_NEW_ITEMS = 256
MAX_FOUND = 100  # items of a search in titles
MAX_KEY = 512  # characters
MAX_TEXT = 20_000
MAX_VECTOR = 8192


@dataclass(frozen=True, kw_only=True)
class ServiceSettings:
    """How requests are gathered, and what a service bears.

    Attributes:
        max_batch: Most users of one search, >= 1; 1 answers each request alone.
        batch_wait_ms: How long a search waits for more requests while others come, >= 0.
        queue_users: Users that may wait; a request beyond gets 503.
        timeout_s: From the first byte of a request to its answer; 408 or 504 after that.
        max_body_bytes: Longest body.
        drain_s: How long requests may take to end after SIGTERM.

    Raises:
        ConfigError: If a number is out of range.
    """

    max_batch: int = 64
    batch_wait_ms: float = 2.0
    queue_users: int = 1024
    timeout_s: float = 10.0
    max_body_bytes: int = 4 << 20
    drain_s: float = 10.0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            least = 0 if name == "batch_wait_ms" else 1e-3 if name.endswith("_s") else 1
            if not least <= value < float("inf"):
                raise ConfigError(
                    f"{name} must be >= {least}, got {value}; {getattr(type(self), name)} is usual"
                )
        if self.queue_users < MAX_HISTORIES:
            raise ConfigError(
                f"queue_users must hold the users of one request, {MAX_HISTORIES}, got "
                f"{self.queue_users}; 1024 is usual"
            )
