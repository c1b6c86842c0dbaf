"""`GET /openapi.json`, made from the list of operations, and `/docs`, the page that shows it and lets one try it.

The page's files are constant and need no key; what they fetch does. They ask no other host for anything.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from http import HTTPStatus
from importlib.metadata import version
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from openllm.access import PRIORITIES, PRIORITY_HEADER, Access
from openllm_core.errors import InvalidRequest
from openllm_core.schema import ErrorBody
from openllm_core.serde import dumps, json_schema

from ..constant import constant_file
from ..errors import status_of
from ..operation import Operation

EVERYWHERE = ("invalid_http", "invalid_api_key", "forbidden_host", "internal_error")
PAGE = {
    "/docs": ("index.html", "text/html; charset=utf-8"),
    "/docs/docs.js": ("docs.js", "text/javascript; charset=utf-8"),
    "/docs/docs.css": ("docs.css", "text/css; charset=utf-8"),
}
PRIORITY = {
    "name": PRIORITY_HEADER,
    "in": "header",
    "required": False,
    "description": "`background` lets the requests of others go first. Nothing goes before what the key allows.",
    "schema": {"type": "string", "enum": list(PRIORITIES)},
}


def operations(described: Sequence[Operation], access: Access) -> list[Operation]:
    """The routes of this file.

    Args:
        described: all other routes.
        access: whether it asks for a key is told.
    """
    made: list[Operation] = []
    document = b""

    async def openapi(request: Request) -> ASGIApp:
        nonlocal document
        document = document or dumps(openapi_document([*described, *made], keys=access.closed))
        return Response(document, media_type="application/json")

    made.append(
        Operation(
            path="/openapi.json",
            methods=("GET",),
            endpoint=openapi,
            summary="This description, in OpenAPI's format.",
            tag="Documentation",
            response=dict[str, Any],
        )
    )
    made.extend(
        Operation(
            path=path,
            methods=("GET",),
            endpoint=constant_file(name, kind),
            summary="The page that shows all routes and lets you try them."
            if path == "/docs"
            else f"Part of /docs: {name}.",
            tag="Documentation",
            media=kind.partition(";")[0],
            open=True,
        )
        for path, (name, kind) in PAGE.items()
    )
    return made


def openapi_document(described: Sequence[Operation], *, keys: bool) -> dict[str, Any]:
    """The OpenAPI 3.1 document of a list of operations.

    Args:
        keys: whether the server asks for one.
    """
    schemas: dict[str, Any] = {}
    paths: dict[str, Any] = {}
    for operation in described:
        item = paths.setdefault(operation.path, {})
        for method in operation.methods:
            item[method.lower()] = _describe(operation, method, schemas, keys=keys)
    document: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {
            "title": "OpenLLM",
            "version": version("openllm"),
            "description": "Errors have one shape on every route. X-Request-Id names a request in the server's log.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "paths": paths,
        "components": {"schemas": schemas},
    }
    if keys:
        document["security"] = [{"key": []}]
        document["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    return document


def _describe(operation: Operation, method: str, schemas: dict[str, Any], *, keys: bool) -> dict[str, Any]:
    described: dict[str, Any] = {
        "operationId": f"{method.lower()}_{operation.path.strip('/').replace('/', '_').replace('.', '_') or 'root'}",
        "summary": operation.summary,
        "tags": [operation.tag],
        "responses": _responses(operation, schemas, keys=keys),
    }
    if keys and operation.open:
        described["security"] = []
    if operation.admits:
        described["parameters"] = [PRIORITY]
    if operation.request is not None and method == "POST":
        content: dict[str, Any] = {"schema": json_schema(operation.request, schemas)}
        if operation.closed:
            _close(content["schema"], schemas)
        if operation.example is not None:
            content["example"] = dict(operation.example)
        described["requestBody"] = {"required": True, "content": {"application/json": content}}
    return described


def _close(schema: Any, schemas: dict[str, Any]) -> None:
    """Say of each class that a body is made of that it has no further fields."""
    for name in re.findall(r'"#/components/schemas/(\w+)"', dumps(schema).decode()):
        if "additionalProperties" not in schemas[name]:
            schemas[name]["additionalProperties"] = False
            _close(schemas[name], schemas)


def _event_schema(event: dict[str, Any], schemas: dict[str, Any]) -> dict[str, Any]:
    """One server-sent event, which is what readers of OpenAPI 3.1 take the schema of an event stream for."""
    payload = {"anyOf": [event, json_schema(ErrorBody, schemas)]}
    return {
        "type": "object",
        "description": "One event: `data` is JSON; `[DONE]` after success, and only then.",
        "properties": {
            "data": {
                "anyOf": [
                    {"const": "[DONE]"},
                    {"type": "string", "contentMediaType": "application/json", "contentSchema": payload},
                ]
            }
        },
        "required": ["data"],
    }


def _responses(operation: Operation, schemas: dict[str, Any], *, keys: bool) -> dict[str, Any]:
    content: dict[str, Any] = {}
    if operation.response is not None:
        content["application/json"] = {"schema": json_schema(operation.response, schemas)}
    if operation.event is not None:
        event = json_schema(operation.event, schemas)
        content["text/event-stream"] = {"schema": _event_schema(event, schemas), "x-event": event}
    elif operation.response is None:
        content[operation.media] = {"schema": {"type": "string"}}
    responses: dict[str, Any] = {"200": {"description": "Success.", "content": content}}
    error = {"application/json": {"schema": json_schema(ErrorBody, schemas)}}
    by_status: dict[int, list[str]] = {}
    for code in (*EVERYWHERE, *operation.errors):
        if code == "invalid_api_key" and (operation.open or not keys):
            continue
        status = 500 if code == "internal_error" else status_of(InvalidRequest("", code=code))[0]
        by_status.setdefault(status, []).append(code)
    for status, codes in sorted(by_status.items()):
        described = f"{HTTPStatus(status).phrase}: {', '.join(codes)}."
        responses[str(status)] = {"description": described, "content": error}
    return responses
