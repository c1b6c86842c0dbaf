"""Names that nobody has ever used, by the thousand: /metrics has the same series after all of them as after the first."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from tests.openllm.server.serving import chat_body, over_socket, serving, text_body

from openllm_core.serde import dumps

NAMES = int(os.environ.get("OPENLLM_TEST_LABELS") or 350)
"""Distinct names that are sent."""
AT_ONCE = 8
KEY = {"authorization": "Bearer the-right-key"}

pytestmark = pytest.mark.timeout(120 + NAMES // 50)


def post(path: str, body: dict[str, object]) -> httpx.Request:
    """A request with the right key."""
    return httpx.Request("POST", path, content=dumps(body), headers=KEY | {"content-type": "application/json"})


KINDS: tuple[Callable[[str], httpx.Request], ...] = (
    lambda name: httpx.Request("GET", f"/{name}", headers=KEY),
    lambda name: httpx.Request("GET", "/v1/models", headers=KEY | {"x-request-id": name}),
    lambda name: httpx.Request(f"X{name}", "/v1/models", headers=KEY),
    lambda name: httpx.Request("GET", "/v1/models", headers={"authorization": f"Bearer {name}"}),
    lambda name: post("/v1/completions", text_body(user=name, max_tokens=1)),
    lambda name: post("/v1/completions", text_body(adapter_name=name)),
    lambda name: post("/v1/chat/completions", chat_body() | {"model": name}),
)
"""What a client can make up: a path, an id, a method, a key, a user, an adapter, a model."""


async def series(http: httpx.AsyncClient) -> set[tuple[str, frozenset[tuple[str, str]]]]:
    """Names and labels of all samples."""
    text = (await http.get("/metrics", headers=KEY)).text
    families = text_string_to_metric_families(text)
    return {(sample.name, frozenset(sample.labels.items())) for family in families for sample in family.samples}


async def ask(http: httpx.AsyncClient, numbers: Iterator[int]) -> None:
    """One client: a request of each kind with names of its own, again and again."""
    for number in numbers:
        for kind in KINDS:
            made = kind(f"w{number}")
            answer = await http.request(made.method, made.url, content=made.content, headers=made.headers)
            assert answer.status_code < 500, answer.text


async def test_series_do_not_grow_with_what_clients_send(record_property: Callable[[str, object], None]) -> None:
    """Distinct paths, ids, methods, keys, users, adapters and models add no series to those of the first of each kind."""
    async with serving(options={"api_key": ("the-right-key",)}) as served, over_socket(served) as http:
        await ask(http, iter(range(1)))
        await series(http)  # which is counted itself, and shown from the next one on
        before = await series(http)
        numbers = iter(range(1, 1 + NAMES // len(KINDS)))
        await asyncio.gather(*(ask(http, numbers) for _ in range(AT_ONCE)))
        assert await series(http) == before
    record_property("names", NAMES // len(KINDS) * len(KINDS))
