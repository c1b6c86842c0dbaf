"""What an engine counts: tokens, time to first token, time between tokens, queue, batch, restarts.

Counting happens once per token on the hot path, so it is plain integers here; prometheus-client sees them only when
someone scrapes. One `EngineMetrics` per engine, registered in the registry it is given. Label sets are closed.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

FINISH_REASONS = ("stop", "length", "abort", "error")


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

    def family(self, name: str, text: str) -> HistogramMetricFamily:
        """As prometheus wants it: cumulative counts per upper bound."""
        running, buckets = 0, list[tuple[str, float]]()
        for bound, count in zip((*self.bounds, float("inf")), self.counts, strict=True):
            running += count
            buckets.append(("+Inf" if bound == float("inf") else repr(float(bound)), running))
        return HistogramMetricFamily(name, text, buckets=buckets, sum_value=self.total)


class EngineMetrics(Collector):
    """Counters of one engine; gauges are read from the engine at scrape time through `gauges`."""

    def __init__(self, gauges: Callable[[], dict[str, float]], registry: CollectorRegistry | None) -> None:
        """Args:
        gauges: name without prefix -> value now.
        registry: where to register; None = nowhere.
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
        self.batch = Histogram((1, 2, 4, 8, 16, 32, 64, 128, 256))
        self.step_time = Histogram((0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5))
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
        yield _counter("openllm_prompt_tokens", "Prompt tokens of started requests.", self.prompt_tokens)
        yield _counter("openllm_generation_tokens", "Tokens generated.", self.generation_tokens)
        yield _counter("openllm_engine_restarts", "Restarts of the engine host.", self.restarts)
        refused = CounterMetricFamily("openllm_requests_refused", "Requests refused for load.", labels=["why"])
        refused.add_metric(["queue_full"], self.refused_full)
        refused.add_metric(["queue_timeout"], self.refused_waited)
        yield refused
        finished = CounterMetricFamily("openllm_sequences_finished", "Sequences by how they ended.", labels=["reason"])
        for reason, count in self.finished.items():
            finished.add_metric([reason], count)
        yield finished
        for name, value in self._gauges().items():
            yield GaugeMetricFamily(f"openllm_{name}", name.replace("_", " ").capitalize() + ".", value=value)
        yield self.first_token.family("openllm_time_to_first_token_seconds", "From admission to the first token.")
        yield self.between_tokens.family("openllm_inter_token_latency_seconds", "Between two tokens of a sequence.")
        yield self.queue_time.family("openllm_queue_time_seconds", "From admission to being handed to the backend.")
        yield self.batch.family("openllm_batch_size", "Sequences in a step.")
        yield self.step_time.family("openllm_step_seconds", "Seconds a step computed.")

    def describe(self) -> Iterable[Metric]:
        """Names are known without asking the engine."""
        return []


def _counter(name: str, text: str, value: float) -> CounterMetricFamily:
    return CounterMetricFamily(name, text, value=value)
