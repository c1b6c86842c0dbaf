"""`/v1/adapters`: which there are, which is the default, and loading and unloading of stored ones by name.

Whoever may ask may look; changes need the admin key once any key is set. A name is all a request can give: never a path, never
an address.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from openllm.access import require_admin, require_loading
from openllm.service import Service
from openllm_core.errors import InvalidRequest
from openllm_core.options import ServerOptions
from openllm_core.schema import AdapterList, AdapterRequest
from openllm_core.serde import dumps, structure

from ..body import JSON_TYPES, read_body, read_message
from ..operation import Endpoint, Operation

MAX_NAME_BYTES = 1024
REFUSALS = ("adapters_disabled", "adapter_not_found", "admin_key_needed")
LOADING = (*REFUSALS, "adapter_incompatible", "adapter_loading_forbidden")


def operations(service: Service, options: ServerOptions) -> list[Operation]:
    """The routes of this file."""
    adapters = service.adapters

    async def show(request: Request) -> ASGIApp:
        if request.method != "POST":
            return _answer(adapters.show())
        require_admin(options)
        return _answer(adapters.set_default(await _name(request, options)))

    def changing(change: Callable[[str], Coroutine[Any, Any, AdapterList]]) -> Endpoint:
        async def endpoint(request: Request) -> ASGIApp:
            require_loading(options, enabled=adapters.max_adapters > 0)
            message = await read_message(request, AdapterRequest, options)
            service.ready()
            return _answer(await change(message.adapter_name))

        return endpoint

    example = {"adapter_name": "my-adapter"}
    return [
        Operation(
            path="/v1/adapters",
            methods=("GET", "POST"),
            endpoint=show,
            summary="The adapters of this server; POST makes one the default of /v1/generate (JSON, or its bare name).",
            tag="Adapters",
            request=AdapterRequest,
            closed=True,
            response=AdapterList,
            errors=REFUSALS,
            example=example,
        ),
        Operation(
            path="/v1/adapters/load",
            methods=("POST",),
            endpoint=changing(adapters.load),
            summary="Load a stored adapter by name, or its newest version in place of the one that is loaded.",
            tag="Adapters",
            request=AdapterRequest,
            closed=True,
            response=AdapterList,
            errors=LOADING,
            example=example,
        ),
        Operation(
            path="/v1/adapters/unload",
            methods=("POST",),
            endpoint=changing(adapters.unload),
            summary="Serve an adapter no longer; requests that use it finish first.",
            tag="Adapters",
            request=AdapterRequest,
            closed=True,
            response=AdapterList,
            errors=LOADING,
            example=example,
        ),
    ]


async def _name(request: Request, options: ServerOptions) -> str:
    """The name in a body of JSON, or the body itself as 0.2's clients sent it.

    Raises:
        InvalidRequest: it holds no name, or a web page sent what needs no permission to be sent.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind in JSON_TYPES:
        return (await read_message(request, AdapterRequest, options)).adapter_name
    if "origin" in request.headers:
        raise InvalidRequest("Content-Type must be application/json here.", code="unsupported_media_type")
    text = (await read_body(request, options, MAX_NAME_BYTES)).decode("utf-8", "replace").strip().strip('"')
    return structure({"adapter_name": text}, AdapterRequest).adapter_name


def _answer(found: AdapterList) -> Response:
    return Response(dumps(found), media_type="application/json")
