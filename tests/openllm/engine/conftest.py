"""Engines on the echo backend, made and closed per test."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import attrs
import pytest

from openllm.engine.engine import Engine
from openllm.engine.request import EngineRequest
from openllm.engine.stream import RequestStream
from openllm.engine.supervisor import Watch, launch_embedded
from openllm.tokenizer import byte_tokenizer
from openllm_core.config.sampling import SamplingParams
from openllm_core.options import EngineOptions

QUICK = Watch(backoff_s=0.01, ping_s=0.05, stop_grace_s=2.0)

MakeEngine = Callable[..., Awaitable[Engine]]


@pytest.fixture
async def make_engine() -> AsyncIterator[MakeEngine]:
    """make_engine(process=False, wait=True, watch={}, slots=64, engine={}, **script) -> a started engine."""
    made: list[Engine] = []

    async def make(
        *,
        process: bool = False,
        wait: bool = True,
        watch: dict[str, Any] | None = None,
        slots: int = 64,
        engine: dict[str, Any] | None = None,
        **script: Any,
    ) -> Engine:
        options = EngineOptions(backend="echo", max_num_seqs=slots, engine_arg=script)
        arguments: dict[str, Any] = {"watch": attrs.evolve(QUICK, **(watch or {}))}
        if not process:
            arguments["launch"] = launch_embedded
        found = Engine(options, byte_tokenizer(), **(arguments | (engine or {})))
        made.append(found)
        await found.start()
        if wait:
            await found.wait_ready(30)
        return found

    yield make
    for engine in made:
        await engine.aclose()


def request(prompt: str | list[int] = "hello", **fields: Any) -> EngineRequest:
    """A request whose sampling fields may be given flat."""
    own = {a.name for a in attrs.fields(EngineRequest)}
    sampling = {name: value for name, value in fields.items() if name not in own}
    rest = {name: value for name, value in fields.items() if name in own}
    return EngineRequest(prompt=prompt, sampling=SamplingParams(**sampling), **rest)


async def read(stream: RequestStream) -> dict[int, str]:
    """Text per choice, read to the end."""
    texts: dict[int, str] = {}
    async with stream:
        async for delta in stream:
            texts[delta.index] = texts.get(delta.index, "") + delta.text
    return texts


async def text_of(engine: Engine, prompt: str | list[int] = "hello", **fields: Any) -> str:
    """The text of a request with one choice."""
    return (await read(await engine.add(request(prompt, **fields))))[0]
