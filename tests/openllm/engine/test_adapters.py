"""Adapters behind the engine: each life of a host gets them, and none goes while a request uses it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from tests.tiny_adapters import blank_adapter

from openllm.backends.echo.backend import EchoBackend
from openllm.engine.engine import Engine
from openllm.engine.pool import EnginePool
from openllm.engine.request import EngineRequest
from openllm.engine.supervisor import Watch, launch_embedded
from openllm.tokenizer import byte_tokenizer
from openllm_core.config.sampling import SamplingParams
from openllm_core.errors import AdapterIncompatible, AdapterNotFound, EngineError
from openllm_core.options import EngineOptions


def engine(**script: Any) -> Engine:
    """An echo engine with room for adapters, in this process."""
    options = EngineOptions(backend="echo", max_adapters=4, engine_arg=script)
    return Engine(options, byte_tokenizer(), launch=launch_embedded, watch=Watch(backoff_s=0.01, ping_s=0.05))


async def say(target: Engine | EnginePool, key: str | None) -> str:
    """What a request with this adapter is answered."""
    request = EngineRequest(prompt="hi", sampling=SamplingParams(max_tokens=50, temperature=0.0), adapter=key)
    return "".join([delta.text async for delta in await target.add(request)])


async def test_expected_adapters_are_there_when_it_is_ready(tmp_path: Path) -> None:
    """One that the backend refuses is told to those who ask for it, and to them alone."""
    made = engine()
    made.adapters.expect("a#1", str(blank_adapter(tmp_path / "a", echo="AAA")))
    made.adapters.expect("bad#1", str(tmp_path / "nowhere"))
    await made.start()
    await made.wait_ready(20)
    assert await say(made, "a#1") == "AAA" and await say(made, None) == "hi"
    with pytest.raises(AdapterIncompatible, match="no adapter folder"):
        await say(made, "bad#1")
    with pytest.raises(AdapterNotFound):
        await say(made, "never#1")
    assert made.adapters.present("a#1") and made.adapters.failure("bad#1") is not None
    await made.aclose()


async def test_a_new_host_is_given_them_before_it_is_ready(tmp_path: Path) -> None:
    """Also those that were loaded while the one before ran."""
    made = engine(hang_at=2, when="hang")
    await made.start()
    await made.wait_ready(20)
    await made.adapters.load("a#1", str(blank_adapter(tmp_path / "a", echo="AAA")))
    request = EngineRequest(prompt="hang", sampling=SamplingParams(max_tokens=50))
    stream = await made.add(request)
    with pytest.raises(Exception, match="no longer steps"):
        async for _ in stream:
            pass
    await asyncio.sleep(0.05)
    await made.wait_ready(20)
    assert await say(made, "a#1") == "AAA"
    await made.aclose()


async def test_it_is_in_use_while_a_request_for_it_is_admitted(tmp_path: Path) -> None:
    """It is unloaded when the last one that asked for it before has ended or was turned away, not while it is read."""
    made = engine()
    await made.start()
    await made.wait_ready(20)
    await made.adapters.load("a#1", str(blank_adapter(tmp_path / "a", echo="AAA")))
    with made.adapters.admitting("a#1"):
        unloading = asyncio.create_task(made.adapters.unload("a#1"))
        await asyncio.sleep(0.1)
        assert not unloading.done() and made.adapters.present("a#1")
    await asyncio.wait_for(unloading, 20)
    assert not made.adapters.present("a#1")
    await made.aclose()


async def test_a_refused_one_leaves_no_trace(tmp_path: Path) -> None:
    """Loading raises the reason; what was there goes on, and the same key is unknown."""
    made = engine()
    await made.start()
    await made.wait_ready(20)
    with pytest.raises(AdapterIncompatible):
        await made.adapters.load("bad#1", str(tmp_path))
    with pytest.raises(AdapterNotFound):
        await say(made, "bad#1")
    assert await say(made, None) == "hi"
    await made.aclose()


@pytest.mark.parametrize("error", [RuntimeError("out of device memory"), EngineError("it does not load")])
async def test_one_that_breaks_the_loading_is_a_refused_one(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever a framework raises, the host stays up: the start goes on with the other adapters, and a later load raises it."""
    load = EchoBackend.load_adapter

    async def broken(backend: EchoBackend, name: str, path: str) -> None:
        if name.startswith("bad"):
            raise error
        await load(backend, name, path)

    monkeypatch.setattr(EchoBackend, "load_adapter", broken)
    folder = str(blank_adapter(tmp_path / "a", echo="AAA"))
    made = engine()
    made.adapters.expect("bad#1", folder)
    made.adapters.expect("a#1", folder)
    await made.start()
    await made.wait_ready(20)
    assert await say(made, "a#1") == "AAA"
    with pytest.raises(AdapterIncompatible, match=str(error)):
        await say(made, "bad#1")
    with pytest.raises(EngineError, match=str(error)):
        await made.adapters.load("bad#2", folder)
    assert await say(made, None) == "hi"
    await made.aclose()


async def test_unloading_waits_for_the_last_request(tmp_path: Path) -> None:
    """A request that runs, one that waits in line in another engine of the pool, and no new one."""
    pool = EnginePool([engine(step_s=0.005, max_num_seqs=1), engine(step_s=0.005, max_num_seqs=1)])
    pool.adapters.expect("a#1", str(blank_adapter(tmp_path / "a", echo="A" * 40)))
    await pool.start()
    await asyncio.gather(*(one.wait_ready(20) for one in pool.engines))
    asked = [asyncio.create_task(say(pool, "a#1")) for _ in range(6)]
    await asyncio.sleep(0.03)
    unloading = asyncio.create_task(pool.adapters.unload("a#1"))
    await asyncio.sleep(0.01)
    with pytest.raises(AdapterNotFound):
        await say(pool, "a#1")
    assert not unloading.done()
    assert await asyncio.gather(*asked) == ["A" * 40] * 6
    await asyncio.wait_for(unloading, 10)
    assert not pool.adapters.present("a#1")
    await pool.aclose()
