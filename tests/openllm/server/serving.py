"""A real app over the echo backend for tests: in process, or behind a loopback socket."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import attrs
import httpx
from uvicorn.server import ServerState

from openllm.compose import Composed, build
from openllm.engine.supervisor import Launcher, launch_embedded
from openllm.server.protocol import LimitedProtocol, configure
from openllm_core.options import EngineOptions, ServerOptions, StoreOptions

URL = "http://127.0.0.1"
OPEN = {
    "/livez",
    "/readyz",
    "/",
    "/chat",
    "/chat/app.js",
    "/chat/app.css",
    "/chat/licences.txt",
    "/docs",
    "/docs/docs.js",
    "/docs/docs.css",
}
"""Paths that need no key: liveness, readiness, and the constant files of the two pages."""


@attrs.define
class Served:
    """A running app: its parts, and an in-process HTTP client for it."""

    composed: Composed
    http: httpx.AsyncClient
    options: ServerOptions = attrs.Factory(ServerOptions)

    async def post(self, path: str, body: Any, **headers: str) -> httpx.Response:
        """POST JSON."""
        return await self.http.post(path, json=body, headers=headers)


def options_of(options: dict[str, Any]) -> ServerOptions:
    """Server options for a test; tuples may be given as lists."""
    return ServerOptions(**options)


@asynccontextmanager
async def serving(
    *,
    ready: bool = True,
    options: dict[str, Any] | None = None,
    launch: Launcher = launch_embedded,
    engine: dict[str, Any] | None = None,
    store: StoreOptions | None = None,
    **script: Any,
) -> AsyncIterator[Served]:
    """An app whose echo backend follows `script`, called without a socket; `engine` has further engine options."""
    asked = EngineOptions(backend="echo", engine_arg=script, **(engine or {}))
    asked_of_server = options_of(options or {})
    composed = build(asked, asked_of_server, launch=launch, store=store)
    transport = httpx.ASGITransport(composed.app)
    async with httpx.AsyncClient(transport=transport, base_url=URL) as http:
        await composed.engine.start()
        try:
            if ready:
                await composed.engine.wait_ready(30)
            yield Served(composed, http, asked_of_server)
        finally:
            await composed.service.aclose()


@asynccontextmanager
async def listening(served: Served, port: int = 0) -> AsyncIterator[int]:
    """The same app behind a loopback socket; yields the port, which is chosen where it is 0."""
    loop = asyncio.get_running_loop()
    state, config = ServerState(), configure(served.composed.app, served.options, served.composed.app.refused)
    listener = await loop.create_server(lambda: LimitedProtocol(config, state, {}, loop), "127.0.0.1", port)
    try:
        yield listener.sockets[0].getsockname()[1]
    finally:
        listener.close()
        for connection in list(state.connections):
            connection.transport.abort()
        for task in list(state.tasks):
            task.cancel()
        await asyncio.gather(*state.tasks, return_exceptions=True)


@asynccontextmanager
async def over_socket(served: Served) -> AsyncIterator[httpx.AsyncClient]:
    """An HTTP client of the same app behind a loopback socket."""
    async with listening(served) as port, httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=30) as http:
        yield http


def events(text: str) -> list[Any]:
    """Payloads of an SSE body, `[DONE]` as that text; comments are left out."""
    frames = [frame for frame in text.split("\n\n") if frame and not frame.startswith(":")]
    assert all(frame.startswith("data: ") and "\n" not in frame for frame in frames), text
    payloads = [frame.removeprefix("data: ") for frame in frames]
    return [payload if payload == "[DONE]" else json.loads(payload) for payload in payloads]


def text_body(prompt: str = "hi", **more: Any) -> dict[str, Any]:
    """A completion request for the echo model; needs no chat renderer, so it is the quicker one."""
    return {"model": "echo", "prompt": prompt, **more}


def chat_body(content: str = "hi", **more: Any) -> dict[str, Any]:
    """A chat request for the echo model."""
    return {"model": "echo", "messages": [{"role": "user", "content": content}], **more}


async def exchange(port: int, data: bytes, *, limit: int = 1 << 20, timeout_s: float = 20) -> bytes:
    """Send raw bytes, half-close nothing, and read until the server closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(data)
        async with asyncio.timeout(timeout_s):
            received = b""
            while len(received) < limit and (part := await reader.read(65536)):
                received += part
            return received
    finally:
        writer.close()
