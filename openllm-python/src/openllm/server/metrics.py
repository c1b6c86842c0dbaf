"""What the HTTP side counts: requests by route and status, and how long they took. The engine counts the rest.

One per app, registered where the engine's metrics are. Label sets are closed: an unknown path is `other`.
"""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Collection, Iterable

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

OTHER = "other"
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT"})
BOUNDS = (0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)


class RequestMetrics(Collector):
    """Plain numbers on the way of a request; families for prometheus when someone scrapes."""

    def __init__(self, registry: CollectorRegistry, paths: Collection[str]) -> None:
        self._paths = frozenset(paths)
        self._statuses: Tally[tuple[str, int]] = Tally()
        self._buckets: dict[str, list[int]] = {}
        self._seconds: dict[str, float] = {}
        registry.register(self)

    def named(self, method: str, path: str) -> tuple[str, str]:
        """Method and route in words that are ours: what a client made up is "other"."""
        return method if method in METHODS else OTHER, path if path in self._paths else OTHER

    def count(self, path: str, status: int, seconds: float) -> None:
        """One request has ended; 499 is a client that left, 0 one whose answer never began."""
        route = path if path in self._paths else OTHER
        self._statuses[route, status] += 1
        buckets = self._buckets.setdefault(route, [0] * (len(BOUNDS) + 1))
        buckets[next((i for i, bound in enumerate(BOUNDS) if seconds <= bound), len(BOUNDS))] += 1
        self._seconds[route] = self._seconds.get(route, 0.0) + seconds

    def collect(self) -> Iterable[Metric]:
        """All families, for a scrape."""
        requests = CounterMetricFamily(
            "openllm_http_requests",
            "HTTP requests by route and status; 499: the client left.",
            labels=["route", "status"],
        )
        for (route, status), count in sorted(self._statuses.items()):
            requests.add_metric([route, str(status)], count)
        yield requests
        times = HistogramMetricFamily(
            "openllm_http_request_seconds", "From a request's headers to the end of its answer.", labels=["route"]
        )
        for route, buckets in sorted(self._buckets.items()):
            running = 0
            told: list[tuple[str, float]] = []
            for bound, count in zip((*map(str, BOUNDS), "+Inf"), buckets, strict=True):
                running += count
                told.append((bound, running))
            times.add_metric([route], told, self._seconds[route])
        yield times

    def describe(self) -> Iterable[Metric]:
        """Names are known without asking."""
        return []
