"""`/livez`, `/readyz`, `/healthz`. Ready means that a real token was generated; alive, that the process answers."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from openllm.service import Service
from openllm_core.options import ServerOptions
from openllm_core.schema import Health
from openllm_core.serde import dumps, unstructure

from ..operation import Operation

NOT_READY = ("engine_loading", "engine_unavailable", "shutting_down", "queue_full")


def operations(service: Service, options: ServerOptions) -> list[Operation]:
    """The routes of this file."""

    async def livez(request: Request) -> ASGIApp:
        return Response(_brief(Health(status="alive")), media_type="application/json")

    async def readyz(request: Request) -> ASGIApp:
        return Response(_brief(service.ready()), media_type="application/json")

    return [
        Operation(
            path="/livez",
            methods=("GET",),
            endpoint=livez,
            summary="The process answers; says nothing of the model.",
            tag="Health",
            response=Health,
            open=True,
        ),
        Operation(
            path="/readyz",
            methods=("GET",),
            endpoint=readyz,
            summary="The model answers. While it does not, the error says what it is doing.",
            tag="Health",
            response=Health,
            errors=NOT_READY,
            open=True,
        ),
        Operation(
            path="/healthz",
            methods=("GET",),
            endpoint=readyz,
            summary="The same as /readyz, behind the key.",
            tag="Health",
            response=Health,
            errors=NOT_READY,
        ),
    ]


def _brief(health: Health) -> bytes:
    """Without what there is nothing to say of."""
    return dumps(unstructure(health, omit_none=True))
