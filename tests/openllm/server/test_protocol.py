"""The wire: limits on request line, headers and time, malformed HTTP, keep-alive, refused bodies. Raw sockets."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from tests.openllm.server.serving import Served, chat_body, exchange, listening, serving
from uvicorn.server import ServerState

from openllm.server.protocol import LimitedProtocol, configure

HOST = b"Host: 127.0.0.1\r\n"
GET = b"GET /livez HTTP/1.1\r\n" + HOST


def status_of(answer: bytes) -> int:
    """Status of the first answer."""
    assert answer.startswith(b"HTTP/1.1 "), answer[:200]
    return int(answer[9:12])


def error_of(answer: bytes) -> dict[str, str]:
    """Error object of an answer in our shape."""
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"content-type: application/json" in head.lower() and b"x-request-id: " in head.lower()
    return json.loads(body)["error"]


def id_of(answer: bytes) -> str:
    """The id of the request that the client was told."""
    return next(line[14:].decode() for line in answer.split(b"\r\n") if line.startswith(b"x-request-id: "))


@asynccontextmanager
async def connected(
    served: Served,
) -> AsyncIterator[tuple[LimitedProtocol, asyncio.StreamReader, asyncio.StreamWriter]]:
    """One connection from both its ends."""
    loop = asyncio.get_running_loop()
    here, there = socket.socketpair()
    config = configure(served.composed.app, served.options, served.composed.app.refused)
    _, protocol = await loop.connect_accepted_socket(lambda: LimitedProtocol(config, ServerState(), {}, loop), there)
    reader, writer = await asyncio.open_connection(sock=here)
    yield protocol, reader, writer
    writer.close()


@pytest.mark.parametrize(
    ("data", "status", "code"),
    [
        (b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\n" + HOST + b"\r\n", 414, "uri_too_long"),
        (GET + b"X: " + b"a" * 40000 + b"\r\n\r\n", 431, "headers_too_large"),
        (GET + b"X: " + b"a" * 100_000, 431, "headers_too_large"),
        (GET + b"a" * 100_000, 431, "headers_too_large"),
        (GET + b"".join(b"X-%d: a\r\n" % i for i in range(100)) + b"\r\n", 431, "headers_too_large"),
        (GET + b"".join(b"X-%d: %s\r\n" % (i, b"a" * 500) for i in range(90)) + b"\r\n", 431, "headers_too_large"),
        (b"GET /livez HTTP/1.1\r\n\r\n", 400, "invalid_http"),
        (GET + HOST + b"\r\n", 400, "invalid_http"),
        (b"NONSENSE\r\n\r\n", 400, "invalid_http"),
        (b"GET /livez HTTP/9.9\r\n" + HOST + b"\r\n", 400, "invalid_http"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400, "invalid_http"),
        (GET + b"Bad Header: x\r\n\r\n", 400, "invalid_http"),
        (
            b"POST /v1/metadata HTTP/1.1\r\n" + HOST + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nab",
            400,
            "invalid_http",
        ),
        (b"POST /v1/metadata HTTP/1.1\r\n" + HOST + b"Content-Length: -1\r\n\r\n", 400, "invalid_http"),
        (
            b"POST /v1/metadata HTTP/1.1\r\n"
            + HOST
            + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            400,
            "invalid_http",
        ),
    ],
)
async def test_refused_on_the_wire(data: bytes, status: int, code: str) -> None:
    """Each is answered once, in the one shape, and the connection is closed; what follows is never run."""
    async with serving(ready=False) as served, listening(served) as port:
        answer = await exchange(
            port, data + b"GET /v1/models HTTP/1.1\r\n" + HOST + b"\r\n" if data.endswith(b"\r\n\r\n") else data
        )
    assert status_of(answer) == status
    assert error_of(answer)["code"] == code
    assert answer.count(b"HTTP/1.1 ") == 1 and b"connection: close" in answer


async def test_just_within_the_limits() -> None:
    """99 headers and a long path are fine."""
    async with serving(ready=False) as served, listening(served) as port:
        data = b"GET /livez?" + b"a" * 8000 + b" HTTP/1.1\r\n" + HOST
        data += b"".join(b"X-%d: %s\r\n" % (i, b"b" * 250) for i in range(98)) + b"Connection: close\r\n\r\n"
        assert status_of(await exchange(port, data)) == 200


async def test_headers_that_do_not_arrive() -> None:
    """A request whose headers take too long is 408; a connection that says nothing is closed without a word."""
    options = {"header_timeout": 0.2}
    async with serving(ready=False, options=options) as served, listening(served) as port:
        slow, silent = await asyncio.gather(exchange(port, GET + b"X: a"), exchange(port, b""))
    assert status_of(slow) == 408 and error_of(slow)["code"] == "request_timeout"
    assert silent == b""


async def test_a_request_that_meets_the_end_of_the_header_timer_is_served() -> None:
    """It is in the socket when the time is up, of which a busy server hears late: it is read first, and has its own time."""
    async with serving(ready=False) as served, connected(served) as (protocol, reader, writer):
        writer.write(GET + b"X: ")
        protocol._on_header_timeout()
        await asyncio.sleep(0.05)
        writer.write(b"a\r\nConnection: close\r\n\r\n")
        assert status_of(await reader.read()) == 200


async def test_what_never_became_a_request_is_logged_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    """One line with status, code and the id that the client was told, and one more of a status for /metrics."""
    caplog.set_level(logging.INFO, "openllm.server")
    late = {"header_timeout": 0.2, "max_body": 4096}
    async with serving(ready=False, options=late) as served, listening(served) as port:
        head = b"POST /v1/completions HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n"
        answers = [
            await exchange(port, b"NONSENSE\r\n\r\n"),
            await exchange(port, b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\n" + HOST + b"\r\n"),
            await exchange(port, GET + b"X: " + b"a" * 40000 + b"\r\n\r\n"),
            await exchange(port, GET + b"X: a"),
        ]
        broken = await exchange(port, head + b"2\r\n{}nonsense")
        text = (await served.http.get("/metrics")).text
    told = [(status_of(answer), error_of(answer)["code"], id_of(answer)) for answer in answers]
    assert [status for status, *_ in told] == [400, 414, 431, 408]
    lines = [record.getMessage() for record in caplog.records if record.name == "openllm.server"]
    for status, code, request_id in told:
        (line,) = [line for line in lines if request_id in line]
        assert line.startswith(f"other: {status} ") and code in line
        assert f'openllm_http_requests_total{{route="other",status="{status}"}} 1.0' in text
    (line,) = [line for line in lines if id_of(broken) in line]
    assert line.startswith("POST /v1/completions: 400 ") and error_of(broken)["code"] in line


async def test_slow_headers_within_the_limit_are_served() -> None:
    """Headers in many small pieces are one request."""
    async with serving(ready=False) as served, listening(served) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for byte in GET + b"Connection: close\r\n\r\n":
            writer.write(bytes([byte]))
            await asyncio.sleep(0.001)
        assert status_of(await reader.read()) == 200
        writer.close()


async def test_keep_alive_and_pipelining() -> None:
    """Several requests share a connection, one after the other or sent at once, and are answered in order."""
    async with serving(ready=False) as served, listening(served) as port:
        data = GET + b"\r\n" + b"GET /v1/models HTTP/1.1\r\n" + HOST + b"\r\n" + GET + b"Connection: close\r\n\r\n"
        answer = await exchange(port, data)
    assert answer.count(b"HTTP/1.1 200 OK") == 3
    assert answer.index(b'"alive"') < answer.index(b'"list"') < answer.rindex(b'"alive"')


async def test_a_refused_body_does_not_hide_the_refusal() -> None:
    """A client that sends far more than it may still reads the 413: the rest is thrown away before closing."""
    async with serving(ready=False, options={"max_body": 1024}) as served, listening(served) as port:
        head = b"POST /v1/chat/completions HTTP/1.1\r\n" + HOST + b"Content-Type: application/json\r\n"
        announced = await exchange(port, head + b"Content-Length: 3000000\r\n\r\n" + b" " * 3_000_000)
        chunk = b"%x\r\n%b\r\n" % (65536, b" " * 65536)
        unannounced = await exchange(port, head + b"Transfer-Encoding: chunked\r\n\r\n" + chunk * 40 + b"0\r\n\r\n")
    for answer in (announced, unannounced):
        assert status_of(answer) == 413 and error_of(answer)["code"] == "content_too_large"
        assert b"connection: close" in answer


async def test_expect_continue() -> None:
    """A body that will be refused is not asked for; one that will be read is."""
    async with serving(ready=False, options={"max_body": 1024}) as served, listening(served) as port:
        head = (
            b"POST /v1/chat/completions HTTP/1.1\r\n"
            + HOST
            + b"Content-Type: application/json\r\nExpect: 100-continue\r\n"
        )
        refused = await exchange(port, head + b"Content-Length: 3000000\r\n\r\n")
        assert status_of(refused) == 413
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(head + b"Content-Length: 2\r\nConnection: close\r\n\r\n")
        assert (await reader.readline()).startswith(b"HTTP/1.1 100")
        await reader.readline()
        writer.write(b"{}")
        assert status_of(await reader.read()) == 400
        writer.close()


async def test_too_many_connections() -> None:
    """Past the cap a connection is told so and closed at once; those there already are served."""
    async with serving(ready=False, options={"max_connections": 2}) as served, listening(served) as port:
        first = await asyncio.open_connection("127.0.0.1", port)
        second = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.sleep(0.05)
        refused = await exchange(port, b"")
        assert status_of(refused) == 503 and error_of(refused)["code"] == "server_is_overloaded"
        assert b"retry-after: " in refused and b"connection: close" in refused
        first[1].write(GET + b"Connection: close\r\n\r\n")
        assert status_of(await first[0].read()) == 200
        for _, writer in (first, second):
            writer.close()


async def test_http_1_0_gets_a_whole_answer() -> None:
    """An HTTP/1.0 client gets its stream and the end of the connection as its end."""
    async with serving(reply="abc") as served, listening(served) as port:
        body = json.dumps(chat_body(stream=True)).encode()
        head = b"POST /v1/chat/completions HTTP/1.0\r\n" + HOST + b"Content-Type: application/json\r\n"
        answer = await exchange(port, head + b"Content-Length: %d\r\n\r\n" % len(body) + body)
    assert status_of(answer) == 200 and b"data: [DONE]" in answer
