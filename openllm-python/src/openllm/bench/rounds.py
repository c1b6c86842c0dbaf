"""Measures servers in turns: A-B-A-B, one alive at a time, every level inside each turn; ratios come from the medians.

Used by `openllm bench` and the measuring tools. On a machine that others use too, only figures taken in turns can be
compared.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import attrs

from . import cpu
from .endpoint import Endpoint, RequestShape
from .exchange import Address
from .load import Level, run_level
from .results import medians, summarise
from .subjects import Subject, running

Say = Callable[[str], None]
WARM_TOKENS = 16
WARM_FROM = 500_000  # numbers of the warm-up's requests: a cache of prefixes must not know those that count


@attrs.frozen(kw_only=True)
class Plan:
    """What is asked of every server.

    Attributes:
        levels: one after the other.
        warmup: short requests sent together before the first level.
        slo: limits in seconds, see `results.parse_slo`.
        rounds: how often each server is measured.
    """

    shape: RequestShape
    levels: Sequence[Level]
    warmup: int = 4
    slo: dict[str, float] = attrs.field(factory=dict[str, float])
    rounds: int = 1


async def measure(endpoint: Endpoint, plan: Plan, say: Say, pid: int | None = None) -> dict[str, Any]:
    """Open, warm up, and run each level once.

    Args:
        pid: of the server, where its CPU can be read.

    Returns:
        `first_request_s` and `levels`: figures by `results.summarise`, with `server_cpu` where `pid` is given.
    """
    await endpoint.open()
    await asyncio.gather(*(endpoint.warm(WARM_FROM + number, WARM_TOKENS) for number in range(plan.warmup)))
    levels: list[dict[str, Any]] = []
    first = 0
    for level in plan.levels:
        before = cpu.read(pid) if pid is not None else None
        loaded = await run_level(endpoint.ask, level, seed=plan.shape.seed, first=first)
        after = cpu.read(pid) if pid is not None else None
        first += len(loaded.outcomes)
        figures = summarise(level, loaded, plan.slo)
        if before is not None and after is not None and figures["tokens"]:
            figures["server_cpu"] = after.since(before).per_token(figures["tokens"])
        say(f"{level.title}: {figures['tokens_per_s']:.1f} tokens/s")
        levels.append(figures)
    return {"first_request_s": endpoint.first_token_s, "levels": levels}


def measure_server(address: Address, model: str, plan: Plan, say: Say, pid: int | None = None) -> dict[str, Any]:
    """`plan.rounds` runs against a server that is up already.

    Returns:
        `rounds` and `medians`, with one subject, `server`.
    """
    rounds: list[dict[str, Any]] = []
    for number in range(plan.rounds):
        shape = attrs.evolve(
            plan.shape, seed=plan.shape.seed + number
        )  # else a cache of prefixes would know the prompts
        endpoint = Endpoint(address, shape, model)
        rounds.append({"server": asyncio.run(measure(endpoint, plan, say, pid))})
    return {"rounds": rounds, "medians": medians(rounds)}


def measure_subject(
    subject: Subject, plan: Plan, say: Say, *, headers: Mapping[str, str] | None = None, model: str = ""
) -> dict[str, Any]:
    """Start a server, measure it, end it.

    Args:
        headers: of every request.
        model: what requests name; default: the one it is started with.
    """
    shape = attrs.evolve(plan.shape, extra={**subject.extra, **plan.shape.extra})
    with running(subject) as server:
        say(f"ready after {server.ready_s:.1f} s")
        endpoint = Endpoint(Address(f"http://127.0.0.1:{server.port}", headers), shape, model or subject.model)
        done = asyncio.run(measure(endpoint, plan, say, server.pid))
    return {"ready_s": server.ready_s, **done}


def in_turns(measures: dict[str, Callable[[], dict[str, Any]]], rounds: int, say: Say) -> dict[str, Any]:
    """Call each measurement once per round, in the order given.

    Ctrl-C ends it with the rounds that are whole, which may have taken an hour; before the first is, it ends the program.

    Returns:
        `rounds`, as they came, and `medians`.
    """
    done: list[dict[str, Any]] = []
    try:
        for number in range(rounds):
            found: dict[str, Any] = {}
            for name, run in measures.items():
                say(f"round {number + 1} of {rounds}: {name}")
                found[name] = run()
            done.append(found)
    except KeyboardInterrupt:
        if not done:
            raise
        say(f"stopped: {len(done)} of {rounds} rounds count")
    return {"rounds": done, "medians": medians(done)}


def measure_subjects(
    subjects: Sequence[Subject], plan: Plan, say: Say, *, headers: Mapping[str, str] | None = None, model: str = ""
) -> dict[str, Any]:
    """All subjects, in turns; see `measure_subject`."""
    asked: dict[str, Any] = {"headers": headers, "model": model}
    measures = {subject.name: partial(measure_subject, subject, plan, say, **asked) for subject in subjects}
    return in_turns(measures, plan.rounds, say) | {"subjects": {s.name: s.as_data() for s in subjects}}
