"""What an engine counts: tokens, time to first token, time between tokens, queue, batch, restarts; and what its backend does.

Counting happens once per token on the hot path, so it is plain integers here; prometheus-client sees them only when
someone scrapes. One `EngineMetrics` per engine, registered in the registry it is given. Label sets are closed.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping

import msgspec
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from ..backends.base import EngineStats

FINISH_REASONS = ("stop", "length", "abort", "error")

COUNTERS = {
    "prompt_tokens": ("openllm_prompt_tokens", "Prompt tokens of started requests."),
    "generation_tokens": ("openllm_generation_tokens", "Tokens generated."),
    "restarts": ("openllm_engine_restarts", "Restarts of the engine host."),
}
GAUGES = {
    "requests_running": "Sequences that have a slot.",
    "requests_waiting": "Sequences that wait for a slot.",
    "slots": "Sequences that the backend runs at once; 0 while it is not known.",
    "queue_limit": "Sequences that may wait for a slot; one more is refused.",
    "engine_ready": "1 while the engine takes requests.",
    "adapters_loaded": "LoRA adapters that the engine holds.",
    "engine_resident_memory_bytes": "Resident memory of the engine host; 0 between two of them.",
}
HISTOGRAMS = {
    "first_token": ("openllm_time_to_first_token_seconds", "From admission to the first token."),
    "between_tokens": ("openllm_inter_token_latency_seconds", "Between two tokens of a sequence."),
    "queue_time": ("openllm_queue_time_seconds", "From admission to being handed to the backend."),
    "request_time": ("openllm_e2e_request_latency_seconds", "From admission to the last token, of finished requests."),
    "batch": ("openllm_batch_size", "Sequences in a step."),
    "step_time": ("openllm_step_seconds", "Seconds a step computed."),
}
BACKEND_GAUGES = {"kv_cache_usage": ("openllm_kv_cache_usage_ratio", "Share of the cache of keys and values in use.")}
BACKEND_COUNTERS = {
    "prefix_cache_queries": ("openllm_prefix_cache_queries", "Prompt tokens looked up in the prefix cache."),
    "prefix_cache_hits": ("openllm_prefix_cache_hits", "Prompt tokens found in the prefix cache."),
    "preemptions": ("openllm_preemptions", "Sequences that lost their cache to others and were computed again."),
    "draft_tokens": ("openllm_draft_tokens", "Tokens proposed by speculative decoding."),
    "accepted_tokens": ("openllm_accepted_tokens", "Tokens of speculative decoding that were kept."),
}


class Histogram:
    """Bucket counts, total and count of observed values."""

    __slots__ = ("bounds", "count", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        """Args:
        bounds: upper bounds, inclusive, ascending; one bucket without bound is added.
        """
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.count = 0
        self.total = 0.0

    def observe(self, value: float, times: int = 1) -> None:
        """Count a value `times` times."""
        self.counts[bisect_left(self.bounds, value)] += times
        self.count += times
        self.total += value * times

    def buckets(self) -> list[tuple[str, float]]:
        """As prometheus wants it: (upper bound, how many were at most that)."""
        running, told = 0, list[tuple[str, float]]()
        for bound, count in zip((*self.bounds, float("inf")), self.counts, strict=True):
            running += count
            told.append(("+Inf" if bound == float("inf") else repr(float(bound)), running))
        return told


class EngineMetrics(Collector):
    """Counters of one engine; gauges are read from the engine at scrape time through `gauges`.

    Attributes:
        stats: what the backend said last of itself.
    """

    def __init__(
        self, gauges: Callable[[], Mapping[str, float]], registry: CollectorRegistry | None, engine: str = "0"
    ) -> None:
        """Args:
        gauges: name -> value now, for each of GAUGES.
        registry: where to register; None = nowhere.
        engine: number of the engine, the label of every sample.
        """
        self.prompt_tokens = 0
        self.generation_tokens = 0
        self.restarts = 0
        self.refused_full = 0
        self.refused_waited = 0
        self.finished: dict[str, int] = {reason: 0 for reason in FINISH_REASONS}
        self.first_token = Histogram((0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60))
        self.between_tokens = Histogram((0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5))
        self.queue_time = Histogram((0.001, 0.01, 0.1, 0.5, 1, 2.5, 5, 10, 30))
        self.request_time = Histogram((0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600))
        self.batch = Histogram((1, 2, 4, 8, 16, 32, 64, 128, 256))
        self.step_time = Histogram((0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5))
        self.stats = EngineStats()
        self._engine = engine
        self._gauges = gauges
        self._registry = registry
        if registry is not None:
            registry.register(self)

    def close(self) -> None:
        """Leave the registry."""
        registry, self._registry = self._registry, None
        if registry is not None:
            registry.unregister(self)

    def collect(self) -> Iterable[Metric]:
        """All families, for a scrape."""
        for attribute, (name, text) in COUNTERS.items():
            yield self._counter(name, text, getattr(self, attribute))
        refused = CounterMetricFamily(
            "openllm_requests_refused", "Requests refused for load.", labels=["engine", "why"]
        )
        refused.add_metric([self._engine, "queue_full"], self.refused_full)
        refused.add_metric([self._engine, "queue_timeout"], self.refused_waited)
        yield refused
        finished = CounterMetricFamily(
            "openllm_sequences_finished", "Sequences by how they ended.", labels=["engine", "reason"]
        )
        for reason, count in self.finished.items():
            finished.add_metric([self._engine, reason], count)
        yield finished
        for name, value in self._gauges().items():
            yield self._gauge(f"openllm_{name}", GAUGES[name], value)
        for attribute, (name, text) in HISTOGRAMS.items():
            histogram: Histogram = getattr(self, attribute)
            family = HistogramMetricFamily(name, text, labels=["engine"])
            family.add_metric([self._engine], histogram.buckets(), histogram.total)
            yield family
        yield from self._of_backend()

    def _of_backend(self) -> Iterable[Metric]:
        """What the backend counts, where it has such a thing."""
        for attribute, value in msgspec.structs.asdict(self.stats).items():
            if value is None:
                continue
            if attribute in BACKEND_GAUGES:
                yield self._gauge(*BACKEND_GAUGES[attribute], value)
            else:
                yield self._counter(*BACKEND_COUNTERS[attribute], value)

    def _counter(self, name: str, text: str, value: float) -> Metric:
        family = CounterMetricFamily(name, text, labels=["engine"])
        family.add_metric([self._engine], value)
        return family

    def _gauge(self, name: str, text: str, value: float) -> Metric:
        family = GaugeMetricFamily(name, text, labels=["engine"])
        family.add_metric([self._engine], value)
        return family

    def describe(self) -> Iterable[Metric]:
        """Names are known without asking the engine."""
        return []
