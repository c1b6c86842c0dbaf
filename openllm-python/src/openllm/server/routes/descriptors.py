"""`GET /docs.json`: the description that clients of OpenLLM 0.3.5 read before their first call.

They make their calls from it: the path to post to, and by the descriptors of BentoML 1.1 how a body is written and read.
The facts are those clients' own; what else the document says comes from the list of operations.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

import attrs
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from openllm.service import Service
from openllm_core.serde import dumps

from ..operation import Operation

JSON = {"id": "bentoml.io.JSON", "args": {"has_pydantic_model": False, "has_json_encoder": False}}
TEXT = {"id": "bentoml.io.Text"}
MEDIA = {"bentoml.io.JSON": "application/json", "bentoml.io.Text": "text/plain"}


@attrs.frozen
class Call:
    """One call that such a client may make: its name there, and the descriptors of its body and answer."""

    name: str
    takes: Mapping[str, Any]
    gives: Mapping[str, Any]


CALLS = {
    "/v1/generate": Call("generate_v1", JSON, JSON),
    "/v1/generate_stream": Call("generate_stream_v1", JSON, TEXT),
    "/v1/metadata": Call("metadata_v1", TEXT, JSON),
    "/v1/embeddings": Call("embeddings_v1", JSON, JSON),
}


def operations(service: Service, described: Sequence[Operation]) -> list[Operation]:
    """The routes of this file.

    Args:
        described: the other routes; those that 0.3.5 had get their calls.
    """

    async def docs(request: Request) -> ASGIApp:
        return Response(dumps(legacy_document(service, described)), media_type="application/json")

    return [
        Operation(
            path="/docs.json",
            methods=("GET",),
            endpoint=docs,
            summary="The description that clients of OpenLLM 0.3.5 read first; /openapi.json is the whole one.",
            tag="Documentation",
            response=dict[str, Any],
        )
    ]


def legacy_document(service: Service, described: Sequence[Operation]) -> dict[str, Any]:
    """The OpenAPI 3.0.2 document of the routes that 0.3.5 had."""
    metadata = service.metadata()
    name = f"llm-{metadata.model_name.replace('_', '-')}-service"
    config = service.model.config.model_dump()
    paths: dict[str, Any] = {}
    for operation in described:
        call = CALLS.get(operation.path)
        if call is not None:
            paths[operation.path] = {"post": _service_api(name, operation, call, config)}
        elif operation.tag == "Health":
            paths[operation.path] = {"get": _infrastructure(operation)}
    return {
        "openapi": "3.0.2",
        "info": {
            "title": name,
            "version": version("openllm"),
            "description": f"OpenLLM serves {metadata.model_id}. This page is for clients of OpenLLM 0.3.5.",
        },
        "servers": [{"url": "."}],
        "paths": paths,
        "components": {"schemas": {}},
    }


def _service_api(service: str, operation: Operation, call: Call, config: Mapping[str, Any]) -> dict[str, Any]:
    example = None
    if operation.path == "/v1/generate":
        example = {**(operation.example or {}), "llm_config": config, "adapter_name": None}
    return {
        "tags": ["Service APIs"],
        "x-bentoml-name": call.name,
        "operationId": f"{service}__{call.name}",
        "summary": operation.summary,
        "description": operation.summary,
        "requestBody": {
            "required": True,
            "x-bentoml-io-descriptor": call.takes,
            "content": _content(call.takes, example or operation.example),
        },
        "responses": {
            "200": {
                "description": "Success.",
                "x-bentoml-io-descriptor": call.gives,
                "content": _content(call.gives, None),
            }
        },
    }


def _content(descriptor: Mapping[str, Any], example: Any) -> dict[str, Any]:
    kind = descriptor["id"]
    described: dict[str, Any] = {"schema": {"type": "string"} if kind == TEXT["id"] else {}}
    if example is not None and kind == JSON["id"]:
        described["example"] = example
    return {MEDIA[kind]: described}


def _infrastructure(operation: Operation) -> dict[str, Any]:
    return {
        "tags": ["Infrastructure"],
        "description": operation.summary,
        "responses": {"200": {"description": "Success."}},
    }
