"""Every limit is a setting that counts on the wire: with a small value each refuses what goes past it, by a socket.

`CASES` has a row for each field of `Limits`; a new limit without a row fails `test_every_limit_has_a_case`.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator
from typing import Any

import attrs
import pytest
from tests.openllm.server.serving import chat_body, exchange, listening, serving, text_body
from tests.openllm.server.test_protocol import GET, HOST, error_of, status_of

from openllm.server import body as bodies
from openllm.server.limits import KEEP_ALIVE_SLACK_S
from openllm_core.limits import Limits

CHAT, TEXT, GENERATE, EMBED = "/v1/chat/completions", "/v1/completions", "/v1/generate", "/v1/embeddings"


def post(path: str, data: Any, *headers: bytes) -> bytes:
    """A whole request."""
    body = data if isinstance(data, bytes) else json.dumps(data).encode()
    lines = [b"Content-Type: application/json", b"Content-Length: %d" % len(body), b"Connection: close", *headers]
    return b"POST %b HTTP/1.1\r\n" % path.encode() + HOST + b"\r\n".join(lines) + b"\r\n\r\n" + body


@attrs.frozen
class Case:
    """A limit at a small value, a request at it and one past it, and how that is refused."""

    value: Any
    within: bytes
    past: bytes
    status: int
    code: str
    param: str | None = None


def schema_of(size: int) -> dict[str, Any]:
    """A JSON schema of so many bytes."""
    empty = {"type": "object", "properties": {"a": {"type": "string", "description": ""}}}
    text = json.dumps(empty, separators=(",", ":"))
    return {"type": "object", "properties": {"a": {"type": "string", "description": "d" * (size - len(text))}}}


def guided(size: int) -> bytes:
    """A chat that asks for JSON by a schema of so many bytes."""
    form = {"type": "json_schema", "json_schema": {"name": "s", "schema": schema_of(size)}}
    return post(CHAT, chat_body(response_format=form, max_tokens=4))


def nested(depth: int) -> list[Any]:
    """So many arrays within each other."""
    return [] if depth == 1 else [nested(depth - 1)]


LINE, MANY = "uri_too_long", "array_above_max_length"
ABOVE = "integer_above_max_value"
CASES: dict[str, Case] = {
    "max_request_line": Case(
        256,
        b"GET /livez?" + b"a" * 249 + b" HTTP/1.1\r\n" + HOST + b"Connection: close\r\n\r\n",
        b"GET /livez?" + b"a" * 250 + b" HTTP/1.1\r\n" + HOST + b"\r\n",
        414,
        LINE,
    ),
    "max_headers": Case(
        8,
        GET + b"Connection: close\r\n" + b"X: y\r\n" * 6 + b"\r\n",
        GET + b"Connection: close\r\n" + b"X: y\r\n" * 7 + b"\r\n",
        431,
        "headers_too_large",
    ),
    "max_header_bytes": Case(
        1024,
        GET + b"Connection: close\r\nX: " + b"y" * 950 + b"\r\n\r\n",
        GET + b"Connection: close\r\nX: " + b"y" * 1024 + b"\r\n\r\n",
        431,
        "headers_too_large",
    ),
    "header_timeout": Case(0.2, GET + b"Connection: close\r\n\r\n", GET + b"X: y", 408, "request_timeout"),
    "max_body": Case(
        1024,
        post(TEXT, text_body("x" * 900, max_tokens=1)),
        post(TEXT, text_body("x" * 1024, max_tokens=1)),
        413,
        "content_too_large",
    ),
    "body_timeout": Case(
        0.2, post(TEXT, text_body(max_tokens=1)), post(TEXT, text_body(max_tokens=1))[:-2], 408, "request_timeout"
    ),
    "max_json_depth": Case(
        8,
        post(TEXT, text_body(max_tokens=1, metadata=nested(7))),
        post(TEXT, text_body(max_tokens=1, metadata=nested(8))),
        400,
        "json_too_deep",
    ),
    "max_n": Case(2, post(TEXT, text_body(n=2)), post(TEXT, text_body(n=3)), 400, ABOVE, "n"),
    "max_prompts": Case(
        2, post(TEXT, text_body(["a", "b"])), post(TEXT, text_body(["a", "b", "c"])), 400, MANY, "prompt"
    ),
    "max_messages": Case(
        1,
        post(CHAT, chat_body()),
        post(CHAT, chat_body() | {"messages": [{"role": "user", "content": "a"}] * 2}),
        400,
        MANY,
        "messages",
    ),
    "max_stops": Case(1, post(TEXT, text_body(stop=["a"])), post(TEXT, text_body(stop=["a", "b"])), 400, MANY, "stop"),
    "max_stop_bytes": Case(
        4,
        post(TEXT, text_body(stop="éé")),
        post(TEXT, text_body(stop="ééa")),
        400,
        "string_above_max_length",
        "stop",
    ),
    "max_logprobs": Case(
        1, post(TEXT, text_body(logprobs=1)), post(TEXT, text_body(logprobs=2)), 400, ABOVE, "logprobs"
    ),
    "max_guide_bytes": Case(
        128, guided(128), guided(129), 400, "string_above_max_length", "response_format.json_schema.schema"
    ),
    "max_embedding_inputs": Case(2, post(EMBED, ["a", "b"]), post(EMBED, ["a", "b", "c"]), 400, MANY, "input"),
}
ELSEWHERE = {
    "max_connections": "tests/openllm/server/test_protocol.py::test_too_many_connections",
    "min_body_rate": "tests/openllm/server/test_limits.py::test_a_body_that_trickles",
    "keep_alive": "tests/openllm/server/test_limits.py::test_an_idle_connection_is_closed",
    "stall_timeout": "tests/openllm/server/test_streams.py::test_a_client_that_stalls_is_cut",
    "ping_interval": "tests/openllm/server/test_streams.py::test_silence_is_filled_with_comments",
    "max_tokens_default": "tests/openllm/server/test_limits.py::test_the_length_of_who_does_not_say",
    "server_timeout": "tests/openllm/server/test_limits.py::test_the_deadline",
    "max_queue": "tests/openllm/server/test_overload.py::test_a_full_line_is_told_at_once",
    "queue_timeout": "tests/openllm/server/test_overload.py::test_a_wait_past_the_limit",
    "overload_status": "tests/openllm/server/test_overload.py::test_overload_may_be_429",
}


def test_every_limit_has_a_case() -> None:
    """Each field of Limits is held by a case here or by a test that is named and there."""
    names = {a.name for a in attrs.fields(Limits)}
    assert set(CASES) | set(ELSEWHERE) == names and not set(CASES) & set(ELSEWHERE)
    for where in ELSEWHERE.values():
        file, _, test = where.partition("::")
        with open(file, encoding="utf-8") as source:
            assert f"def {test}(" in source.read(), where


@pytest.mark.parametrize("name", CASES)
async def test_a_limit_counts_on_the_wire(name: str) -> None:
    """At its value a request is answered; one past it is refused in the one shape, and its connection ends."""
    case = CASES[name]
    async with serving(options={name: case.value}, embed=4, reply='{"a":"b"}') as served, listening(served) as port:
        good = await exchange(port, case.within)
        assert status_of(good) == 200, good[:600]
        bad = await exchange(port, case.past)
    assert status_of(bad) == case.status, bad[:600]
    assert (error_of(bad)["code"], error_of(bad)["param"]) == (case.code, case.param)
    assert b"connection: close" in bad.lower()


async def test_top_logprobs_are_named_as_sent() -> None:
    """In a chat the number of likely tokens has another name."""
    async with serving(options={"max_logprobs": 1}) as served:
        refused = await served.post(CHAT, chat_body(logprobs=True, top_logprobs=2))
        assert refused.json()["error"]["param"] == "top_logprobs"


async def test_a_large_set_of_tools_that_must_be_called() -> None:
    """What is made of tools is held to the limit of a guide where it is compiled, and free where it is not."""
    tool = {"type": "function", "function": {"name": "f", "parameters": schema_of(17000)}}
    async with serving(call='f({"a": "b"})', max_model_len=40_000) as served:
        refused = await served.post(CHAT, chat_body(tools=[tool], tool_choice="required"))
        assert refused.status_code == 400 and refused.json()["error"]["param"] == "tools"
        assert (await served.post(CHAT, chat_body(tools=[tool], max_tokens=4))).status_code == 200


# -- bodies that arrive slowly, oddly, or not at all ------------------------------------------------------------------


@pytest.fixture
async def port() -> AsyncIterator[int]:
    """A server with the limits as they are."""
    async with serving(reply="ok") as served, listening(served) as found:
        yield found


async def dripped(port: int, pieces: list[bytes], pause_s: float) -> bytes:
    """The answer to a request sent piece by piece; sending stops once there is one."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    answer = asyncio.create_task(reader.read())
    for piece in pieces:
        if answer.done():
            break
        writer.write(piece)
        await asyncio.wait((answer,), timeout=pause_s)
    found = await answer
    writer.close()
    return found


async def test_a_body_that_trickles(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that stays below the rate is given up long before its time is over; one that keeps to it is read."""
    monkeypatch.setattr(bodies, "RATE_WINDOW_S", 0.3)
    options = {"min_body_rate": 100, "body_timeout": 20.0}
    request = post(TEXT, text_body("x" * 400, max_tokens=1))
    head, _, body = request.partition(b"\r\n\r\n")
    async with serving(options=options) as served, listening(served) as port:

        async def in_pieces(size: int) -> bytes:
            pieces = [body[start : start + size] for start in range(0, len(body), size)]
            return await dripped(port, [head + b"\r\n\r\n", *pieces], 0.05)

        trickle, steady = await asyncio.gather(in_pieces(1), in_pieces(100))
    assert status_of(trickle) == 408 and "slowly" in error_of(trickle)["message"]
    assert status_of(steady) == 200


async def test_a_body_in_very_many_chunks(port: int) -> None:
    """65,537 chunks of one byte are one body, read at little more than its size."""
    body = json.dumps(text_body(max_tokens=1)).encode()
    body += b" " * (65_537 - len(body))
    chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in body) + b"0\r\n\r\n"
    head = b"POST /v1/completions HTTP/1.1\r\n" + HOST + b"Content-Type: application/json\r\nConnection: close\r\n"
    assert status_of(await exchange(port, head + b"Transfer-Encoding: chunked\r\n\r\n" + chunks)) == 200


@pytest.mark.parametrize(
    "around",
    [b"5;" + b"a" * 2_000_000 + b"\r\nhello\r\n", b"5\r\nhello\r\n0\r\nX: " + b"a" * 2_000_000],
    ids=["extension", "trailer"],
)
async def test_what_stands_around_a_body_is_bounded(port: int, around: bytes) -> None:
    """Megabytes of chunk extensions or trailers are refused, though the body itself is small."""
    head = b"POST /v1/completions HTTP/1.1\r\n" + HOST + b"Content-Type: application/json\r\n"
    answer = await exchange(port, head + b"Transfer-Encoding: chunked\r\n\r\n" + around)
    assert status_of(answer) in (413, 431)


async def test_a_body_that_breaks_off_into_nonsense(port: int) -> None:
    """A chunk that is none, behind a good one: 400, though the application was already waiting for the rest."""
    head = b"POST /v1/completions HTTP/1.1\r\n" + HOST + b"Content-Type: application/json\r\n"
    answer = await exchange(port, head + b"Transfer-Encoding: chunked\r\n\r\n3\r\n{  \r\nnonsense\r\n")
    assert status_of(answer) == 400 and error_of(answer)["code"] == "invalid_http"


@pytest.mark.parametrize("encoding", [b"gzip", b"deflate", b"br", b"zstd", b"gzip, gzip"])
async def test_an_encoded_body_is_not_opened(port: int, encoding: bytes) -> None:
    """No content encoding is accepted, so no small body can become a large one."""
    answer = await exchange(port, post(TEXT, b"\x1f\x8b" + b"\0" * 100, b"Content-Encoding: " + encoding))
    assert status_of(answer) == 415 and error_of(answer)["code"] == "unsupported_media_type"


async def test_slow_senders_hinder_nobody() -> None:
    """While 200 connections send a byte now and then, others are answered; then the slow ones are told and closed."""
    async with serving(options={"header_timeout": 1.5}) as served, listening(served) as port:
        slow = [asyncio.create_task(dripped(port, [bytes([byte]) for byte in GET], 0.2)) for _ in range(200)]
        await asyncio.sleep(0.3)
        good = await exchange(port, GET + b"Connection: close\r\n\r\n")
        assert status_of(good) == 200 and not any(task.done() for task in slow)
        assert {status_of(answer) for answer in await asyncio.gather(*slow)} == {408}


async def test_an_idle_connection_is_closed() -> None:
    """After an answer a connection is kept for the time that was set, and no longer."""
    async with serving(options={"keep_alive": 1}) as served, listening(served) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(GET + b"\r\n")
        await reader.readuntil(b"\r\n\r\n")
        began = time.monotonic()
        async with asyncio.timeout(20):
            await reader.read()
        assert time.monotonic() - began >= 0.9
        writer.close()


async def test_a_connection_in_use_is_not_closed() -> None:
    """A request that arrives while a busy server is about to close its idle connection is answered, not reset."""
    async with serving(options={"keep_alive": 1}) as served, listening(served) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(GET + b"\r\n")
        await reader.readuntil(b"\r\n\r\n")
        await reader.readuntil(b"}")
        loop, client = asyncio.get_running_loop(), writer.get_extra_info("socket")
        asking = GET + b"Connection: close\r\n\r\n"
        # Both are due when the loop wakes, so that the request arrives when the time to close has come already.
        loop.call_later(0.5, lambda: os.write(client.fileno(), asking))
        time.sleep(1.2 + KEEP_ALIVE_SLACK_S)
        async with asyncio.timeout(20):
            assert status_of(await reader.read()) == 200
        writer.close()


async def test_the_length_of_who_does_not_say() -> None:
    """An answer whose length nobody asked for ends after the number of tokens that was set."""
    async with serving(options={"max_tokens_default": 3}, reply="abcdef") as served:
        made = (await served.post(TEXT, text_body())).json()["choices"][0]
        assert (made["text"], made["finish_reason"]) == ("abc", "length")


async def test_the_deadline() -> None:
    """A request that takes longer than a request may is 504, or ends with an error event once its stream has begun."""
    async with serving(options={"server_timeout": 1.0}, reply="abc" * 100, step_s=0.05) as served:
        whole, stream = await asyncio.gather(served.post(TEXT, text_body()), served.post(TEXT, text_body(stream=True)))
    assert (whole.status_code, whole.json()["error"]["code"]) == (504, "deadline_exceeded")
    assert stream.status_code == 200 and "deadline_exceeded" in stream.text and "[DONE]" not in stream.text


async def test_refusals_are_quick() -> None:
    """A bad value is refused in a few milliseconds, 10 at the median on any machine, before the engine hears of it."""
    async with serving() as served, listening(served) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        request = post(CHAT, chat_body(temperature=9)).replace(b"Connection: close\r\n", b"")
        took: list[float] = []
        for _ in range(50):
            began = time.perf_counter()
            writer.write(request)
            await reader.readuntil(b"}}")
            took.append(time.perf_counter() - began)
        writer.close()
    assert sorted(took)[25] < 0.010, sorted(took)[25]


HOSTILE: dict[str, tuple[bytes, str]] = {
    "a million arrays": (b"[" * 1_000_000, "json_too_deep"),
    "a million arrays, closed": (b"[" * 500_000 + b"]" * 500_000, "json_too_deep"),
    "objects and arrays in turn": (b'{"a":[' * 100_000, "json_too_deep"),
    "100,000 unknown keys": (
        b"{" + b",".join(b'"k%d":1' % i for i in range(100_000)) + b"}",
        "missing_required_parameter",
    ),
    "a number of 5,000 digits": (b'{"model":"echo","prompt":"a","max_tokens":' + b"9" * 5000 + b"}", "invalid_json"),
    "a key of a megabyte": (b'{"model":"echo","prompt":"a","' + b"k" * 1_000_000 + b'":1}', ""),
    "12,000 bad items": (
        b'{"model":"echo","prompt":"a","stop":[' + b",".join([b"1"] * 12_000) + b"]}",
        "invalid_type",
    ),
    "a message per byte": (b'{"model":"echo","messages":[' + b",".join([b"{}"] * 5000) + b"]}", "unknown_parameter"),
}


@pytest.mark.parametrize("name", HOSTILE)
async def test_hostile_bodies_cost_little(name: str) -> None:
    """What is made to be costly is answered in well under a second, by no more than 8 KiB, one error for all."""
    body, code = HOSTILE[name]
    async with serving(options={"strict": code == "unknown_parameter"}) as served, listening(served) as port:
        began = time.perf_counter()
        answer = await exchange(port, post(TEXT, body))
        took = time.perf_counter() - began
    head, _, told = answer.partition(b"\r\n\r\n")
    assert len(told) <= 8192 and len(head) <= 8192 and took < 5.0
    if code:
        assert status_of(answer) == 400 and error_of(answer)["code"] == code
    else:
        assert status_of(answer) == 200 and b"x-openllm-ignored: " in head


@pytest.mark.parametrize("model", ["", "x" * 5000, "../../etc/passwd", "a\r\nb", "\x00", "é" * 100, "echo ", "ECHO"])
async def test_unknown_models_are_not_found(model: str) -> None:
    """404 whatever the name, 400 where it can be none; of a long one little comes back."""
    status, code = (404, "model_not_found") if 0 < len(model) <= 256 else (400, None)
    async with serving() as served:
        for route, body in ((CHAT, chat_body()), (TEXT, text_body()), (EMBED, {"input": "a"})):
            refused = await served.post(route, body | {"model": model})
            told = refused.json()["error"]
            assert (refused.status_code, told["param"]) == (status, "model"), (route, refused.text)
            assert code in (None, told["code"]) and len(refused.content) < 1000
