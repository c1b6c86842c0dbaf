"""Paces requests: so many at a time (closed loop), or so many a second whatever the server does (open loop).

Used by `rounds`. Knows nothing of HTTP: `ask` is any coroutine function.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable

import attrs

from .answers import Failure, Sample

Outcome = Sample | Failure
Ask = Callable[[int, float], Awaitable[Outcome]]
"""Sends the n-th request, due at a moment of `time.perf_counter`."""


@attrs.frozen(kw_only=True)
class Level:
    """One step of a run: either `concurrency` or `rate` is given.

    Attributes:
        concurrency: requests under way at any time.
        rate: requests a second, at the random intervals of a Poisson process.
        requests: how many; None = until `duration_s` is over.
        duration_s: no new request is sent after so many seconds.
    """

    concurrency: int | None = None
    rate: float | None = None
    requests: int | None = None
    duration_s: float | None = None

    @property
    def key(self) -> str:
        """Its name in results: `32`, or `rate_2_5`."""
        return str(self.concurrency) if self.concurrency is not None else f"rate_{self.rate:g}".replace(".", "_")

    @property
    def title(self) -> str:
        """Its name for people."""
        return (
            f"{self.concurrency} stream{'s' * (self.concurrency != 1)}"
            if self.concurrency is not None
            else f"{self.rate:g} requests/s"
        )


@attrs.frozen
class Loaded:
    """What a level gave.

    Attributes:
        outcomes: in the order they ended.
        seconds: from the first request due to the last answer.
        late_s: how late each request was sent; an open loop that cannot keep its pace shows here.
        cpu_s: CPU seconds of this process meanwhile.
    """

    outcomes: list[Outcome]
    seconds: float
    late_s: list[float]
    cpu_s: float


async def run_level(ask: Ask, level: Level, *, seed: int = 0, first: int = 0) -> Loaded:
    """Run one level to its end.

    Args:
        seed: of the random intervals.
        first: number of the first request, so that levels ask different questions.
    """
    outcomes: list[Outcome] = []
    late: list[float] = []
    cpu = time.process_time()
    begun = time.perf_counter()

    async def one(number: int, due: float) -> None:
        late.append(time.perf_counter() - due)
        outcomes.append(await ask(first + number, due))

    if level.rate is not None:
        await _open_loop(one, level, begun, random.Random(seed))
    else:
        await _closed_loop(one, level, begun)
    return Loaded(outcomes, time.perf_counter() - begun, late, time.process_time() - cpu)


One = Callable[[int, float], Awaitable[None]]


async def _closed_loop(one: One, level: Level, begun: float) -> None:
    sent = 0

    async def keep_asking() -> None:
        nonlocal sent
        while (level.requests is None or sent < level.requests) and not _over(level, begun):
            sent += 1
            await one(sent - 1, time.perf_counter())

    await asyncio.gather(*(keep_asking() for _ in range(level.concurrency or 1)))


async def _open_loop(one: One, level: Level, begun: float, dice: random.Random) -> None:
    """Each request has its moment, fixed beforehand: it is sent then, however many are still unanswered."""
    assert level.rate is not None
    due, number = begun, 0
    async with asyncio.TaskGroup() as group:
        while level.requests is None or number < level.requests:
            if level.duration_s is not None and due - begun >= level.duration_s:
                break
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            group.create_task(_awaited(one(number, due)))
            number += 1
            due += dice.expovariate(level.rate)


async def _awaited(work: Awaitable[None]) -> None:
    await work


def _over(level: Level, begun: float) -> bool:
    return level.duration_s is not None and time.perf_counter() - begun >= level.duration_s
