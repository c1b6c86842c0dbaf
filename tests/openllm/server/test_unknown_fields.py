"""Fields that nobody knows: named in X-OpenLLM-Ignored on OpenAI's routes, refused there under --strict and elsewhere always.

Each body below has every object that its route reads; an unknown field is put into each of them in turn.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
from tests.openllm.server.serving import serving

from openllm.server.routes import chat, completions, embeddings, generate, hf_agent
from openllm_core.options import ServerOptions

NAME = "made_up"
FREE = ("parameters", "schema", "metadata", "logit_bias", "arguments", "json_schema.schema")
"""Objects whose keys are the caller's own."""

TOOL = {"type": "function", "function": {"name": "f", "description": "d", "parameters": {"type": "object"}}}
CALL = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
OPENAI: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {
        "model": "echo",
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "hi"}]},
            {"role": "assistant", "content": "", "tool_calls": [CALL]},
            {"role": "tool", "content": "t", "tool_call_id": "1"},
        ],
        "tools": [TOOL],
        "tool_choice": {"type": "function", "function": {"name": "f"}},
        "stream": True,
        "stream_options": {"include_usage": True},
        "max_tokens": 2,
    },
    "/v1/completions": {
        "model": "echo",
        "prompt": "hi",
        "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "object"}}},
        "stream": True,
        "stream_options": {"include_usage": True},
        "max_tokens": 2,
    },
    "/v1/embeddings": {"model": "echo", "input": ["hi"]},
}
OTHERS: dict[str, dict[str, Any]] = {
    "/v1/generate": {"prompt": "hi", "llm_config": {"generation_config": {}}},
    "/v1/generate_stream": {"prompt": "hi", "llm_config": {"generation_config": {}}},
    "/hf/agent": {"inputs": "hi", "parameters": {}},
}


def objects(value: Any, path: str = "") -> Iterator[str]:
    """Paths of the objects of a body, itself first."""
    if isinstance(value, dict):
        yield path
        for key, member in value.items():
            if key not in FREE or (path == "" and key == "parameters"):
                yield from objects(member, f"{path}.{key}" if path else key)
    elif isinstance(value, list):
        for index, member in enumerate(value):
            yield from objects(member, f"{path}[{index}]")


def with_unknown(body: dict[str, Any], path: str) -> dict[str, Any]:
    """The body with an unknown field in the object at `path`."""
    made = copy.deepcopy(body)
    found: Any = made
    for part in path.replace("[", ".[").split("."):
        if part:
            found = found[int(part[1:-1])] if part.startswith("[") else found[part]
    found[NAME] = 1
    return made


@pytest.mark.parametrize("route", OPENAI)
async def test_named_or_refused_on_openais_routes(route: str) -> None:
    """At every depth: served and named in the header, or refused with its path; without it nothing is named."""
    wrong: list[Any] = []
    how: dict[str, Any] = {"embed": 4, "call": "f({})"}
    async with serving(**how) as plain, serving(options={"strict": True}, **how) as strict:
        for path in objects(OPENAI[route]):
            body, where = with_unknown(OPENAI[route], path), f"{path}.{NAME}" if path else NAME
            served = await plain.post(route, body)
            if (served.status_code, served.headers.get("x-openllm-ignored")) != (200, where):
                wrong.append((where, served.status_code, dict(served.headers), served.text[:200]))
            refused = await strict.post(route, body)
            told = refused.json()["error"] if refused.status_code == 400 else {}
            if (told.get("code"), told.get("param")) != ("unknown_parameter", where):
                wrong.append((where, refused.status_code, refused.text[:200]))
        for server in (plain, strict):
            answer = await server.post(route, OPENAI[route])
            assert answer.status_code == 200 and "x-openllm-ignored" not in answer.headers, answer.text
    assert not wrong


@pytest.mark.parametrize("route", OTHERS)
async def test_refused_on_our_own_routes(route: str) -> None:
    """There an unknown field is always an error that names it."""
    wrong: list[Any] = []
    async with serving() as plain, serving(options={"strict": True}) as strict:
        for path in objects(OTHERS[route]):
            for server in (plain, strict):
                refused = await server.post(route, with_unknown(OTHERS[route], path))
                if refused.status_code != 400 or NAME not in str(refused.json()["error"]["param"]):
                    wrong.append((path, refused.status_code, refused.text[:200]))
    assert not wrong


async def test_every_route_with_a_body_is_here() -> None:
    """A new route that reads a request falls under one of the two."""
    async with serving(ready=False) as served:
        service, options = served.composed.service, ServerOptions()
        modules = (chat, completions, embeddings, generate, hf_agent)
        routes = {o.path for module in modules for o in module.operations(service, options)}
    assert routes == {*OPENAI, *OTHERS}
