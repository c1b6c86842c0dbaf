"""`GET|POST /v1/metadata`: what is served. Body and content type are ignored; 0.3.5's clients send neither."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from openllm.service import Service
from openllm_core.options import ServerOptions
from openllm_core.schema import Metadata
from openllm_core.serde import dumps

from ..operation import Operation


def operations(service: Service, options: ServerOptions) -> list[Operation]:
    """The routes of this file."""

    async def metadata(request: Request) -> ASGIApp:
        return Response(dumps(service.metadata()), media_type="application/json")

    return [
        Operation(
            path="/v1/metadata",
            methods=("GET", "POST"),
            endpoint=metadata,
            summary="What is served, and the server's configuration.",
            tag="OpenLLM",
            response=Metadata,
        )
    ]
