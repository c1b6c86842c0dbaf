"""Pacing: a closed loop keeps so many under way, an open loop sends when it is time, whatever the server does."""

from __future__ import annotations

import asyncio

import pytest

from openllm.bench.answers import Failure
from openllm.bench.load import Level, Outcome, run_level

ANSWER = Failure(kind="x", message="")


async def test_a_closed_loop_keeps_its_number_under_way():
    """Never more than `concurrency`, always that many while there is work, each request once."""
    now = most = 0
    seen: list[int] = []

    async def ask(number: int, due: float) -> Outcome:
        nonlocal now, most
        now += 1
        most = max(most, now)
        seen.append(number)
        await asyncio.sleep(0)
        now -= 1
        return ANSWER

    done = await run_level(ask, Level(concurrency=3, requests=10), first=100)
    assert most == 3
    assert sorted(seen) == list(range(100, 110))
    assert len(done.outcomes) == 10


async def test_a_slow_answer_does_not_hold_up_the_others_of_a_closed_loop():
    """The next request takes the place of whichever ended."""
    gate = asyncio.Event()
    ended = 0

    async def ask(number: int, due: float) -> Outcome:
        nonlocal ended
        if number == 0:
            await gate.wait()
        ended += 1
        if ended == 5:
            gate.set()
        return ANSWER

    async with asyncio.timeout(10):
        await run_level(ask, Level(concurrency=2, requests=6))
    assert ended == 6


async def test_an_open_loop_sends_though_nothing_is_answered():
    """All requests are under way at once when the server answers none: nobody waits for an answer before sending."""
    everyone = asyncio.Event()
    waiting = 0

    async def ask(number: int, due: float) -> Outcome:
        nonlocal waiting
        waiting += 1
        if waiting == 20:
            everyone.set()
        await everyone.wait()
        return ANSWER

    async with asyncio.timeout(10):
        done = await run_level(ask, Level(rate=2000.0, requests=20))
    assert len(done.outcomes) == 20


async def test_the_moments_of_an_open_loop_come_from_its_seed():
    """Same seed, same intervals, of the wanted mean; another seed, other ones. Latency counts from these moments."""

    async def moments(seed: int) -> list[float]:
        dues: list[float] = []

        async def ask(number: int, due: float) -> Outcome:
            dues.append(due)
            return ANSWER

        await run_level(ask, Level(rate=20000.0, requests=400), seed=seed)
        return [due - dues[0] for due in dues]

    first, again, other = await moments(1), await moments(1), await moments(2)
    assert first == pytest.approx(again, abs=1e-6)
    assert first != pytest.approx(other, abs=1e-6)
    assert first[-1] / 399 == pytest.approx(1 / 20000, rel=0.3)


@pytest.mark.parametrize("level", [Level(concurrency=2, duration_s=0.05), Level(rate=400.0, duration_s=0.05)])
async def test_a_duration_ends_the_sending(level: Level):
    """No request is sent after it; those under way are waited for."""
    dues: list[float] = []

    async def ask(number: int, due: float) -> Outcome:
        dues.append(due)
        await asyncio.sleep(0.01)
        return ANSWER

    done = await run_level(ask, level)
    assert len(done.outcomes) == len(dues) > 2
    assert max(dues) - min(dues) <= 0.06
