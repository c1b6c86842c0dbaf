"""Per-key counts in /metrics: `openllm_key_*`, labelled by the names of keys, which are the operator's and few.

Registered by `Access`. A scrape with a key shows that key's own; the admin key, and whoever scrapes past the door, see all.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from .accounts import Account, caller


class Seen(Protocol):
    """`Access`, as far as it is asked here."""

    closed: bool

    def seen_by(self, account: Account) -> Sequence[Account]:
        """Whose usage somebody may see."""
        ...


class KeyMetrics(Collector):
    """Families for prometheus when someone scrapes; none on a server without keys."""

    def __init__(self, access: Seen, registry: CollectorRegistry | None) -> None:
        self._access = access
        if registry is not None:
            registry.register(self)

    def collect(self) -> Iterable[Metric]:
        """All families, for a scrape."""
        if not self._access.closed:
            return
        requests = CounterMetricFamily("openllm_key_requests", "Requests to the model by key.", labels=["key"])
        refused = CounterMetricFamily(
            "openllm_key_refused", "Requests refused by a limit of their key.", labels=["key", "limit"]
        )
        tokens = CounterMetricFamily("openllm_key_tokens", "Tokens by key.", labels=["key", "kind"])
        running = GaugeMetricFamily("openllm_key_requests_running", "Requests under way by key.", labels=["key"])
        for account in self._access.seen_by(caller()):
            used = account.used
            requests.add_metric([account.name], used.requests)
            for limit, count in used.refused.items():
                refused.add_metric([account.name, limit], count)
            tokens.add_metric([account.name, "prompt"], used.prompt_tokens)
            tokens.add_metric([account.name, "completion"], used.completion_tokens)
            running.add_metric([account.name], account.running)
        yield from (requests, refused, tokens, running)

    def describe(self) -> Iterable[Metric]:
        """Names are known without asking."""
        return []
