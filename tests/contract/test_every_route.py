"""Each route of /openapi.json, called as its users call it: both clients where they have a method, else plain HTTP.

The tests are generated from the document, so a route without a contract here fails by its name.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import attrs
import httpx
import pytest
from starlette.types import Receive, Scope, Send
from tests.openllm.server.serving import URL, Served, listening, serving
from tests.tiny_adapters import blank_adapter

from openllm.compose import build
from openllm.serialisation.adapters import AdapterStore
from openllm_client import AsyncHTTPClient, HTTPClient
from openllm_core.errors import OpenLLMError
from openllm_core.options import EngineOptions, ServerOptions, StoreOptions

REPLY = "Grüße, world 🙂!"


async def described() -> dict[str, Any]:
    """/openapi.json as served."""
    composed = build(EngineOptions(backend="echo"), ServerOptions())
    async with httpx.AsyncClient(transport=httpx.ASGITransport(composed.app), base_url=URL) as http:
        return (await http.get("/openapi.json")).json()


def routes() -> list[str]:
    """ "METHOD /path" of every route."""
    document = asyncio.run(described())
    return [f"{method.upper()} {path}" for path, item in document["paths"].items() for method in item]


@attrs.frozen
class Caller:
    """One of the twins, called in one way: `await caller.take("chat", ...)`.

    Attributes:
        client: the synchronous client, which is called in a thread, or the asynchronous one.
        http: plain HTTP to the same server, for routes that no client method calls.
    """

    client: HTTPClient | AsyncHTTPClient
    http: httpx.AsyncClient

    async def take(self, name: str, *args: Any, **kwargs: Any) -> Any:
        """What a method answers; all items where it streams."""
        method = getattr(self.client, name)
        if isinstance(self.client, HTTPClient):
            return await asyncio.to_thread(lambda: self._whole(method(*args, **kwargs)))
        answer = method(*args, **kwargs)
        answer = await answer if inspect.isawaitable(answer) else answer
        return [item async for item in answer] if hasattr(answer, "__aiter__") else answer

    @staticmethod
    def _whole(answer: Any) -> Any:
        return list(answer) if hasattr(answer, "__next__") else answer


async def chat(caller: Caller) -> None:
    """One-shot and streamed answers are the same text."""
    answer = await caller.take("chat", "Hi")
    chunks = await caller.take("chat", "Hi", stream=True)
    streamed = "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
    assert answer.choices[0].message.content == streamed == REPLY


async def completions(caller: Caller) -> None:
    """No method of our clients: OpenAI's shape over plain HTTP, and OpenAI's package in the test of that name."""
    answer = await caller.http.post("/v1/completions", json={"model": "echo", "prompt": "Hi", "max_tokens": 50})
    assert answer.status_code == 200 and answer.json()["choices"][0]["text"] == REPLY


async def embeddings(caller: Caller) -> None:
    """The clients' array of texts, and OpenAI's request: the same vectors, of length one."""
    output = await caller.take("embed", ["first", "second"])
    one = await caller.take("embed", "second")
    body = {"model": "echo", "input": ["first", "second"]}
    answer = (await caller.http.post("/v1/embeddings", json=body)).json()
    assert [item["embedding"] for item in answer["data"]] == output.embeddings
    assert one.embeddings == output.embeddings[1:] and (one.num_tokens, output.num_tokens) == (6, 11)
    assert answer["usage"] == {"prompt_tokens": 11, "total_tokens": 11}


async def models(caller: Caller) -> None:
    """The served names."""
    assert [card.id for card in await caller.take("models")] == ["echo"]


async def generate(caller: Caller) -> None:
    """0.3.5's completion."""
    output = await caller.take("generate", "Hi", {"max_new_tokens": 50})
    assert output.responses == [REPLY]


async def generate_stream(caller: Caller) -> None:
    """The same, streamed."""
    frames = await caller.take("generate_stream", "Hi", {"max_new_tokens": 50})
    assert "".join(frame.text for frame in frames) == REPLY and frames[-1].finish_reason == "stop"


async def hf_agent(caller: Caller) -> None:
    """What the agents of transformers 4 post, over plain HTTP; our clients' agents speak chat completions with tools."""
    parameters = {"max_new_tokens": 200, "return_full_text": False, "stop": ["world"]}
    answer = await caller.http.post("/hf/agent", json={"inputs": "Hi", "parameters": parameters})
    assert (answer.status_code, answer.json()) == (200, [{"generated_text": "Grüße, "}])


async def get_metadata(caller: Caller) -> None:
    """As our clients ask."""
    metadata = await caller.take("metadata")
    assert (metadata.model_id, metadata.model_name, metadata.backend) == ("echo", "llama", "echo")


async def post_metadata(caller: Caller) -> None:
    """As 0.3.5's clients ask; the same answer."""
    asked = await caller.http.get("/v1/metadata"), await caller.http.post("/v1/metadata")
    assert asked[0].status_code == asked[1].status_code == 200 and asked[0].json() == asked[1].json()


async def adapters(caller: Caller) -> None:
    """A stored adapter is loaded, is the default for as long as it is told so, and is unloaded."""
    assert [card.name for card in (await caller.take("load_adapter", "poet")).adapters] == ["poet"]
    assert (await caller.take("set_default_adapter", "poet")).default == "poet"
    assert (await caller.take("adapters")).default == "poet"
    assert (await caller.take("generate", "Hi", {"max_new_tokens": 50})).responses == ["Roses are red"]
    assert (await caller.take("unload_adapter", "poet")).adapters == []


async def livez(caller: Caller) -> None:
    """Alive."""
    assert await caller.take("livez") is True


async def readyz(caller: Caller) -> None:
    """Ready, told as something that is true."""
    assert await caller.take("health")


async def healthz(caller: Caller) -> None:
    """0.3.5's name, for whoever probes it."""
    ours, theirs = await caller.http.get("/healthz"), await caller.http.get("/readyz")
    assert ours.status_code == 200 and ours.json() == theirs.json()


async def metrics(caller: Caller) -> None:
    """What a scraper reads: its own format, each sample under a described name."""
    from prometheus_client.parser import text_string_to_metric_families

    answer = await caller.http.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    names = {family.name for family in text_string_to_metric_families(answer.text)}
    assert {"openllm_http_requests", "openllm_requests_running"} <= names


async def usage(caller: Caller) -> None:
    """What was used so far, of whoever asks."""
    await caller.take("query", "hi")
    (own,) = (await caller.http.get("/v1/usage")).json()["data"]
    assert own["requests"] == 1 and own["completion_tokens"] > 0 and own["limits"] == {}


async def openapi(caller: Caller) -> None:
    """OpenAPI 3.1."""
    assert (await caller.http.get("/openapi.json")).json()["openapi"].startswith("3.1")


async def descriptors(caller: Caller) -> None:
    """What 0.3.5's client reads first; test_published_client holds all that it takes out of it."""
    document = (await caller.http.get("/docs.json")).json()
    assert document["paths"]["/v1/generate"]["post"]["x-bentoml-name"] == "generate_v1"


async def page(caller: Caller) -> None:
    """The page asks for nothing but what this server has."""
    for path, kind in (("/docs", "text/html"), ("/docs/docs.js", "text/javascript"), ("/docs/docs.css", "text/css")):
        answer = await caller.http.get(path)
        assert answer.status_code == 200 and answer.headers["content-type"].startswith(kind)


async def web_ui(caller: Caller) -> None:
    """The page people open first, at both its addresses, and its parts."""
    for path, kind in (
        ("/", "text/html"),
        ("/chat", "text/html"),
        ("/chat/app.js", "text/javascript"),
        ("/chat/app.css", "text/css"),
        ("/chat/licences.txt", "text/plain"),
    ):
        answer = await caller.http.get(path)
        assert answer.status_code == 200 and answer.headers["content-type"].startswith(kind)


CONTRACTS: dict[str, Callable[[Caller], Awaitable[None]]] = {
    "POST /v1/chat/completions": chat,
    "POST /v1/completions": completions,
    "POST /v1/embeddings": embeddings,
    "GET /v1/models": models,
    "POST /v1/generate": generate,
    "POST /v1/generate_stream": generate_stream,
    "POST /hf/agent": hf_agent,
    "GET /v1/metadata": get_metadata,
    "POST /v1/metadata": post_metadata,
    "GET /v1/adapters": adapters,
    "POST /v1/adapters": adapters,
    "POST /v1/adapters/load": adapters,
    "POST /v1/adapters/unload": adapters,
    "GET /livez": livez,
    "GET /readyz": readyz,
    "GET /healthz": healthz,
    "GET /metrics": metrics,
    "GET /v1/usage": usage,
    "GET /openapi.json": openapi,
    "GET /docs.json": descriptors,
    "GET /docs": page,
    "GET /docs/docs.js": page,
    "GET /docs/docs.css": page,
    "GET /": web_ui,
    "GET /chat": web_ui,
    "GET /chat/app.js": web_ui,
    "GET /chat/app.css": web_ui,
    "GET /chat/licences.txt": web_ui,
}


@attrs.define
class Recorder:
    """An ASGI app that notes which routes were called."""

    app: Any
    called: set[str] = attrs.field(factory=set)

    def refused(self, request_id: str, error: OpenLLMError) -> None:
        self.app.refused(request_id, error)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            self.called.add(f"{scope['method']} {scope['path']}")
        await self.app(scope, receive, send)


@pytest.mark.parametrize("kind", [HTTPClient, AsyncHTTPClient], ids=["sync", "async"])
@pytest.mark.parametrize("route", routes())
async def test_route(route: str, kind: type[HTTPClient] | type[AsyncHTTPClient], tmp_path: Path) -> None:
    """A route of the document keeps what its users count on, and the contract really calls it."""
    assert route in CONTRACTS, f"{route} has no contract test: write one above"
    store = StoreOptions(home=str(tmp_path))
    AdapterStore(store).add("poet", blank_adapter(tmp_path / "poet", echo="Roses are red"), "poet")
    loading = {"options": {"allow_adapter_load": True}, "engine": {"max_adapters": 1}, "store": store}
    async with serving(reply=REPLY, embed=4, **loading) as served:
        recorder = Recorder(served.composed.app)
        recorded = Served(attrs.evolve(served.composed, app=recorder), served.http)
        async with listening(recorded) as port:
            client = kind(f"http://127.0.0.1:{port}", max_retries=0)
            try:
                async with httpx.AsyncClient(base_url=client.address) as http:
                    await CONTRACTS[route](Caller(client, http))
            finally:
                await client.aclose() if isinstance(client, AsyncHTTPClient) else client.close()
    assert route in recorder.called


def test_no_contract_is_left_behind() -> None:
    """A route that went away takes its contract along."""
    assert set(CONTRACTS) <= set(routes())
