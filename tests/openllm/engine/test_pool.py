"""Several engines behind one face: least busy first, and the others go on when one dies. On the echo backend."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import attrs
import pytest
from prometheus_client import CollectorRegistry, generate_latest

from openllm.engine.engine import Engine
from openllm.engine.pool import EnginePool
from openllm.engine.supervisor import launch_embedded
from openllm.tokenizer import byte_tokenizer
from openllm_core.errors import EngineLoading, EngineUnavailable, Overloaded, ShuttingDown
from openllm_core.options import EngineOptions

from .conftest import QUICK, read, request
from .test_engine import eventually

MakePool = Callable[..., Awaitable[EnginePool]]


@pytest.fixture
async def make_pool() -> AsyncIterator[MakePool]:
    """make_pool([{script}, …], process=False, slots=2, watch={}, **engine arguments) -> a pool, started."""
    made: list[EnginePool] = []

    async def make(
        scripts: list[dict[str, Any]],
        *,
        process: bool = False,
        slots: int = 2,
        watch: dict[str, Any] | None = None,
        all_ready: bool = True,
        **engine: Any,
    ) -> EnginePool:
        if not process:
            engine["launch"] = launch_embedded
        engine["watch"] = attrs.evolve(QUICK, **(watch or {}))
        engines = [
            Engine(EngineOptions(backend="echo", max_num_seqs=slots, engine_arg=script), byte_tokenizer(), **engine)
            for script in scripts
        ]
        pool = EnginePool(engines, CollectorRegistry())
        made.append(pool)
        await pool.start()
        if all_ready:
            await asyncio.gather(*(one.wait_ready(30) for one in engines))
        return pool

    yield make
    for pool in made:
        await pool.aclose()


async def text_of(pool: EnginePool, prompt: str, **fields: Any) -> str:
    """The text of a request with one choice."""
    return (await read(await pool.add(request(prompt, **fields))))[0]


async def test_the_least_busy_engine_gets_the_next_request(make_pool: MakePool) -> None:
    """Requests are spread by how much of each engine's slots is taken."""
    pool = await make_pool([{"step_s": 0.05}] * 3)
    streams = [await pool.add(request("x" * 50)) for _ in range(6)]
    assert [engine.num_running for engine in pool.engines] == [2, 2, 2]
    assert pool.num_running == 6
    await streams[2].aclose()
    await streams[5].aclose()
    assert [engine.num_running for engine in pool.engines] == [2, 2, 0]
    await pool.add(request("x" * 50))
    assert [engine.num_running for engine in pool.engines] == [2, 2, 1]


async def test_embeddings_go_to_the_engine_that_embeds_least(make_pool: MakePool) -> None:
    """Requests for vectors are spread by the texts under way at each engine."""
    pool = await make_pool([{"embed": 4, "step_s": 0.01}] * 2)
    tasks = [asyncio.create_task(pool.embed([f"text {i}"] * 5)) for i in range(4)]
    await asyncio.sleep(0.02)
    assert [engine.embeddings.waiting for engine in pool.engines] == [10, 10]
    assert len(await asyncio.gather(*tasks)) == 4


async def test_it_is_ready_while_one_engine_is(make_pool: MakePool) -> None:
    """One slow engine keeps nobody waiting; how many are ready is told."""
    pool = await make_pool([{"load_s": 60}, {}], process=True, all_ready=False)
    assert pool.state == "loading"
    with pytest.raises(EngineLoading):
        await pool.add(request())
    info = await pool.wait_ready(30)
    assert info.backend == "echo"
    assert (pool.state, pool.ready_of) == ("ready", (1, 2))
    assert "1 of 2 engines ready" in pool.progress[0]
    assert await text_of(pool, "hi") == "hi"


async def test_an_idle_engine_takes_what_waits_elsewhere(make_pool: MakePool) -> None:
    """A free slot is filled from another engine's line, in order, and its stream ends and aborts like any other."""
    pool = await make_pool([{"step_s": 0.01}, {"step_s": 0.01}], slots=1)
    first, second = pool.engines
    slow = await first.add(request("x" * 2000))
    for _ in range(4):  # the look-ahead, which the host already has
        await first.add(request("x" * 2000))
    busy = await second.add(request("x" * 40))
    waiting = [asyncio.ensure_future(first.add(request(f"n{number}"))) for number in range(3)]
    await eventually(lambda: first.dispatcher.in_line == 3)
    await read(busy)
    texts = [(await read(await one))[0] for one in waiting]
    assert texts == ["n0", "n1", "n2"]
    assert not slow.finished
    assert second.metrics.finished["stop"] == 4


async def test_a_killed_engine_leaves_its_line_to_the_others(make_pool: MakePool) -> None:
    """What the dead engine had begun fails; what waited there is served by the other before it is back."""
    pool = await make_pool([{"step_s": 0.01}, {"step_s": 0.01}], process=True, slots=1, watch={"backoff_s": 60.0})
    first, second = pool.engines
    begun = await first.add(request("x" * 2000))
    await anext(begun)
    waiting = [asyncio.ensure_future(first.add(request(f"n{number}"))) for number in range(6)]
    await eventually(lambda: first.queue_depth == 6)
    assert first.host_pid is not None
    os.kill(first.host_pid, signal.SIGKILL)
    texts = [(await read(await one))[0] for one in waiting]
    assert texts == [f"n{number}" for number in range(6)]
    with pytest.raises(EngineUnavailable):
        await read(begun)
    assert (first.state, second.state, pool.state, pool.ready_of) == ("restarting", "ready", "ready", (1, 2))
    assert second.metrics.finished["stop"] == 6


async def test_an_engine_that_dies_while_a_request_enters_is_passed_over(
    make_pool: MakePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A request whose engine goes down before it has a slot is admitted by the next one."""
    pool = await make_pool([{}, {}])
    first = pool.engines[0]

    async def refuse(request: Any) -> Any:
        raise EngineUnavailable("The engine is being restarted.")

    monkeypatch.setattr(first, "add", refuse)
    assert await text_of(pool, "on") == "on"


async def test_a_moved_request_keeps_its_deadline_and_its_abort(make_pool: MakePool) -> None:
    """Closing a stream that moved frees its place in the engine that has it now."""
    pool = await make_pool([{"step_s": 0.01}, {"step_s": 0.01}], slots=1)
    first, second = pool.engines
    for _ in range(5):
        await first.add(request("x" * 2000))
    busy = await second.add(request("x" * 2000))
    moving = asyncio.ensure_future(first.add(request("x" * 2000)))
    await eventually(lambda: first.dispatcher.in_line == 1)
    await busy.aclose()
    moved = await moving
    assert moved.home is second
    await anext(moved)
    await moved.aclose()
    assert (second.num_running, second.queue_depth) == (0, 0)


async def test_all_have_failed(make_pool: MakePool) -> None:
    """Only when the last one's budget is spent has the pool failed, and it says why."""
    pool = await make_pool([{}, {}], process=True, watch={"restarts": 0})
    failed = asyncio.ensure_future(pool.wait_failed())
    for number, engine in enumerate(pool.engines):
        assert pool.failure is None and not failed.done()
        assert engine.host_pid is not None
        os.kill(engine.host_pid, signal.SIGKILL)
        await asyncio.wait_for(engine.wait_failed(), 5)
        assert pool.state == ("failed" if number else "ready")
    error = await asyncio.wait_for(failed, 5)
    assert "SIGKILL" in error.message
    assert pool.failure is error
    with pytest.raises(EngineUnavailable, match="has failed"):
        await pool.add(request())
    with pytest.raises(EngineUnavailable):
        await pool.wait_ready(1)


async def test_a_full_pool_refuses(make_pool: MakePool) -> None:
    """When the least busy engine's line is full all are, and the refusal says when to come back."""
    pool = await make_pool([{"step_s": 0.05}] * 2, slots=1, max_queue=1)
    assert pool.max_queue == 2
    running = [asyncio.ensure_future(text_of(pool, "x" * 100)) for _ in range(4)]
    await eventually(lambda: pool.queue_depth == 2)
    with pytest.raises(Overloaded) as caught:
        await pool.add(request())
    assert caught.value.retry_after_s is not None
    assert pool.retry_after_s() >= 1
    for one in running:
        one.cancel()


async def test_draining_and_closing_concern_all(make_pool: MakePool) -> None:
    """After drain nothing new is taken anywhere; after aclose everything is closed."""
    pool = await make_pool([{"step_s": 0.001}] * 2)
    running = [asyncio.ensure_future(text_of(pool, "x" * 20)) for _ in range(3)]
    await eventually(lambda: pool.num_running == 3)
    await pool.drain(10)
    assert [await one for one in running] == ["x" * 20] * 3
    assert pool.state == "draining"
    with pytest.raises(ShuttingDown):
        await pool.add(request())
    await pool.aclose()
    assert pool.state == "closed"
    with pytest.raises(ShuttingDown):
        await pool.wait_ready(1)


async def test_metrics_tell_the_engines_apart(make_pool: MakePool) -> None:
    """One family per name, a sample per engine, in the format of a scrape."""
    registry = CollectorRegistry()
    pool = await make_pool([{}, {}])
    pool.metrics.close()
    pool = EnginePool(pool.engines, registry)
    await pool.engines[1].add(request("abc"))
    text = generate_latest(registry).decode()
    assert text.count("# TYPE openllm_prompt_tokens_total counter") == 1
    assert 'openllm_prompt_tokens_total{engine="0"} 0.0' in text
    assert 'openllm_prompt_tokens_total{engine="1"} 3.0' in text
    assert 'openllm_step_seconds_bucket{engine="1",le="+Inf"}' in text
