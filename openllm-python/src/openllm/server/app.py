"""The application: every route, listed, behind the middleware.

Made by `openllm.compose`; `run.py` serves it, and any ASGI server could. Holds no state but what it is given.
"""

from __future__ import annotations

from prometheus_client import CollectorRegistry
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from openllm.access import Access
from openllm.observation import NOBODY, Observers
from openllm.service import Service
from openllm_core.errors import OpenLLMError
from openllm_core.options import ServerOptions

from .body import drop_body
from .metrics import RequestMetrics
from .middleware import Application, wrap, wrap_open
from .operation import Endpoint, Operation
from .routes import (
    adapters,
    chat,
    completions,
    descriptors,
    embeddings,
    generate,
    health,
    hf_agent,
    metadata,
    metrics,
    models,
    openapi,
    ui,
    usage,
)


def all_operations(
    service: Service, options: ServerOptions, registry: CollectorRegistry, access: Access
) -> list[Operation]:
    """Every route there is, in the order /docs shows them."""
    described = [
        *chat.operations(service, options),
        *completions.operations(service, options),
        *embeddings.operations(service, options),
        *models.operations(service, options),
        *generate.operations(service, options),
        *hf_agent.operations(service, options),
        *metadata.operations(service, options),
        *adapters.operations(service, options),
        *health.operations(service, options),
        *metrics.operations(registry),
        *usage.operations(access),
    ]
    described = [*described, *descriptors.operations(service, described)]
    described = [*described, *ui.operations()]
    return [*described, *openapi.operations(described, access)]


def create_app(
    service: Service,
    options: ServerOptions,
    registry: CollectorRegistry,
    access: Access,
    *,
    loopback_only: bool = False,
    observers: Observers = NOBODY,
) -> Application:
    """The ASGI application.

    Args:
        service: the use cases.
        options: access and limits.
        registry: what /metrics shows; the app's own counters are added to it.
        access: whose keys open it.
        loopback_only: answer nobody but this machine, whatever address somebody else listens on.
        observers: who look at each request.
    """
    operations = all_operations(service, options, registry, access)
    doors = [_Admitting(o.endpoint, service, options) if o.admits else _Served(o.endpoint) for o in operations]
    routes = [Route(o.path, door, methods=list(o.methods)) for o, door in zip(operations, doors, strict=True)]
    router = Starlette(routes=routes)
    router.router.redirect_slashes = False
    return wrap(
        _Bare(router),
        options,
        access=access,
        metrics=RequestMetrics(registry, {o.path for o in operations}),
        open_paths={o.path for o in operations if o.open},
        loopback_only=loopback_only,
        observers=observers,
    )


def create_metrics_app(registry: CollectorRegistry) -> ASGIApp:
    """`/metrics` alone, without a key, for a port that only this machine reaches."""
    routes = [Route(o.path, _Served(o.endpoint), methods=list(o.methods)) for o in metrics.operations(registry)]
    router = Starlette(routes=routes)
    router.router.redirect_slashes = False
    return wrap_open(_Bare(router), metrics=RequestMetrics(CollectorRegistry(), {"/metrics"}))


class _Served:
    """An endpoint as ASGI: made a class so that the framework puts nothing around it."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        response = await self._endpoint(Request(scope, receive))
        await response(scope, receive, send)


class _Admitting(_Served):
    """The same where a request needs a place in the engine: while there is none, nothing is read, parsed or checked."""

    def __init__(self, endpoint: Endpoint, service: Service, options: ServerOptions) -> None:
        super().__init__(endpoint)
        self._service = service
        self._options = options

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            self._service.check_room()
        except OpenLLMError:
            await drop_body(Request(scope, receive), self._options)
            raise
        await super().__call__(scope, receive, send)


class _Bare:
    """The framework's router without its own error pages: ours are made by the middleware."""

    def __init__(self, app: Starlette) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["app"] = self._app
        await self._app.router(scope, receive, send)
