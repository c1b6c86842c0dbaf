"""An endpoint that answers by a script: pauses, errors and shapes as a test wants them. Runs in the test's event loop."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from openllm.bench.exchange import Address

Body = dict[str, Any]


def event(data: Any) -> bytes:
    """One server-sent event."""
    return b"data: " + (data if isinstance(data, bytes) else json.dumps(data).encode()) + b"\n\n"


def piece(text: str, **more: Any) -> Body:
    """A chunk of a chat stream with some text."""
    return {"object": "chat.completion.chunk", "choices": [{"index": 0, "delta": {"content": text}, **more}]}


def ending(tokens: int | None, prompt_tokens: int = 7) -> list[bytes]:
    """What stands at the end of a stream; usage where `tokens` is given."""
    usage = {"prompt_tokens": prompt_tokens, "completion_tokens": tokens}
    return [
        event({"choices": [{"index": 0, "delta": {}, "finish_reason": "length"}]}),
        *([event({"choices": [], "usage": usage})] if tokens is not None else []),
        event(b"[DONE]"),
    ]


class FakeEndpoint:
    """Attributes:
    pauses: seconds before each piece of an answer.
    status: of answers to requests; `refuse` names body fields that make it 400.
    answer: makes the events of an answer from the request's body, instead of the ordinary ones.
    cut: end the connection after the first piece.
    hold: answers wait for it.
    seen: bodies of the requests.
    wrote_at: moments at which pieces were written, per request.
    """

    def __init__(self) -> None:
        self.pauses: list[float] = [0.0, 0.0]
        self.status = 200
        self.refuse: set[str] = set()
        self.answer: Callable[[Body], list[bytes]] | None = None
        self.cut = False
        self.hold: asyncio.Event | None = None
        self.seen: list[Body] = []
        self.wrote_at: list[list[float]] = []
        self.in_flight = self.most_in_flight = 0
        self.address = Address("http://127.0.0.1:9")

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            length = next(
                (int(line[15:]) for line in head.splitlines() if line.lower().startswith("content-length")), 0
            )
            body = json.loads(await reader.readexactly(length)) if length else {}
            self.in_flight += 1
            self.most_in_flight = max(self.most_in_flight, self.in_flight)
            await self._answer(head.split()[1], body, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            return
        finally:
            self.in_flight -= 1
            writer.close()

    async def _answer(self, path: str, body: Body, writer: asyncio.StreamWriter) -> None:
        if path == "/v1/models":
            self._whole(writer, 200, {"data": [{"id": "fake"}]})
            return
        self.seen.append(body)
        refused = sorted(self.refuse & set(body))
        if refused:
            self._whole(writer, 400, {"error": {"message": f"unknown field {refused[0]}"}})
            return
        if self.status != 200:
            self._whole(writer, self.status, {"error": {"message": "no"}})
            return
        if self.hold is not None:
            await self.hold.wait()
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
        if self.answer is not None:
            self._chunk(writer, b"".join(self.answer(body)))
            self._chunk(writer, b"")
            return
        wrote: list[float] = []
        self.wrote_at.append(wrote)
        for pause in self.pauses:
            await asyncio.sleep(pause)
            wrote.append(time.perf_counter())
            self._chunk(writer, event(piece("word ")))
            if self.cut:
                return
        self._chunk(writer, b"".join(ending(len(self.pauses))))
        self._chunk(writer, b"")

    def _whole(self, writer: asyncio.StreamWriter, status: int, data: Any) -> None:
        body = json.dumps(data).encode()
        writer.write(b"HTTP/1.1 %d X\r\ncontent-length: %d\r\n\r\n%b" % (status, len(body), body))

    def _chunk(self, writer: asyncio.StreamWriter, data: bytes) -> None:
        writer.write(b"%x\r\n%b\r\n" % (len(data), data))


@asynccontextmanager
async def fake_endpoint() -> AsyncIterator[FakeEndpoint]:
    """One that listens on loopback."""
    fake = FakeEndpoint()
    server = await asyncio.start_server(fake._serve, "127.0.0.1", 0)
    fake.address = Address(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    try:
        yield fake
    finally:
        server.close()
