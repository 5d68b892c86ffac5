"""Numbers for Prometheus."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.core import GaugeMetricFamily, InfoMetricFamily

from genrec.serving.http.service import Service

__all__ = ["Metrics"]

_SECONDS = (0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
_COUNTS = (1, 2, 4, 8, 16, 32, 64, 128)


class Metrics:
    """Counts requests and searches; each service has its own."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self._requests = Counter(
            "genrec_requests", "Requests.", ("method", "route", "status"), registry=registry
        )
        self._seconds = Histogram(
            "genrec_request_seconds",
            "From a request to its answer.",
            ("route",),
            buckets=_SECONDS,
            registry=registry,
        )
        self._gathered = Histogram(
            "genrec_search_requests", "Requests of one search.", buckets=_COUNTS, registry=registry
        )
        self._users = Histogram(
            "genrec_search_users", "Users of one search.", buckets=_COUNTS, registry=registry
        )
        self._searches = Histogram(
            "genrec_search_seconds", "Of one search.", buckets=_SECONDS, registry=registry
        )

        self._children: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}

    def watch(self, service: Service) -> None:
        """Show a service's state too."""
        self._registry.register(_State(service))

    def search(self, requests: int, users: int, seconds: float) -> None:
        """Count a search."""
        self._gathered.observe(requests)
        self._users.observe(users)
        self._searches.observe(seconds)

    def request(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count a request."""
        children = self._children.get((method, route, status))
        if children is None:  # to find them by their labels each time costs more than to count
            counter = self._requests.labels(method, route, str(status))
            children = self._children[method, route, status] = counter, self._seconds.labels(route)
        children[0].inc()
        children[1].observe(seconds)

    def text(self) -> bytes:
        """Write everything in Prometheus' text format."""
        return generate_latest(self._registry)


class _State:
    """What a service is like at the moment when it is asked."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def collect(self) -> Iterator[GaugeMetricFamily | InfoMetricFamily]:
        info = self._service.info()
        for name, about, value in (
            ("genrec_waiting_users", "Users that wait for a search.", self._service.num_waiting),
            ("genrec_items", "Items that may be recommended.", info["num_items"]),
            ("genrec_changes", "Changes since the service began.", info["changes"]),
        ):
            yield GaugeMetricFamily(name, about, value=value)
        model = {name: str(info[name]) for name in ("model", "kind", "version")}
        yield InfoMetricFamily("genrec_model", "What is served.", value=model)
