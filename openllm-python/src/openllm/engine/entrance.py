"""How requests come into an engine: checked, given places, tokenised, put into the line; and who is turned away.

`Engine` owns one and hands `add` on to it. It must not know of processes or of what becomes of a request once it has a slot.
"""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Generator, Sequence
from typing import TYPE_CHECKING

from openllm_core.errors import InvalidRequest, Overloaded, RateLimitExceeded

from ..backends.base import BackendInfo, TokenSampling
from . import admission
from .guides import Guides
from .line import wait_in_line
from .readiness import Readiness
from .request import EngineRequest, Priority
from .stream import RequestStream
from .text import Texts

if TYPE_CHECKING:
    from .engine import Engine

MAX_RETRY_AFTER_S = 60.0


def jittered(expected_s: float) -> float:
    """Seconds after which a refused client should come back: 1 to 60, and not as one with the others.

    Args:
        expected_s: until there is room, as far as is known.
    """
    return min(MAX_RETRY_AFTER_S, max(1.0, expected_s * random.uniform(0.75, 1.5)))


class Entrance:
    """The way into one engine."""

    def __init__(
        self, engine: Engine, texts: Texts, guides: Guides, readiness: Readiness, queue_timeout_s: float
    ) -> None:
        self._engine = engine
        self._work = engine.dispatcher
        self._texts = texts
        self._guides = guides
        self._readiness = readiness
        self._queue_timeout_s = queue_timeout_s

    async def add_all(self, requests: Sequence[EngineRequest]) -> list[RequestStream]:
        """Admit requests of one caller, all n choices of all of them or none, and wait until one leaves the line.

        Cancelling the call takes them out of the line.

        Raises:
            EngineLoading, EngineUnavailable, ShuttingDown: not ready to take them.
            Overloaded: the line is full, or they stood in it longer than `queue_timeout_s`.
            RateLimitExceeded: their tenant has its share of the line.
            InvalidRequest, ContextLengthExceeded: one cannot be served as it stands; `param` names the field.
            DeadlineExceeded: the deadline passed while they waited.
        """
        admitted_at = time.monotonic()
        engine = self._engine
        info = engine.require_ready()
        for request in requests:
            with admission.named(request):
                admission.check_features(request, info)
                admission.check_length(request, info, engine.tokenizer)
        with contextlib.ExitStack() as adapters:
            for adapter in {request.adapter for request in requests}:
                adapters.enter_context(engine.adapters.admitting(adapter))
            for guide in {request.sampling.guide for request in requests}:
                await self._guides.check(admission.token_guide(guide))
            streams = await self._enter(requests, info, admitted_at)
        engine.pump()
        if all(stream.sequences[0].state == "waiting" for stream in streams):
            await wait_in_line(streams, self._queue_timeout_s)
        return streams

    async def _enter(
        self, requests: Sequence[EngineRequest], info: BackendInfo, admitted_at: float
    ) -> list[RequestStream]:
        """Tokenise the requests and put them into the line, at once."""
        engine, tenant, priority = self._engine, requests[0].tenant, requests[0].priority
        count = sum(request.sampling.n for request in requests)
        if len(requests) > 1 and count > (most := self._work.capacity(priority)):
            raise InvalidRequest(f"prompts x n must be <= {most} here.", param="prompt", code="array_above_max_length")
        self._reserve(count, tenant, priority)
        made: list[tuple[RequestStream, TokenSampling]] = []
        try:
            for request in requests:
                with admission.named(request):
                    ids = await self._texts.ids(request, info)
                    sampling = admission.token_sampling(request, len(ids), info, engine.eos)
                made.append((RequestStream(request, ids, engine), sampling))
            engine.require_ready()
        finally:
            self._work.release(count, tenant)
        for stream, sampling in made:
            self._work.enter(stream, sampling)
            stream.admitted_at = admitted_at
            stream.start_deadline()
        return [stream for stream, _ in made]

    def check_room(self, tenant: str, priority: Priority) -> None:
        """Refuse at once what one more request of a tenant would be refused for, before any work is spent on it.

        Raises:
            Overloaded, RateLimitExceeded: as `add_all`.
        """
        with self._refusals():
            self._work.check_room(1, tenant, priority)

    def _reserve(self, count: int, tenant: str, priority: Priority) -> None:
        with self._refusals():
            self._work.reserve(count, tenant, priority)

    @contextlib.contextmanager
    def _refusals(self) -> Generator[None]:
        """Count refusals for load, and say when to try again."""
        try:
            yield
        except Overloaded as error:
            self._readiness.refused()
            self._engine.metrics.refused_full += 1
            error.retry_after_s = jittered(self._work.expected_wait_s())
            raise
        except RateLimitExceeded as error:
            error.retry_after_s = jittered(error.retry_after_s or 1.0)
            raise
