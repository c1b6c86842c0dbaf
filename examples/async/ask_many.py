"""Ten questions at once in one event loop, four on their way at a time."""

from __future__ import annotations

import asyncio
import os

from openllm_client import AsyncHTTPClient
from openllm_core.errors import OpenLLMError

CITIES = ("Paris", "Rome", "Lima", "Oslo", "Cairo", "Delhi", "Tokyo", "Quito", "Accra", "Perth")
AT_ONCE = 4
DEADLINE_S = 60


async def ask(client: AsyncHTTPClient, city: str, turn: asyncio.Semaphore) -> str | None:
    """The answer, or None where there was none in time."""
    try:
        async with turn, asyncio.timeout(DEADLINE_S):
            return (await client.chat(f"How is the weather in {city}?", max_tokens=64)).text
    except (OpenLLMError, TimeoutError) as error:
        print(f"{city}: {error!r}")
        return None


async def main() -> None:
    turn = asyncio.Semaphore(AT_ONCE)
    async with AsyncHTTPClient(os.environ.get("OPENLLM_ENDPOINT", "http://localhost:3000")) as client:
        answers = await asyncio.gather(*(ask(client, city, turn) for city in CITIES))
    print(sum(answer is not None for answer in answers), "of", len(answers), "answered")


asyncio.run(main())
