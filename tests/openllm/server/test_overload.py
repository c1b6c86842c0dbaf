"""Overload over HTTP: refused at once and told when to come back; what was taken is served; clients that retry get in."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import Counter
from typing import Any

import httpx
import openai
import pytest
from tests.openllm.server.serving import chat_body, exchange, listening, over_socket, serving, text_body
from tests.openllm.server.test_limits import GENERATE, TEXT, post
from tests.openllm.server.test_protocol import error_of, status_of

from openllm.engine import entrance
from openllm.server import protocol

CHAT, STREAM, AGENT = "/v1/chat/completions", "/v1/generate_stream", "/hf/agent"
BODIES: dict[str, Any] = {
    CHAT: chat_body(),
    TEXT: text_body(),
    GENERATE: {"prompt": "hi"},
    STREAM: {"prompt": "hi"},
    AGENT: {"inputs": "hi"},
}


async def fill(http: httpx.AsyncClient, count: int, **headers: str) -> list[asyncio.Task[httpx.Response]]:
    """So many requests under way, as many as slots and line take."""
    tasks = [asyncio.create_task(http.post(TEXT, json=text_body("x" * 40), headers=headers)) for _ in range(count)]
    await asyncio.sleep(0.1)
    return tasks


@pytest.mark.parametrize("path", BODIES)
async def test_a_full_line_is_told_at_once(path: str) -> None:
    """Every route that takes a slot refuses with 503 and a time within bounds, quickly; those inside are served."""
    options = {"max_queue": 2}
    async with serving(options=options, max_num_seqs=2, step_s=0.02) as served, over_socket(served) as http:
        inside = await fill(http, 4)
        took: list[float] = []
        for _ in range(20):
            began = time.perf_counter()
            refused = await http.post(path, json=BODIES[path])
            took.append(time.perf_counter() - began)
            assert (refused.status_code, refused.json()["error"]["code"]) == (503, "server_is_overloaded")
            assert refused.json()["error"]["type"] == "service_unavailable_error"
            assert 1 <= int(refused.headers["retry-after"]) <= 60
            assert "connection" not in refused.headers
        assert sorted(took)[10] < 0.05
        assert [answer.status_code for answer in await asyncio.gather(*inside)] == [200] * 4


async def test_ten_times_the_load() -> None:
    """Arrivals at ten times what the slots can do, whatever becomes of them: the line stays as short as it is told to be, each is
    served whole or refused at once with a time to wait, and while any is refused no slot stands idle."""
    slots, line, seconds = 4, 8, 2.5
    request = post(TEXT, text_body("x" * 10, max_tokens=10))
    async with (
        serving(options={"max_queue": line}, max_num_seqs=slots, step_s=0.02) as served,
        listening(served) as port,
    ):
        engine, ends = served.composed.engine, time.monotonic() + seconds
        lengths, busy = list[int](), list[int]()

        async def ask() -> tuple[int, float]:
            began = time.monotonic()
            answer = await exchange(port, request)
            status = status_of(answer)
            if status == 200:
                assert json.loads(answer.partition(b"\r\n\r\n")[2])["choices"][0]["text"] == "x" * 10
            else:
                assert error_of(answer)["code"] == "server_is_overloaded" and b"\r\nretry-after: " in answer
                busy.append(engine.num_running)
            lengths.append(engine.queue_depth)
            return status, time.monotonic() - began

        async def always() -> int:
            count = 0
            while time.monotonic() < ends:
                assert (await ask())[0] == 200
                count += 1
            return count

        full = sum(await asyncio.gather(*(always() for _ in range(2 * slots))))  # with always as many again in line
        draw, ends, due, tasks = random.Random(71), time.monotonic() + seconds, time.monotonic(), list[Any]()
        while (due := due + draw.expovariate(10 * full / seconds)) < ends:
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            tasks.append(asyncio.create_task(ask()))
        outcomes = await asyncio.gather(*tasks)
    statuses = Counter(status for status, _ in outcomes)
    assert set(statuses) == {200, 503} and statuses[503] > 5 * full, (statuses, full)
    assert max(lengths) <= line
    assert busy.count(slots) >= 0.95 * len(busy), Counter(
        busy
    )  # what is served a second depends on who else uses the machine
    refused = sorted(took for status, took in outcomes if status == 503)
    answered = sorted(took for status, took in outcomes if status == 200)
    assert refused[len(refused) // 2] < 0.05 < answered[len(answered) // 2], (refused[-1], answered[0])


async def test_nothing_is_read_of_what_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """While the line is full even a body that is no request gets 503, and a long one is not waited for."""
    monkeypatch.setattr(protocol, "LINGER_S", 0.2)
    async with serving(options={"max_queue": 1}, max_num_seqs=1, step_s=0.025) as served, listening(served) as port:
        inside = await fill(served.http, 2)
        assert status_of(await exchange(port, post(TEXT, b"nonsense"))) == 503
        head, _, _ = post(TEXT, b" " * 1_000_000).partition(b"\r\n\r\n")
        answer = await exchange(port, head + b"\r\n\r\n")
        assert status_of(answer) == 503 and b"connection: close" in answer
        await asyncio.gather(*inside)
        assert status_of(await exchange(port, post(TEXT, b"nonsense"))) == 400


async def test_a_wait_past_the_limit() -> None:
    """A request that stood in line for too long is refused as for load, and never begins."""
    options = {"queue_timeout": 0.2}
    async with serving(options=options, max_num_seqs=1, step_s=0.05) as served:
        inside = await fill(served.http, 5)
        late = await served.post(TEXT, text_body("late"))
        assert (late.status_code, late.json()["error"]["code"]) == (503, "server_is_overloaded")
        assert "retry-after" in late.headers and "0.2 s" in late.json()["error"]["message"]
        for task in inside:
            task.cancel()


async def test_overload_may_be_429() -> None:
    """--overload-status 429, for clients that know no other; the connection cap says the same."""
    options = {"overload_status": 429, "max_queue": 1, "max_connections": 1}
    async with serving(options=options, max_num_seqs=1, step_s=0.02) as served, listening(served) as port:
        inside = await fill(served.http, 2)
        refused = await served.post(TEXT, text_body())
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "server_is_overloaded")
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.sleep(0.05)
        answer = await exchange(port, b"")
        assert status_of(answer) == 429 and error_of(answer)["code"] == "server_is_overloaded"
        writer.close()
        await asyncio.gather(*inside)


async def test_the_time_to_wait_is_that_of_the_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """Told is how long the line will take at the pace of late, however long it is, and not the same to all."""
    told: list[float] = []
    monkeypatch.setattr(entrance, "jittered", lambda expected_s: told.append(expected_s) or expected_s)
    options = {"max_queue": 6}
    async with serving(options=options, max_num_seqs=2, step_s=0.005) as served:
        for _ in range(6):  # the average needs some requests to learn from
            await asyncio.gather(*(served.post(TEXT, text_body("x" * 40)) for _ in range(2)))
        began = time.monotonic()
        await served.post(TEXT, text_body("x" * 40))
        one = time.monotonic() - began
        inside = await fill(served.http, 8)
        await served.post(TEXT, text_body())
        waits = 3.5 * one  # six before it and itself, two at a time
        assert 0.4 * waits < told[-1] < 2.5 * waits
        await asyncio.gather(*inside)
    monkeypatch.undo()
    spread = {round(entrance.jittered(20.0)) for _ in range(200)}
    assert min(spread) >= 15 and max(spread) <= 30 and len(spread) > 8
    assert entrance.jittered(0.001) == 1.0 and entrance.jittered(1e6) == 60.0


async def test_many_clients_that_retry_all_get_in() -> None:
    """40 of OpenAI's own clients against 4 slots and a line of 16: what they retry spreads, and no slot stands idle."""
    options = {"max_queue": 16}
    async with serving(options=options, max_num_seqs=4, step_s=0.005) as served, listening(served) as port:
        refusals = Counter[int]()

        async def on_response(response: httpx.Response) -> None:
            refusals[response.status_code] += 1

        async def one() -> str:
            http = httpx.AsyncClient(event_hooks={"response": [on_response]}, timeout=60, verify=False)
            url = f"http://127.0.0.1:{port}/v1"
            async with openai.AsyncOpenAI(base_url=url, api_key="x", max_retries=4, http_client=http) as client:
                made = await client.completions.create(model="echo", prompt="x" * 30)
                return made.choices[0].text

        began = time.monotonic()
        outcomes = await asyncio.gather(*(one() for _ in range(40)), return_exceptions=True)
        took = time.monotonic() - began
    assert outcomes == ["x" * 30] * 40, Counter(map(repr, outcomes))
    assert refusals[503] >= 20 and took < 60


async def test_a_key_past_its_share_is_429() -> None:
    """With several keys, one that fills its half of the line is told 429 and when to come back; another is served."""
    options = {"api_key": ("polite", "loud"), "max_queue": 16}
    loud, polite = {"Authorization": "Bearer loud"}, {"Authorization": "Bearer polite"}
    async with serving(options=options, max_num_seqs=8, step_s=0.01) as served:
        inside = await fill(served.http, 8, **loud)
        refused = await served.post(TEXT, text_body(), **loud)
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "rate_limit_exceeded")
        assert refused.json()["error"]["type"] == "rate_limit_error"
        assert 1 <= int(refused.headers["retry-after"]) <= 60
        assert (await served.post(TEXT, text_body(), **polite)).status_code == 200
        assert [answer.status_code for answer in await asyncio.gather(*inside)] == [200] * 8


async def test_the_routes_that_take_a_slot_are_all_here() -> None:
    """A new route that takes a slot falls under the first test."""
    async with serving(ready=False) as served:
        app: Any = served.composed.app
        while not hasattr(app, "routes"):
            app = app._app
        assert {route.path for route in app.routes if type(route.app).__name__ == "_Admitting"} == set(BODIES)
