"""The gRPC server of this process: its services, its limits, how it begins and ends.

Made by `openllm.compose`; `openllm.server.run` starts it before the model loads and ends it with HTTP. Nothing listens
and nothing of gRPC runs before `start`.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection
from prometheus_client import CollectorRegistry

from openllm.access import Access, demand_of
from openllm.observation import NOBODY, Observers
from openllm.open_files import connections_within
from openllm.service import Service
from openllm_core.errors import PortInUse
from openllm_core.options import ServerOptions
from openllm_core.proto.openllm.v1 import openllm_pb2

from .bento import BentoServicer
from .gate import Gate
from .health import Health
from .proto import bentoml_v1_pb2
from .servicer import Servicer
from .untyped import add_bento, add_health, add_openllm

MAX_STREAMS = 1024  # calls at once on one connection
KEEPALIVE_MS = 60_000  # a peer that is silent for so long is asked whether it is there
KEEPALIVE_TIMEOUT_MS = 20_000  # and is gone when it does not answer within this
IDLE_MS = 300_000  # a connection without a call for so long is closed; clients open another by themselves
MIN_PING_INTERVAL_MS = 10_000  # a client that asks more often than this, without a call, ...
MAX_PING_STRIKES = 2  # ... so many times more, is sent away (ENHANCE_YOUR_CALM)
SERVICES = tuple(
    file.services_by_name[name].full_name
    for file, name in (
        (openllm_pb2.DESCRIPTOR, "OpenLLM"),
        (bentoml_v1_pb2.DESCRIPTOR, "BentoService"),
    )
)


class RpcServer:
    """One server; starts once.

    Args:
        service: the use cases, shared with HTTP.
        options: address and limits.
        registry: what /metrics shows.
        access: whose keys open it; the same as HTTP's.
        observers: who look at each call.
    """

    def __init__(
        self,
        service: Service,
        options: ServerOptions,
        registry: CollectorRegistry,
        access: Access,
        observers: Observers = NOBODY,
    ) -> None:
        self._service = service
        self._options = options
        self._gate = Gate(access, registry, observers, strict=options.strict)
        self._health = Health(service, SERVICES)
        self._server: grpc.aio.Server | None = None
        self._watching: asyncio.Task[None] | None = None

    async def start(self) -> int:
        """Listen.

        Returns:
            the port.

        Raises:
            PortInUse: another process listens there.
        """
        options = self._options
        server = grpc.aio.server(
            interceptors=(self._gate,),
            options=(
                ("grpc.so_reuseport", 0),  # a second server on the port is an error, not a silent rival
                ("grpc.max_receive_message_length", options.max_body),
                ("grpc.max_send_message_length", -1),  # vectors of a large batch; what we send is ours
                ("grpc.max_concurrent_streams", MAX_STREAMS),
                ("grpc.max_metadata_size", options.max_header_bytes),
                ("grpc.absolute_max_metadata_size", options.max_header_bytes),
                ("grpc.max_allowed_incoming_connections", connections_within(options, 1 + options.http)),
                ("grpc.keepalive_time_ms", KEEPALIVE_MS),
                ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_MS),
                ("grpc.max_connection_idle_ms", IDLE_MS),
                ("grpc.http2.min_ping_interval_without_data_ms", MIN_PING_INTERVAL_MS),
                ("grpc.http2.max_ping_strikes", MAX_PING_STRIKES),
            ),
        )
        add_openllm(Servicer(self._service, options), server)
        add_bento(BentoServicer(self._service), server)
        add_health(self._health, server)
        health = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name
        reflection.enable_server_reflection((*SERVICES, health, reflection.SERVICE_NAME), server)
        port = self._bind(server)
        await self._health.refresh()
        await server.start()
        self._server = server
        self._watching = asyncio.create_task(self._health.watch())
        return port

    def _bind(self, server: grpc.aio.Server) -> int:
        options = self._options
        host = f"[{options.host}]" if ":" in options.host else options.host
        where = f"{host}:{options.grpc_port or 0}"
        try:
            if options.ssl_certfile:
                return server.add_secure_port(where, credentials(options))
            return server.add_insecure_port(where)
        except RuntimeError as error:
            raise PortInUse(f"Cannot listen on {where}: {error}.", param="--grpc-port") from None

    async def drain(self) -> None:
        """Tell the health service's clients that this server will stop; calls go on."""
        if self._watching is not None:
            self._watching.cancel()
        await self._health.enter_graceful_shutdown()

    async def aclose(self, grace_s: float) -> None:
        """Stop: take no calls, let those that run end within `grace_s` seconds, cancel the rest."""
        if self._watching is not None:
            self._watching.cancel()
        if self._server is not None:
            await self._server.stop(grace_s)


def credentials(options: ServerOptions) -> grpc.ServerCredentials:
    """TLS as the options say; files were checked by who listens first. gRPC demands a certificate of clients or asks none."""
    pair = (Path(options.ssl_keyfile).read_bytes(), Path(options.ssl_certfile).read_bytes())
    roots = Path(options.ssl_ca_certs).read_bytes() if demand_of(options) == "required" else None
    return grpc.ssl_server_credentials([pair], roots, require_client_auth=roots is not None)
