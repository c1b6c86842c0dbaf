"""Scenarios of load that a server must share out fairly. Their row is F14; the others of that group are tested elsewhere."""

from __future__ import annotations

import asyncio
import statistics
import time

import httpx

from .inject import follow, idle
from .lab import COMPLETIONS, CONTEXT, Lab, body, client

SHORT = 12
LONG = 3


async def short_beside_long(lab: Lab) -> None:
    """While prompts that nearly fill the context are read, one-token requests still come soon."""
    server = lab.server()
    async with client(server) as http:
        await times(http, 2)  # whatever the first request brings into memory is there
        alone = await times(http, SHORT)
        over = asyncio.Event()

        async def long() -> None:
            while not over.is_set():
                await follow(http, COMPLETIONS, body("x" * (CONTEXT // 4), stream=True))

        readers = [asyncio.create_task(long()) for _ in range(LONG)]
        await asyncio.sleep(0.1)
        beside = await times(http, SHORT)
        over.set()
        await asyncio.gather(*readers)
    await idle(server)
    # the floor keeps a machine's own unrest out of it: alone, an answer takes a few milliseconds
    assert beside <= 3 * max(alone, 0.25), (alone, beside)


async def times(http: httpx.AsyncClient, count: int) -> float:
    """Median seconds of one-token requests, one after another."""
    taken: list[float] = []
    for _ in range(count):
        began = time.monotonic()
        assert (await follow(http, COMPLETIONS, body(max_tokens=1, stream=True))).done
        taken.append(time.monotonic() - began)
    return statistics.median(taken)
