"""The server that the enumerators attack: the whole application over echo, asked in this process without a socket.

Used by every test of this folder that needs no real connection. A request here takes about a millisecond, so that tens of
thousands fit into a lane. Knows nothing of what is asked.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import orjson
from starlette.types import Message
from tests.openllm.server.serving import Served, serving
from tests.tiny_adapters import blank_adapter

from openllm.serialisation.adapters import AdapterStore
from openllm_core.options import StoreOptions

ADAPTER = "poet"
CONTEXT = 512
"""Tokens of the model: so few that an answer which goes on as long as it may still ends at once."""


@attrs.frozen
class Answered:
    """One answer, whole.

    Attributes:
        headers: names in lower case.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body, which must be JSON."""
        return orjson.loads(self.body)


@attrs.frozen
class Site:
    """A running application."""

    served: Served
    document: Mapping[str, Any]

    async def ask(self, method: str, path: str, body: bytes = b"", content_type: str = "application/json") -> Answered:
        """Send one request and wait for the whole answer."""
        return await ask(self.served.composed.app, method, path, body, content_type)


@asynccontextmanager
async def site(folder: Path, *, options: dict[str, Any] | None = None, **script: Any) -> AsyncIterator[Site]:
    """The application with everything there is to ask for: embeddings, a tool call, forms, one adapter.

    Args:
        folder: for the store that holds the adapter.
        options: further server options; with keys among them the adapter is not loaded.
        script: of echo, besides.
    """
    store = StoreOptions(home=str(folder))
    AdapterStore(store).add(ADAPTER, blank_adapter(folder / "given", echo="Roses are red"), ADAPTER)
    made: dict[str, Any] = {"embed": 4, "max_model_len": CONTEXT, "call": "look(1)"} | script
    async with serving(
        options={"allow_adapter_load": True, **(options or {})}, engine={"max_adapters": 2}, store=store, **made
    ) as served:
        app = served.composed.app
        keys = (options or {}).get("api_key")
        document = (await ask(app, "GET", "/openapi.json", key=keys[0] if keys else "")).json
        if not keys:
            loaded = await ask(app, "POST", "/v1/adapters/load", orjson.dumps({"adapter_name": ADAPTER}))
            assert loaded.status == 200, loaded.body
        yield Site(served, document)


def scope_of(method: str, path: str, content_type: str, length: int, key: str = "") -> dict[str, Any]:
    """An ASGI scope as the server's protocol makes it for a request from this machine."""
    headers = [(b"host", b"127.0.0.1:3000"), (b"content-type", content_type.encode("latin-1"))]
    headers.append((b"content-length", str(length).encode()))
    if key:
        headers.append((b"authorization", f"Bearer {key}".encode()))
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": headers,
        "client": ("127.0.0.1", 40000),
        "server": ("127.0.0.1", 3000),
        "state": {},
        "extensions": {},
    }


async def ask(
    app: Any, method: str, path: str, body: bytes = b"", content_type: str = "application/json", key: str = ""
) -> Answered:
    """One request to an ASGI application, its client staying until the answer is whole."""
    ended = asyncio.Event()
    sent: list[Message] = []
    parts = [body]

    async def receive() -> Message:
        if parts:
            return {"type": "http.request", "body": parts.pop(), "more_body": False}
        await ended.wait()
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        sent.append(message)

    try:
        await app(scope_of(method, path, content_type, len(body), key), receive, send)
    finally:
        ended.set()
    return answered(sent)


def answered(sent: list[Message]) -> Answered:
    """What the messages of an application say."""
    assert sent and sent[0]["type"] == "http.response.start", sent[:1]
    assert not sent[-1].get("more_body", False), "the answer never ended"
    headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in sent[0]["headers"]}
    return Answered(sent[0]["status"], headers, b"".join(m.get("body", b"") for m in sent[1:]))
