"""`GET /metrics`: everything counted, as Prometheus reads it."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, generate_latest
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from ..operation import Operation

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def operations(registry: CollectorRegistry) -> list[Operation]:
    """The routes of this file."""

    async def metrics(request: Request) -> ASGIApp:
        return Response(generate_latest(registry), headers={"content-type": CONTENT_TYPE})

    return [
        Operation(
            path="/metrics",
            methods=("GET",),
            endpoint=metrics,
            summary="Requests, tokens, latencies, queue and batch size, for Prometheus.",
            tag="Health",
            media="text/plain",
        )
    ]
