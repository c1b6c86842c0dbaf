"""`GET /v1/models`, in OpenAI's shape."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from openllm.service import Service
from openllm_core.options import ServerOptions
from openllm_core.schema import ModelList
from openllm_core.serde import dumps

from ..operation import Operation


def operations(service: Service, options: ServerOptions) -> list[Operation]:
    """The routes of this file."""

    async def models(request: Request) -> ASGIApp:
        return Response(dumps(service.models()), media_type="application/json")

    return [
        Operation(
            path="/v1/models",
            methods=("GET",),
            endpoint=models,
            summary="Names that `model` takes.",
            tag="OpenAI",
            response=ModelList,
        )
    ]
