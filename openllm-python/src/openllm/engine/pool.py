"""Several engines of one model behind one face: the least busy one gets the next request, the others go on when one dies.

`compose` makes one for `--engines`; the service cannot tell it from an `Engine`. Each engine keeps its own line, host and
restart budget; requests that nobody has begun move to where there is room. It must not know of devices or of HTTP.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence

from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from openllm_core.errors import EngineLoading, EngineUnavailable, OpenLLMError

from ..backends.base import BackendInfo
from .adapters import PoolAdapters
from .embedding import Embedded, Input
from .engine import Engine, State
from .request import EngineRequest, Priority
from .stream import RequestStream


class EnginePool:
    """Engines of one model; has the face of `Engine`.

    Attributes:
        engines: in the order of their workers.
        adapters: what every host is given besides its model.
    """

    def __init__(self, engines: Sequence[Engine], registry: CollectorRegistry | None = None) -> None:
        """Args:
        engines: at least one, not started, none registered in a registry of its own.
        registry: where the metrics of all are registered, by engine; None = nowhere.
        """
        self.engines = tuple(engines)
        self.metrics = PoolMetrics(self.engines, registry)
        self.adapters = PoolAdapters([engine.adapters for engine in self.engines])
        self._closing: State | None = None
        for engine in self.engines:
            engine.neighbours = self

    # -- life ---------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Begin loading all of them in the background."""
        for engine in self.engines:
            await engine.start()

    @property
    def state(self) -> State:
        """ "ready" while one is; else what gives most hope."""
        if self._closing is not None:
            return self._closing
        states = {engine.state for engine in self.engines}
        order: tuple[State, ...] = ("ready", "restarting", "loading", "failed", "draining", "closed")
        return next(state for state in order if state in states)

    @property
    def ready_of(self) -> tuple[int, int]:
        """(engines that are ready, engines there are)."""
        return sum(engine.state == "ready" for engine in self.engines), len(self.engines)

    @property
    def host_pid(self) -> int | None:
        """Process id of the first engine's host; None when embedded or between two lives."""
        return self.engines[0].host_pid

    @property
    def info(self) -> BackendInfo | None:
        """Facts of the loaded model: of an engine that is ready, else of one that was."""
        known = sorted((e for e in self.engines if e.info is not None), key=lambda e: e.state != "ready")
        return known[0].info if known else None

    @property
    def failure(self) -> OpenLLMError | None:
        """Why there is no engine left: the first one's reason; None while one may still serve."""
        failures = [engine.failure for engine in self.engines]
        return failures[0] if all(failure is not None for failure in failures) else None

    @property
    def progress(self) -> tuple[str, float | None]:
        """Of the first engine that is not ready, with how many are."""
        ready, count = self.ready_of
        waited_for = next((e for e in self.engines if e.state in ("loading", "restarting")), self.engines[0])
        text, share = waited_for.progress
        return f"{text} ({ready} of {count} engines ready)", share

    async def wait_ready(self, timeout_s: float | None = None) -> BackendInfo:
        """Wait until one has generated a real token.

        Raises:
            EngineLoading: none is ready within `timeout_s`.
            OpenLLMError: the reason of the first, when all failed.
            ShuttingDown: they were closed.
        """
        waits = [asyncio.ensure_future(engine.wait_ready(timeout_s)) for engine in self.engines]
        try:
            for next_one in asyncio.as_completed(waits):
                try:
                    return await next_one
                except OpenLLMError:
                    continue
        finally:
            for wait in waits:
                wait.cancel()
        return await waits[0]

    async def wait_failed(self) -> OpenLLMError:
        """Return the first one's final error once all have failed for good; never returns otherwise."""
        return (await asyncio.gather(*(engine.wait_failed() for engine in self.engines)))[0]

    async def drain(self, grace_s: float) -> None:
        """Take nothing new; wait up to `grace_s` for what runs; then end it."""
        self._closing = "draining"
        await asyncio.gather(*(engine.drain(grace_s) for engine in self.engines))

    async def aclose(self) -> None:
        """End everything. Idempotent."""
        self._closing = "closed"
        await asyncio.gather(*(engine.aclose() for engine in self.engines))
        self.metrics.close()

    # -- load ---------------------------------------------------------------------------------------------------------

    @property
    def hindrance(self) -> OpenLLMError | None:
        """Why nothing should be sent to any of them now: the first one's reason; None while one has none."""
        found = [engine.hindrance for engine in self.engines if engine.state == "ready"]
        return found[0] if found and all(found) else None

    @property
    def max_queue(self) -> int:
        """Sequences that may wait, all engines together."""
        return sum(engine.max_queue for engine in self.engines)

    @property
    def num_running(self) -> int:
        """Sequences that have a slot."""
        return sum(engine.num_running for engine in self.engines)

    @property
    def queue_depth(self) -> int:
        """Sequences that wait for a slot."""
        return sum(engine.queue_depth for engine in self.engines)

    def retry_after_s(self) -> float:
        """Seconds after which trying again may help: where it is soonest."""
        return min(engine.retry_after_s() for engine in self._likeliest())

    # -- requests -----------------------------------------------------------------------------------------------------

    async def add(self, request: EngineRequest) -> RequestStream:
        """Admit a request to the least busy engine; see `Engine.add`."""
        return (await self._add_to_one([request]))[0]

    async def add_all(self, requests: Sequence[EngineRequest]) -> list[RequestStream]:
        """Admit requests that belong together, spread over the engines; see `Engine.add_all`.

        Where one engine refuses its part, the others' parts are taken back.
        """
        tasks = [asyncio.create_task(self._add_to_one(part)) for part in self._parts(requests)]
        try:
            parts = await asyncio.gather(*tasks)
        except BaseException:
            for task in tasks:
                task.cancel()
            for result in await asyncio.gather(*tasks, return_exceptions=True):
                for stream in result if not isinstance(result, BaseException) else ():
                    stream.close()
            raise
        found = {stream.request_id: stream for part in parts for stream in part}
        return [found[request.request_id] for request in requests]

    def _parts(self, requests: Sequence[EngineRequest]) -> list[list[EngineRequest]]:
        """Requests in as many parts as engines can take some, of even size."""
        count = min(len(requests), max(1, len(self._by_load())))
        return [list(requests[start::count]) for start in range(count)]

    async def _add_to_one(self, requests: Sequence[EngineRequest]) -> list[RequestStream]:
        """Admit requests to the least busy engine; should it go down before they have a slot, the next one gets them."""
        tried: list[Engine] = []
        while True:
            engine = next(e for e in (*self._by_load(tried), *self._likeliest()))
            tried.append(engine)
            try:
                return await engine.add_all(requests)
            except (EngineUnavailable, EngineLoading):
                if not self._by_load(tried):
                    raise

    def check_room(self, tenant: str, priority: Priority) -> None:
        """Refuse at once what none of the engines has room for; see `Engine.check_room`."""
        if found := self._by_load():
            found[0].check_room(tenant, priority)

    async def decode(self, ids: list[int]) -> str:
        """Text of token ids; see `Engine.decode`."""
        return await self._likeliest()[0].decode(ids)

    async def embed(self, inputs: Sequence[Input]) -> Embedded:
        """Vectors of texts by the engine that embeds least; see `Engine.embed`."""
        return await min(self._by_load() or self._likeliest(), key=lambda e: e.embeddings.waiting).embed(inputs)

    def _by_load(self, without: Sequence[Engine] = ()) -> list[Engine]:
        """Engines that take requests, the least busy first."""
        ready = [engine for engine in self.engines if engine.state == "ready" and engine not in without]
        return sorted(ready, key=lambda engine: engine.dispatcher.load)

    def _likeliest(self) -> list[Engine]:
        """Engines in the pool's own state: what they say of themselves holds for all."""
        return [engine for engine in self.engines if engine.state == self.state] or list(self.engines)

    # -- what an engine tells -----------------------------------------------------------------------------------------

    def take_over(self, engine: Engine) -> None:
        """Move what waits at an engine that went down to those that can go on, as far as they have room."""
        for stream in engine.dispatcher.waiting():
            count = len(stream.sequences)
            other = next((e for e in self._by_load([engine]) if e.dispatcher.fits(count)), None)
            if other is None:
                return
            engine.give(stream, other)
            other.dispatcher.pump()

    def fill(self, engine: Engine) -> None:
        """Bring an engine with idle slots what waits at the others, from the longest line first."""
        while engine.dispatcher.has_idle_slot:
            donors = [e for e in self.engines if e is not engine and e.state == "ready"]
            donor = max(donors, key=lambda e: e.dispatcher.in_line, default=None)
            waiting = donor.dispatcher.waiting() if donor is not None and donor.dispatcher.in_line else []
            if donor is None or not waiting:
                return
            donor.give(waiting[0], engine)
            engine.dispatcher.pump()


class PoolMetrics(Collector):
    """The metrics of all engines of a pool, each sample labelled with its engine's number."""

    def __init__(self, engines: Sequence[Engine], registry: CollectorRegistry | None) -> None:
        self._engines = engines
        self._registry = registry
        if registry is not None:
            registry.register(self)

    def collect(self) -> Iterable[Metric]:
        """Families as one engine has them, with the samples of all."""
        families: dict[str, Metric] = {}
        for number, engine in enumerate(self._engines):
            for family in engine.metrics.collect():
                merged = families.setdefault(family.name, Metric(family.name, family.documentation, family.type))
                for sample in family.samples:
                    merged.samples.append(sample._replace(labels={**sample.labels, "engine": str(number)}))
        return families.values()

    def describe(self) -> Iterable[Metric]:
        """Names are known without asking the engines."""
        return []

    def close(self) -> None:
        """Leave the registry."""
        registry, self._registry = self._registry, None
        if registry is not None:
            registry.unregister(self)


AnyEngine = Engine | EnginePool
"""What the service works with: one engine or several, with the same face."""
