"""Connections that break at every single byte: of requests, whose server must shrug; of answers, whose client must notice."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import attrs
import pytest
import pytest_asyncio
from tests.enumerate.proxy import proxying
from tests.enumerate.requests import BODIES, CHANGING, constant, taken
from tests.enumerate.site import Site, site
from tests.enumerate.test_cancels import WAYS, restored, settled
from tests.openllm.rpc.calling import calling
from tests.openllm.server.serving import Served, exchange, listening, serving

from openllm_client import AsyncGrpcClient, AsyncHTTPClient, HTTPClient
from openllm_core.errors import ClientError

pytestmark = pytest.mark.asyncio(loop_scope="module")

AT_ONCE = 32
EVERY = int(os.environ.get("OPENLLM_TEST_CUTS_EVERY") or 0)
"""Bytes between two cuts; 0 = what the quick lane takes. `hatch run full` cuts at each."""
HANG_S = 30.0
THOROUGH = ("POST /v1/chat/completions stream", "POST /v1/generate", "POST /v1/embeddings", "GET /v1/models")
"""Requests that the quick lane cuts at every byte; the others differ in what is behind them."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def here(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Site]:
    """A site."""
    async with site(tmp_path_factory.mktemp("store")) as made:
        yield made


def request_of(way: str) -> bytes:
    """The bytes of an ordinary request."""
    method, path, body = taken(way)
    head = f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Request-Id: cut\r\nConnection: close\r\n"
    if way in BODIES:
        head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    return head.encode() + b"\r\n" + body


async def cut_request(port: int, sent: bytes, how: str) -> bytes:
    """Send part of a request, break the connection, and see what comes back."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    received = b""
    try:
        writer.write(sent)
        await writer.drain()
        if how == "reset":
            sock: socket.socket = writer.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        else:
            writer.write_eof()
            async with asyncio.timeout(HANG_S):
                with contextlib.suppress(ConnectionError):
                    received = await reader.read()
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
    return received


@pytest.mark.parametrize("how", ["half-closed", "reset"])
@pytest.mark.parametrize("way", WAYS)
async def test_requests(
    here: Site, way: str, how: str, caplog: pytest.LogCaptureFixture, record_property: Callable[[str, object], None]
):
    """However little of a request arrives, the server ends that connection soon, logs no fault of its own, holds no slot, and
    answers the next one as ever. What it says, if anything, is a refusal, or the answer to a request that was whole."""
    whole = request_of(way)
    unread = way == "POST /v1/metadata"  # its body is of no interest, and not waited for
    step = EVERY or (1 if how == "half-closed" and way in THOROUGH else 5)
    async with listening(here.served) as port:
        await restored(here)
        expected = constant((await exchange(port, whole)).partition(b"\r\n\r\n")[2])
        await restored(here)
        before = set(asyncio.all_tasks())
        places = asyncio.Semaphore(AT_ONCE)
        odd: list[str] = []

        async def cut(at: int) -> None:
            async with places:
                answer = await cut_request(port, whole[:at], how)
            complete = at == len(whole) or (unread and at >= whole.index(b"\r\n\r\n") + 4)
            if answer and not complete and not answer.startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 408 ")):
                odd.append(f"{at}: {answer[:200]!r}")

        with caplog.at_level(logging.WARNING, "openllm"):
            await asyncio.gather(*(cut(at) for at in range(0, len(whole), step)))
            await settled(here, before)
        record_property("cuts", len(range(0, len(whole), step)))
        assert odd == []
        assert [r.getMessage() for r in caplog.records if r.levelno >= logging.ERROR] == []
        await restored(here)
        again = await exchange(port, whole)
        if way not in CHANGING:
            assert constant(again.partition(b"\r\n\r\n")[2]) == expected


# -- answers ----------------------------------------------------------------------------------------------------------


@attrs.frozen
class Call:
    """A method of the clients.

    Attributes:
        ask: client -> the answer; all items where it streams.
        end: bytes of an answer behind which nothing is missing; empty: its last.
    """

    name: str
    arguments: tuple[Any, ...] = ()
    options: dict[str, Any] = attrs.field(factory=dict)
    end: bytes = b""


DONE = b"data: [DONE]\n\n"
CALLS = {
    "generate": Call("generate", ("Hi", {"max_new_tokens": 4})),
    "generate_stream": Call("generate_stream", ("Hi", {"max_new_tokens": 4}), end=DONE),
    "chat": Call("chat", ("Hi",), {"model": "echo", "max_tokens": 4, "logprobs": True}),
    "chat stream": Call("chat", ("Hi",), {"model": "echo", "max_tokens": 4, "stream": True}, end=DONE),
    "embed": Call("embed", (["one", "two"],)),
    "models": Call("models"),
    "metadata": Call("metadata"),
}


async def taken_by(client: Any, call: Call) -> list[Any]:
    """What a call gives, item by item; a blocking client runs in a thread."""
    method = getattr(client, call.name)
    if isinstance(client, HTTPClient):

        def blocking() -> list[Any]:
            answer = method(*call.arguments, **call.options)
            return list(answer) if hasattr(answer, "__next__") else [answer]

        return await asyncio.to_thread(blocking)
    answer = method(*call.arguments, **call.options)
    if isinstance(answer, Awaitable):
        answer = await answer
    return [item async for item in answer] if hasattr(answer, "__aiter__") else [answer]


class Replay:
    """A server that answers whatever it is asked with the same bytes, up to a place, and hangs up.

    Attributes:
        answer: the bytes.
        at: how many of them.
        one_by_one: in writes of one byte each.
    """

    def __init__(self, answer: bytes) -> None:
        self.answer = answer
        self.at = len(answer)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            head = await reader.readuntil(b"\r\n\r\n")
            length = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
            if length:
                await reader.readexactly(int(length[0].partition(b":")[2]))
            writer.write(self.answer[: self.at])
            await writer.drain()
        writer.close()


async def recorded(served: Served, call: Call) -> bytes:
    """The bytes of our server's answer to a call."""
    heard: list[bytes] = []
    async with listening(served) as port:

        async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", port)
            head = await reader.readuntil(b"\r\n\r\n")
            length = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
            body = await reader.readexactly(int(length[0].partition(b":")[2])) if length else b""
            far_writer.write(head.replace(b"keep-alive", b"close") + body)
            heard.append(await far_reader.read())
            writer.write(heard[-1])
            for end in (writer, far_writer):
                end.close()

        listener = await asyncio.start_server(carry, "127.0.0.1", 0)
        async with listener:
            address = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
            async with AsyncHTTPClient(address, max_retries=0) as client:
                await taken_by(client, call)
    return heard[-1]


@pytest.mark.parametrize("kind", [HTTPClient, AsyncHTTPClient], ids=["sync", "async"])
@pytest.mark.parametrize("name", CALLS)
async def test_answers(name: str, kind: Callable[..., Any], record_property: Callable[[str, object], None]):
    """An answer that is cut at any byte is an error of the client, never a result that looks whole; what came before the cut
    are the first pieces of the true answer."""
    call = CALLS[name]
    async with serving(embed=4) as served:
        answer = await recorded(served, call)
    complete = answer.index(call.end) + len(call.end) if call.end else len(answer)
    replay = Replay(answer)
    listener = await asyncio.start_server(replay.serve, "127.0.0.1", 0)
    async with listener:
        address = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
        client = kind(address, max_retries=0, timeout=HANG_S)
        whole = await taken_by(client, call)
        step = EVERY or (1 if kind is AsyncHTTPClient else 5)
        record_property("cuts", len(range(0, len(answer), step)))
        for at in range(0, len(answer), step):
            replay.at = at
            try:
                got = await taken_by(client, call)
            except ClientError as error:
                assert at < complete, f"byte {at} of {complete}: {error}"
            else:
                assert at >= complete and got == whole, f"cut at byte {at} of {complete}, and it looks whole: {got}"
        await client.aclose() if isinstance(client, AsyncHTTPClient) else client.close()


@pytest.mark.parametrize("name", ["chat", "chat stream", "generate_stream"])
async def test_grpc_answers(name: str, record_property: Callable[[str, object], None]):
    """The same over gRPC, by a proxy that cuts what the server sends."""
    call = CALLS[name]
    limit: list[int | None] = [None]
    async with calling() as called, proxying(called.port, lambda: (None, limit[0])) as proxy:

        async def asked() -> list[Any]:
            async with AsyncGrpcClient(f"127.0.0.1:{proxy.port}", max_retries=0, timeout=HANG_S) as client:
                return await taken_by(client, call)

        def plain(items: list[Any]) -> list[bytes]:
            return [constant(str(attrs.asdict(item)).replace("'", '"').replace(": ", ":").encode()) for item in items]

        whole = plain(await asked())
        length = proxy.carried
        assert length > 100
        cut = 0
        record_property("cuts", len(range(0, length, EVERY or 5)))
        for at in range(0, length, EVERY or 5):
            limit[0] = at
            try:
                got = await asked()
            except ClientError:
                cut += 1
            else:
                assert plain(got) == whole, f"cut at byte {at} of {length}, and it looks whole: {got}"
        assert cut > length // (EVERY or 5) // 2
        limit[0] = None
        assert plain(await asked()) == whole
        engine: Any = called.served.composed.engine
        async with asyncio.timeout(HANG_S):
            while engine.dispatcher.sequences:
                await asyncio.sleep(0.01)
