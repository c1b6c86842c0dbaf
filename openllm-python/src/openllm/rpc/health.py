"""gRPC's standard health service as a mirror of /readyz: SERVING while the model answers, else NOT_SERVING.

Made by `server`. A check asks the service at that moment; watchers are told when `watch` sees a change.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from grpc_health.v1 import health, health_pb2

from openllm.service import Service
from openllm_core.errors import OpenLLMError

if TYPE_CHECKING:
    from .untyped import Context

LOOK_S = 0.25
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


class Health(health.aio.HealthServicer):
    """Health of a server: the same of all its services.

    Args:
        names: of the services; the server as a whole is "".
    """

    def __init__(self, service: Service, names: tuple[str, ...]) -> None:
        super().__init__()
        self._service = service
        self._names = ("", *names)
        self._told: object = None

    async def refresh(self) -> None:
        """Take over what holds now."""
        try:
            self._service.ready()
            status = SERVING
        except OpenLLMError:
            status = NOT_SERVING
        if status != self._told:
            self._told = status
            for name in self._names:
                await self.set(name, status)

    async def Check(  # noqa: N802
        self, request: health_pb2.HealthCheckRequest, context: Context
    ) -> health_pb2.HealthCheckResponse:
        """What holds now; an unknown name is NOT_FOUND."""
        await self.refresh()
        return await super().Check(request, context)

    async def watch(self) -> None:
        """Tell watchers of changes, until cancelled."""
        while True:
            await self.refresh()
            await asyncio.sleep(LOOK_S)
