"""What faults are injected with: raw connections that are left, cut or never read, streams that are followed to their end.

Used by the scenarios. Everything waits for what it needs to see, with limits far beyond what a busy machine takes.
"""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import time
from collections.abc import Awaitable, Callable
from typing import Any, Literal

import attrs
import httpx
from tests.e2e.conftest import ServerProcess

Leaving = Literal["fin", "rst", "half"]
PATIENCE_S = 60.0
"""Seconds after which something that did not happen is taken not to happen at all."""


@attrs.frozen
class Raw:
    """A connection of our own to a server's HTTP port."""

    sock: socket.socket

    @classmethod
    def open(cls, server: ServerProcess, *, receive_bytes: int | None = None) -> Raw:
        """Connect; `receive_bytes` makes the kernel keep no more than that for a client that does not read."""
        sock = socket.socket()
        if receive_bytes is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        sock.settimeout(PATIENCE_S)
        sock.connect(("127.0.0.1", int(server.url.rpartition(":")[2])))
        return cls(sock)

    def ask(self, path: str, body: dict[str, Any], *headers: str) -> None:
        """Send a POST."""
        data = json.dumps(body).encode()
        head = [f"POST {path} HTTP/1.1", "Host: localhost", "Content-Type: application/json", *headers]
        self.sock.sendall("\r\n".join([*head, f"Content-Length: {len(data)}", "", ""]).encode() + data)

    async def read(self, size: int = 65536) -> bytes:
        """Whatever has come, at least one byte unless the other side has closed."""
        return await asyncio.to_thread(self.sock.recv, size)

    def leave(self, how: Leaving) -> None:
        """Go: with a FIN, with an RST, or by closing the sending half alone."""
        if how == "half":
            self.sock.shutdown(socket.SHUT_WR)
            return
        if how == "rst":
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()


async def until(condition: Callable[[], bool | Awaitable[bool]], what: str, within_s: float = PATIENCE_S) -> float:
    """Poll until something is so; the seconds it took.

    Raises:
        AssertionError: it never was.
    """
    began = time.monotonic()
    while True:
        held = condition()
        if held if isinstance(held, bool) else await held:
            return time.monotonic() - began
        assert time.monotonic() - began < within_s, f"{what}: not within {within_s:g} s"
        await asyncio.sleep(0.002)


async def gauge(server: ServerProcess, name: str) -> float:
    """A metric of the server, without holding up our own clients."""
    return await asyncio.to_thread(server.metric, name)


async def idle(server: ServerProcess, within_s: float = PATIENCE_S) -> float:
    """Wait until nothing runs and nothing waits; the seconds it took."""

    async def nothing() -> bool:
        return not await gauge(server, "openllm_requests_running") and not await gauge(
            server, "openllm_requests_waiting"
        )

    return await until(nothing, "its slots are free", within_s)


@attrs.define
class Followed:
    """A stream read to its end.

    Attributes:
        text: what it brought.
        frames: its events, `[DONE]` not among them.
        done: whether `[DONE]` came.
        error: the error event, where one came.
        broken: the connection ended before the stream did.
        status: of the answer.
    """

    text: str = ""
    frames: int = 0
    done: bool = False
    error: dict[str, Any] | None = None
    broken: bool = False
    status: int = 0

    @property
    def told(self) -> bool:
        """Whether the client knows how it ended: exactly one of success, an error event and a status of its own."""
        return (self.done, self.error is not None or self.status >= 400).count(True) == 1 and not self.broken


async def follow(
    http: httpx.AsyncClient, path: str, body: dict[str, Any], begun: Callable[[], None] | None = None
) -> Followed:
    """Stream an answer to its end, whatever end that is; `begun` is called at the first event."""
    seen = Followed()
    try:
        async with http.stream("POST", path, json=body) as answer:
            seen.status = answer.status_code
            async for line in answer.aiter_lines():
                if answer.status_code >= 400 and line:
                    seen.error = json.loads(line)["error"]
                if not line.startswith("data: "):
                    continue
                if line == "data: [DONE]":
                    seen.done = True
                    continue
                event = json.loads(line.removeprefix("data: "))
                if "error" in event:
                    seen.error = event["error"]
                    continue
                seen.frames += 1
                seen.text += event["choices"][0]["text"]
                if begun is not None and seen.frames == 1:
                    begun()
    except httpx.TransportError:
        seen.broken = True
    return seen


async def streams(
    http: httpx.AsyncClient, path: str, bodies: list[dict[str, Any]]
) -> tuple[list[asyncio.Task[Followed]], asyncio.Event]:
    """Streams side by side, and the event that all of them have begun."""
    begun, left = asyncio.Event(), len(bodies)

    def one_begun() -> None:
        nonlocal left
        left -= 1
        if not left:
            begun.set()

    tasks = [asyncio.create_task(follow(http, path, body, one_begun)) for body in bodies]
    async with asyncio.timeout(PATIENCE_S):
        await begun.wait()
    return tasks, begun
