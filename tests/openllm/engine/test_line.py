"""Who is next: interactive before background, tenants in turn, each in order; and what one tenant may hold."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest
from tests.openllm.engine.conftest import MakeEngine, read, request

from openllm.engine.engine import Engine
from openllm.engine.line import BACKGROUND_EVERY, Line
from openllm_core.errors import Overloaded, RateLimitExceeded


class Stream:
    """What the line reads of a request."""

    def __init__(self, tenant: str, priority: str) -> None:
        self.request = request("x", tenant=tenant, priority=priority)


class Choice:
    """What the line reads of a sequence."""

    def __init__(self, name: str, tenant: str = "", priority: str = "interactive") -> None:
        self.name = name
        self.stream = Stream(tenant, priority)
        self.backend_request = type("Request", (), {"request_id": name})


def line_of(*choices: Any) -> Line:
    """A line in which these wait."""
    line = Line()
    for choice in choices:
        line.put(choice)
    return line


def served(line: Line, held: dict[str, int] | None = None) -> list[str]:
    """Names in the order in which they leave, each keeping its slot."""
    counts = Counter(held or {})
    names: list[str] = []
    while line:
        choice: Any = line.next(counts)
        counts[choice.stream.request.tenant] += 1
        names.append(choice.name)
    return names


def test_one_tenant_is_served_in_order() -> None:
    """First come, first served; what is put back in front goes first."""
    line = line_of(*(Choice(f"{i}") for i in range(3)))
    again: Any = Choice("again")
    line.put(again, first=True)
    assert len(line) == 4 and served(line) == ["again", "0", "1", "2"]
    with pytest.raises(LookupError):
        line.next({})


def test_tenants_take_turns_whatever_they_send() -> None:
    """One that sends much waits behind itself, not before the others."""
    line = line_of(*(Choice(f"a{i}", "a") for i in range(5)), Choice("b0", "b"), Choice("c0", "c"), Choice("b1", "b"))
    assert served(line) == ["a0", "b0", "c0", "a1", "b1", "a2", "a3", "a4"]


def test_who_holds_fewer_slots_is_next() -> None:
    """A tenant that has slots already lets those with fewer catch up."""
    line = line_of(*(Choice(f"a{i}", "a") for i in range(4)), *(Choice(f"b{i}", "b") for i in range(3)))
    assert served(line, {"a": 2}) == ["b0", "b1", "a0", "b2", "a1", "a2", "a3"]


def test_background_yields_and_does_not_starve() -> None:
    """Interactive ones go first, but for every ninth place, which a waiting background one gets."""
    interactive = [Choice(f"i{i}") for i in range(2 * BACKGROUND_EVERY)]
    background = [Choice(f"b{i}", priority="background") for i in range(3)]
    names = served(line_of(*background, *interactive))
    assert [i for i, name in enumerate(names) if name.startswith("b")] == [8, 17, 20]
    assert served(line_of(*background)) == ["b0", "b1", "b2"]


def test_removed_ones_leave_nothing_behind() -> None:
    """A sequence may leave from anywhere; its tenant is forgotten with its last one."""
    choices = [Choice(f"{t}{i}", t) for t in "ab" for i in range(2)]
    line = line_of(*choices)
    for choice in (choices[1], choices[2], choices[3]):
        line.remove(choice)  # type: ignore[arg-type]
    assert len(line) == 1 and [c.name for c in line] == ["a0"]  # type: ignore[attr-defined]
    assert served(line) == ["a0"]


async def flood(engine: Engine, tenant: str, count: int) -> list[asyncio.Task[Any]]:
    """So many requests of a tenant, all sent at once; those that are refused raise."""

    async def one() -> None:
        await read(await engine.add(request("0123456789", tenant=tenant)))

    tasks = [asyncio.create_task(one()) for _ in range(count)]
    await asyncio.sleep(0.02)
    return tasks


async def test_a_tenant_may_hold_half_the_line(make_engine: MakeEngine) -> None:
    """Past its share a key is told 429's code and when to come back; another key still gets in; without keys no share.

    A short line makes no share smaller than the slots are.
    """
    engine = await make_engine(slots=8, step_s=0.01, engine={"max_queue": 16})
    tasks = await flood(engine, "loud", 100)
    with pytest.raises(RateLimitExceeded) as refused:
        await engine.add(request("more", tenant="loud"))
    assert refused.value.retry_after_s is not None and 1 <= refused.value.retry_after_s <= 60
    assert len(engine.dispatcher.sequences) == 8
    assert (await read(await engine.add(request("polite", tenant="polite"))))[0] == "polite"
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert Counter(map(type, outcomes)) == {type(None): 8, RateLimitExceeded: 92}
    short = await make_engine(slots=8, step_s=0.01, engine={"max_queue": 2})
    tasks = await flood(short, "loud", 20)
    assert len(short.dispatcher.sequences) == 8
    await asyncio.gather(*tasks, return_exceptions=True)
    free = await flood(engine, "", 24)
    assert len(engine.dispatcher.sequences) == 24
    with pytest.raises(Overloaded):
        await engine.add(request("more"))
    await asyncio.gather(*free)


async def test_one_large_request_of_a_tenant_passes(make_engine: MakeEngine) -> None:
    """More choices than a tenant's share are taken while it has nothing else under way."""
    engine = await make_engine(slots=4, step_s=0.005, engine={"max_queue": 16})
    stream = await engine.add(request("abc", tenant="a", n=12))
    with pytest.raises(RateLimitExceeded):
        await engine.add(request("abc", tenant="a"))
    assert len(await read(stream)) == 12
    assert (await read(await engine.add(request("abc", tenant="a"))))[0] == "abc"


async def test_shares_are_even_while_all_slots_are_wanted(make_engine: MakeEngine) -> None:
    """Three tenants that all wait hold the same number of slots, within one, whoever came first."""
    engine = await make_engine(slots=9, step_s=0.01, engine={"max_queue": 100})
    tasks = [task for tenant in "abc" for task in await flood(engine, tenant, 30)]
    seen: list[Counter[str]] = []
    while len(seen) < 5:
        await asyncio.sleep(0.1)
        held = Counter(
            s.stream.request.tenant for s in engine.dispatcher.sequences.values() if s.state in ("submitted", "started")
        )
        if sum(held.values()) < 9:
            break
        seen.append(held)
    assert seen
    assert all(max(held.values()) - min(held.values()) <= 2 for held in seen[1:]), seen
    await asyncio.gather(*tasks)


async def test_a_flood_costs_a_polite_tenant_at_most_its_own_time(make_engine: MakeEngine) -> None:
    """In steps: a request that takes so many alone takes at most twice as many beside a tenant that never stops asking."""
    engine = await make_engine(slots=8, step_s=0.002, engine={"max_queue": 16})
    steps = 0
    on_step = engine.dispatcher.on_step

    def counted(output: Any) -> bool:
        nonlocal steps
        steps += 1
        return on_step(output)

    engine.dispatcher.on_step = counted  # type: ignore[method-assign]

    async def polite() -> int:
        began = steps
        await read(await engine.add(request("x" * 30, tenant="polite")))
        return steps - began

    async def loud() -> None:
        while True:
            try:
                await read(await engine.add(request("x" * 30, tenant="loud")))
            except RateLimitExceeded:
                await asyncio.sleep(0.01)

    alone = max([await polite() for _ in range(3)])
    flood = [asyncio.create_task(loud()) for _ in range(30)]
    await asyncio.sleep(0.05)
    beside = sorted([await polite() for _ in range(12)])
    for task in flood:
        task.cancel()
    assert beside[-1] <= 2 * alone + 4, (alone, beside)
    assert beside[0] > alone, "the flood took no slot"
