"""HTTP smuggling: of hundreds of generated forms none is executed, and the connection of each ends."""

from __future__ import annotations

import asyncio
from typing import Any

from starlette.types import Receive, Scope, Send
from tests.openllm.server.smuggling import HIDDEN, NEXT, forms
from uvicorn.server import ServerState

from openllm.server.protocol import LimitedProtocol, configure

AT_ONCE = 32


class Recorder:
    """An application that notes what reaches it, body and all, and answers 200."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, bytes]] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Note one request."""
        body = b""
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body += message.get("body", b"")
            if not message.get("more_body", False):
                break
        self.seen.append((scope["path"], body))
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})


async def sent(forms: list[tuple[str, bytes]]) -> list[tuple[str, bytes, list[Any]]]:
    """Each form on a connection of its own: (name, answer, what the application has seen of it)."""
    loop = asyncio.get_running_loop()
    slots = asyncio.Semaphore(AT_ONCE)

    async def one(name: str, data: bytes) -> tuple[str, bytes, list[Any]]:
        recorder = Recorder()
        state, config = ServerState(), configure(recorder)
        async with slots:
            listener = await loop.create_server(lambda: LimitedProtocol(config, state, {}, loop), "127.0.0.1", 0)
            reader, writer = await asyncio.open_connection("127.0.0.1", listener.sockets[0].getsockname()[1])
            writer.write(data)
            writer.write_eof()
            answer = b""
            try:
                async with asyncio.timeout(20):
                    answer = await reader.read()
            except ConnectionResetError:
                pass
            finally:
                writer.close()
                listener.close()
        return name, answer, recorder.seen

    return list(await asyncio.gather(*(one(name, data) for name, data in forms)))


async def test_no_form_is_executed() -> None:
    """Each form is refused with 400 or closed without a word; neither of its requests reaches the application."""
    made = list(forms())
    assert len(made) >= 300 and len({data for _, data in made}) == len(made)
    results = await sent(made)
    hidden = [name for name, _, seen in results if any(path == HIDDEN for path, _ in seen)]
    assert not hidden
    executed = [(name, seen) for name, _, seen in results if seen]
    assert not executed
    answers = {name: answer for name, answer, _ in results}
    odd = {name: answer[:60] for name, answer in answers.items() if not answer.startswith(b"HTTP/1.1 400 ")}
    assert not odd
    assert all(answer.count(b"HTTP/1.1 400 ") == 1 for answer in answers.values())


async def test_the_recorder_would_have_seen_them() -> None:
    """Well-formed requests behind one another do reach the application: the test above could fail."""
    first = b"POST /first HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"
    results = await sent([("good", first + NEXT)])
    assert results[0][2] == [("/first", b"hello"), (HIDDEN, b"")]
