"""/openapi.json describes every route from the very types that parse it, and /docs shows it without asking anyone else."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from importlib import resources
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from tests.openllm.server.serving import serving

from openllm.access import Access
from openllm.server.app import all_operations
from openllm_core.options import ServerOptions
from openllm_core.schema import AgentRequest, ChatCompletionRequest, CompletionRequest, GenerateRequest
from openllm_core.serde import structure

REQUESTS = {
    "/v1/chat/completions": ChatCompletionRequest,
    "/v1/completions": CompletionRequest,
    "/v1/generate": GenerateRequest,
    "/v1/generate_stream": GenerateRequest,
    "/hf/agent": AgentRequest,
}


def references(value: Any) -> Iterator[str]:
    """Every $ref inside a document."""
    if isinstance(value, dict):
        if isinstance(value.get("$ref"), str):
            yield value["$ref"]
        for part in value.values():
            yield from references(part)
    elif isinstance(value, list):
        for part in value:
            yield from references(part)


async def document() -> dict[str, Any]:
    """The document as served."""
    async with serving(ready=False) as served:
        answer = await served.http.get("/openapi.json")
        assert answer.status_code == 200
        return answer.json()


async def test_the_document_says_where_unknown_fields_are_refused() -> None:
    """A body of our own routes has no further fields; one of OpenAI's may have, unless the server is strict."""
    own = ("GenerateRequest", "AgentRequest", "AdapterRequest")
    openai = ("ChatCompletionRequest", "ChatMessage", "CompletionRequest", "EmbeddingRequest", "FunctionSpec")
    async with serving(ready=False) as lenient, serving(ready=False, options={"strict": True}) as strict:
        found = [
            (await served.http.get("/openapi.json")).json()["components"]["schemas"] for served in (lenient, strict)
        ]
    told = {name: [schemas[name].get("additionalProperties", True) for schemas in found] for name in own + openai}
    assert told == {name: [name in openai, False] for name in own + openai}


async def test_a_key_is_asked_for_where_there_is_one() -> None:
    """With keys every route but the open ones names the scheme and its 401; without one, none does."""
    async with serving(ready=False) as bare, serving(ready=False, options={"api_key": ("k",)}) as locked:
        without = (await bare.http.get("/openapi.json")).json()
        needed = (await locked.http.get("/openapi.json", headers={"authorization": "Bearer k"})).json()
    assert "security" not in without and "securitySchemes" not in without["components"]
    assert not any("401" in told["responses"] or "security" in told for told in operations_of(without))
    assert needed["security"] == [{"key": []}] and "key" in needed["components"]["securitySchemes"]
    told = operations_of(needed)
    assert {("401" in one["responses"], one.get("security") == []) for one in told} == {(True, False), (False, True)}


async def test_the_priority_is_a_header_of_routes_that_wait_for_the_engine() -> None:
    """And of no other."""
    described = await document()
    told = {path: item.get("post", {}).get("parameters", []) for path, item in described["paths"].items()}
    assert [one["schema"]["enum"] for one in told["/v1/chat/completions"]] == [["interactive", "background"]]
    assert told["/v1/metadata"] == []


def operations_of(document: dict[str, Any]) -> list[dict[str, Any]]:
    """Every operation of every path."""
    return [operation for item in document["paths"].values() for operation in item.values()]


async def test_every_route_is_described_and_every_description_is_a_route() -> None:
    """The routes the app answers are exactly those of the document, method by method, and no operation id repeats."""
    described = await document()
    async with serving(ready=False) as served:
        operations = all_operations(
            served.composed.service, ServerOptions(), CollectorRegistry(), Access(ServerOptions())
        )
        told = {(path, method) for path, item in described["paths"].items() for method in item}
        assert told == {(o.path, m.lower()) for o in operations for m in o.methods}
        for path, method in told:
            answer = await served.http.request(method, path)
            assert answer.status_code not in (404, 405), (path, method)
    ids = [o["operationId"] for item in described["paths"].values() for o in item.values()]
    assert len(ids) == len(set(ids))


async def test_references_lead_somewhere() -> None:
    """Each $ref names a schema that is there; each schema has a description; each property of one, too."""
    described = await document()
    schemas = described["components"]["schemas"]
    for reference in references(described):
        assert reference.removeprefix("#/components/schemas/") in schemas
    for name, schema in schemas.items():
        assert schema["description"], name
        for field, facts in schema["properties"].items():
            assert facts.get("description"), f"{name}.{field}"


async def test_requests_answers_and_errors_are_described() -> None:
    """Bodies, events, answers and refusals of each route stand in the document, bounds included."""
    described = await document()
    schemas = described["components"]["schemas"]
    for path, cls in REQUESTS.items():
        operation = described["paths"][path]["post"]
        content = operation["requestBody"]["content"]["application/json"]
        assert content["schema"]["$ref"].endswith("/" + cls.__name__)
        structure(content["example"], cls)
        for status in ("400", "413", "415", "503", "504"):
            error = operation["responses"][status]["content"]["application/json"]["schema"]
            assert error["$ref"].endswith("/ErrorBody")
    assert schemas["ChatCompletionRequest"]["properties"]["temperature"]["maximum"] == 2
    stream = described["paths"]["/v1/chat/completions"]["post"]["responses"]["200"]["content"]["text/event-stream"]
    assert stream["x-event"]["$ref"].endswith("/ChatCompletionChunk")


async def test_examples_work() -> None:
    """What /docs offers to try succeeds as it stands."""
    async with serving(reply="x") as served:
        paths = (await served.http.get("/openapi.json")).json()["paths"]
        for path in REQUESTS:
            example = paths[path]["post"]["requestBody"]["content"]["application/json"]["example"]
            answer = await served.post(path, example)
            assert answer.status_code == 200, (path, answer.text)


@pytest.mark.parametrize("path", ["/docs", "/docs/docs.js", "/docs/docs.css"])
async def test_the_page_is_safe_and_self_contained(path: str) -> None:
    """The page's files carry a policy that forbids other hosts and inline code, and name no other host."""
    async with serving(ready=False, options={"api_key": ("k",)}) as served:
        answer = await served.http.get(path)
    assert answer.status_code == 200
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'") and "unsafe" not in policy and "*" not in policy
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert not re.findall(r"(?:https?:)?//[a-z]", re.sub(r"^\s*//.*$", "", answer.text, flags=re.M))
    if path == "/docs":
        assert "<script>" not in answer.text and not re.search(r"\son\w+=", answer.text)


def test_the_script_reads_nothing_as_html_and_finds_its_elements() -> None:
    """Text from the server never becomes markup, and each id the script looks for is on the page."""
    ui = resources.files("openllm.server") / "ui"
    script, page = (ui / "docs.js").read_text("utf-8"), (ui / "index.html").read_text("utf-8")
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|new Function", script)
    for name in re.findall(r'getElementById\("([^"]+)"\)', script):
        assert f'id="{name}"' in page, name
    assert 'lang="en"' in page and "<main" in page and '<label for="key">' in page


async def test_the_document_is_plain_json() -> None:
    """It survives a strict JSON parser."""
    async with serving(ready=False) as served:
        text = (await served.http.get("/openapi.json")).text
    json.loads(text, parse_constant=lambda name: pytest.fail(name))
