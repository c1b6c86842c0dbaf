"""One ordinary request for each route and each method: what the cuts and the cancels are tried on.

A route of /openapi.json or a method of the gRPC service that has no request here fails the test of completeness.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import orjson

from openllm_core.proto.openllm.v1 import openllm_pb2 as pb

from .site import ADAPTER

CHAT = {"model": "echo", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 4}
TOOLS = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}]
TEXT = {"model": "echo", "prompt": "hello", "max_tokens": 4}
STREAM = {"stream": True, "stream_options": {"include_usage": True}}
NAME = {"adapter_name": ADAPTER}

BODIES: Mapping[str, Any] = {
    "POST /v1/chat/completions": CHAT,
    "POST /v1/chat/completions stream": CHAT | STREAM,
    "POST /v1/chat/completions tools": CHAT | {"tools": TOOLS, "tool_choice": "required", "max_tokens": 64},
    "POST /v1/completions": TEXT,
    "POST /v1/completions stream": TEXT | STREAM,
    "POST /v1/completions two prompts": TEXT | {"prompt": ["one", "two"], "n": 2, "temperature": 1.0, "seed": 1},
    "POST /v1/completions two prompts stream": TEXT | STREAM | {"prompt": ["one", "two"], "n": 2},
    "POST /v1/completions adapter": TEXT | {"model": ADAPTER},
    "POST /v1/completions form": TEXT | {"guided_choice": ["yes", "no"]},
    "POST /v1/embeddings": {"model": "echo", "input": ["one", "two"]},
    "POST /v1/embeddings bare": ["one", "two"],
    "POST /v1/generate": {"prompt": "hello", "llm_config": {"max_new_tokens": 4}, "detail": True},
    "POST /v1/generate_stream": {"prompt": "hello", "llm_config": {"max_new_tokens": 4}},
    "POST /hf/agent": {"inputs": "hello", "parameters": {"max_new_tokens": 4}},
    "POST /v1/metadata": {},
    "POST /v1/adapters": NAME,
    "POST /v1/adapters/load": NAME,
    "POST /v1/adapters/unload": NAME,
}
"""METHOD /path [form] -> body; a GET needs none."""

MESSAGES: Mapping[str, Any] = {
    "Generate": pb.GenerateRequest(prompt="hello", sampling=pb.SamplingParams(max_tokens=4)),
    "GenerateStream": pb.GenerateRequest(prompt="hello", sampling=pb.SamplingParams(max_tokens=4)),
    "Chat": pb.ChatRequest(
        messages=[pb.ChatMessage(role="user", content="hi")], sampling=pb.SamplingParams(max_tokens=4)
    ),
    "ChatStream": pb.ChatRequest(
        messages=[pb.ChatMessage(role="user", content="hi")], sampling=pb.SamplingParams(max_tokens=4)
    ),
    "Embed": pb.EmbedRequest(texts=["one", "two"]),
    "Metadata": pb.MetadataRequest(),
    "ListModels": pb.ListModelsRequest(),
    "ListAdapters": pb.ListAdaptersRequest(),
    "SetDefaultAdapter": pb.AdapterRequest(adapter_name=ADAPTER),
    "LoadAdapter": pb.AdapterRequest(adapter_name=ADAPTER),
    "UnloadAdapter": pb.AdapterRequest(adapter_name=ADAPTER),
}
"""Method -> message."""

CHANGING = ("GET /metrics", "GET /v1/usage")
"""Routes that count what was asked, and so never answer the same twice."""
_VARYING = re.compile(
    rb'"(?:id|created|request_id)":(?:"[^"]*"|\d+)|(?:chatcmpl|cmpl|gen|call)[-_][0-9a-f]{16,}|"took[^,]*'
)


def taken(way: str) -> tuple[str, str, bytes]:
    """Method, path and body of one way."""
    method, path, *_ = way.split(" ")
    return method, path, orjson.dumps(BODIES[way]) if way in BODIES else b""


def constant(body: bytes) -> bytes:
    """An answer without what differs each time: ids and times."""
    return _VARYING.sub(b"*", body)
