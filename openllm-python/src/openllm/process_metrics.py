"""What `/metrics` shows besides requests and engines: errors by their code, the process, its version, log lines lost.

Registered by `openllm.compose`, once per server. Label sets are closed: codes are those of our own errors, and no more than
`MAX_CODES` of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from importlib.metadata import version

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from .logs import dropped
from .observation import Observation

MAX_CODES = 100
OTHER = "other"


class RequestErrors(Collector):
    """An observer that counts what requests were refused or failed with."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._counts: Counter[tuple[str, str]] = Counter()
        registry.register(self)

    def begin(self, seen: Observation, headers: Mapping[str, str]) -> None:
        """Nothing is known yet."""

    def end(self, seen: Observation) -> None:
        """Count it, if it failed."""
        if seen.error:
            kind = (seen.protocol, seen.error)
            known = kind in self._counts or len(self._counts) < MAX_CODES
            self._counts[kind if known else (seen.protocol, OTHER)] += 1

    def collect(self) -> Iterable[Metric]:
        """One family."""
        family = CounterMetricFamily(
            "openllm_request_errors",
            "Requests that were refused or failed, by protocol and the code of their error.",
            labels=["protocol", "code"],
        )
        for kind, count in sorted(self._counts.items()):
            family.add_metric(kind, count)
        yield family

    def describe(self) -> Iterable[Metric]:
        """Its name is known without asking."""
        return []


class Build(Collector):
    """One sample that says what runs: 1, labelled with version, backend and model."""

    def __init__(self, backend: str, model: str) -> None:
        self._labels = [version("openllm"), backend, model]

    def collect(self) -> Iterable[Metric]:
        """One family."""
        text = "1, labelled with what runs."
        family = GaugeMetricFamily("openllm_build_info", text, labels=["version", "backend", "model"])
        family.add_metric(self._labels, 1)
        yield family

    def describe(self) -> Iterable[Metric]:
        """Its name is known without asking."""
        return []


def register(registry: CollectorRegistry, backend: str, model: str) -> RequestErrors:
    """Show them all.

    Args:
        backend: that runs the model.
        model: the first of its served names.

    Returns:
        the one that must be told of requests.
    """
    ProcessCollector(registry=registry)
    registry.register(Build(backend, model))
    dropped.register(registry)
    return RequestErrors(registry)
