"""What the published client of OpenLLM 0.3.5 sends, byte for byte as it was captured, and how it reads the answers.

Captured from the wheels on PyPI (openllm-client 0.3.5, openllm-core 0.3.5, bentoml 1.1.6, httpx 0.27) asking an echo server of
each family; `published/generate.json` has its bodies. The StableLM configuration of those wheels fails in the client itself
(it reads an attribute that is only there in a server), so it sends nothing.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.openllm.server.serving import Served, exchange, listening

from openllm.compose import build
from openllm.engine.supervisor import launch_embedded
from openllm_core.config.llm import LLMConfig
from openllm_core.options import EngineOptions, ServerOptions

BODIES: dict[str, str] = json.loads((Path(__file__).parent / "published" / "generate.json").read_text())
REPLY = "a nice day"
HEADERS = "accept: */*\r\naccept-encoding: gzip, deflate\r\nconnection: close\r\nuser-agent: python-httpx/0.27.2\r\n"
DESCRIPTOR = "x-bentoml-io-descriptor"


@asynccontextmanager
async def server(family: str) -> AsyncIterator[int]:
    """An echo server of a family, behind a loopback port."""
    made = build(
        EngineOptions(backend="echo", engine_arg={"reply": REPLY, "embed": 4}),
        ServerOptions(),
        launch=launch_embedded,
        config=LLMConfig.for_model(family),
    )
    await made.engine.start()
    try:
        await made.engine.wait_ready(30)
        async with listening(Served(made, None)) as port:  # type: ignore[arg-type]
            yield port
    finally:
        await made.service.aclose()


async def send(port: int, line: str, body: str = "", kind: str = "") -> tuple[int, bytes]:
    """One request as that client writes it; status and body of the answer."""
    head = f"{line} HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\n{HEADERS}"
    if line.startswith("POST"):
        head += f"content-type: {kind}\r\ncontent-length: {len(body.encode())}\r\n"
    answer = await exchange(port, f"{head}\r\n{body}".encode())
    status, _, rest = answer.partition(b"\r\n\r\n")
    return int(status.split()[1]), unchunked(rest) if b"chunked" in status.lower() else rest


def unchunked(data: bytes) -> bytes:
    """A body without its chunk sizes."""
    parts: list[bytes] = []
    while True:
        size, _, data = data.partition(b"\r\n")
        count = int(size, 16)
        if not count:
            return b"".join(parts)
        parts.append(data[:count])
        data = data[count + 2 :]


async def metadata(port: int) -> dict[str, Any]:
    """`POST /v1/metadata` as every property of that client sends it: no body, and a type of text."""
    status, body = await send(port, "POST /v1/metadata", "", "text/plain; charset=utf-8")
    assert status == 200
    found = json.loads(body)
    assert {"model_name", "model_id", "backend", "timeout", "configuration"} <= set(found)
    assert isinstance(found["supports_embeddings"], bool) and isinstance(found["supports_hf_agent"], bool)
    assert isinstance(json.loads(found["configuration"]), dict)
    return found


def reflected(document: dict[str, Any]) -> dict[str, tuple[str, str, str]]:
    """The calls that client makes of a description: name -> path, and the descriptors of body and answer."""
    assert document["info"]["title"] == document["info"]["title"].lower()
    calls: dict[str, tuple[str, str, str]] = {}
    for path, item in document["paths"].items():
        for method in item.values():
            if "Service APIs" in method.get("tags", ()):
                takes, gives = method["requestBody"][DESCRIPTOR], method["responses"]["200"][DESCRIPTOR]
                for descriptor in (takes, gives):
                    assert descriptor["id"] == "bentoml.io.Text" or set(descriptor["args"]) == {
                        "has_pydantic_model",
                        "has_json_encoder",
                    }
                assert method["description"]
                calls[method["x-bentoml-name"]] = (path, takes["id"], gives["id"])
    return calls


def processed(family: str, responses: Any) -> str:
    """The text of an answer as the post-processing of that family in 0.3.5 takes it out of `responses`."""
    if family == "chatglm":
        text, _history = responses
        return text
    if family == "dolly-v2":
        return responses[0]["generated_text"]
    return responses[0]


async def test_it_finds_its_calls() -> None:
    """Two looks at /readyz, then /docs.json, from which it makes the four calls that it knows."""
    async with server("llama") as port:
        for _ in range(2):
            assert (await send(port, "GET /readyz"))[0] == 200
        status, body = await send(port, "GET /docs.json")
        assert status == 200
        js, text = "bentoml.io.JSON", "bentoml.io.Text"
        assert reflected(json.loads(body)) == {
            "generate_v1": ("/v1/generate", js, js),
            "generate_stream_v1": ("/v1/generate_stream", js, text),
            "metadata_v1": ("/v1/metadata", text, js),
            "embeddings_v1": ("/v1/embeddings", js, js),
        }
        assert json.loads(body)["info"]["title"] == "llm-llama-service"


@pytest.mark.parametrize("family", sorted(BODIES))
async def test_a_query_of_each_family(family: str) -> None:
    """Its whole body is taken, and the answer has exactly two keys whose values that family's client can read."""
    async with server(family) as port:
        told = await metadata(port)
        assert told["model_name"] == family.replace("-", "_")
        status, body = await send(port, "POST /v1/generate", BODIES[family], "application/json")
        assert status == 200, body
        answer = json.loads(body)
        assert set(answer) == {"responses", "configuration"}
        assert processed(family, answer["responses"]).startswith(REPLY)
        asked = json.loads(BODIES[family])["llm_config"]
        assert answer["configuration"]["generation_config"]["temperature"] == asked["temperature"]
        assert set(json.loads(told["configuration"])) <= set(answer["configuration"])


async def test_it_embeds() -> None:
    """An array of texts is answered with an object of exactly the two keys that it unpacks."""
    async with server("llama") as port:
        status, body = await send(port, "POST /v1/embeddings", '["x","y"]', "application/json")
        assert status == 200
        answer = json.loads(body)
        assert set(answer) == {"embeddings", "num_tokens"} and len(answer["embeddings"]) == 2


async def test_what_it_gets_wrong_is_said() -> None:
    """An unknown field is a status that is not 200, which it raises with the body: the reason stands in it."""
    async with server("llama") as port:
        body = json.dumps({"prompt": "x", "llm_config": {"no_such": 1}, "adapter_name": None})
        status, answer = await send(port, "POST /v1/generate", body, "application/json")
        assert status == 400 and "no_such" in json.loads(answer)["error"]["message"]
        assert (await asyncio.wait_for(send(port, "POST /v1/generate", "{", "application/json"), 10))[0] == 400
