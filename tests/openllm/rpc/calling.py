"""A real gRPC server over the echo backend for tests, behind a loopback port, and its stub."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio
from tests.openllm.server.serving import Served, serving

from openllm.compose import build
from openllm.engine.supervisor import launch_embedded
from openllm.server import run
from openllm_core.options import EngineOptions, ServerOptions
from openllm_core.proto.openllm.v1 import openllm_pb2, openllm_pb2_grpc
from openllm_core.proto.openllm.v1.openllm_pb2 import Error


@dataclass
class Called:
    """A running gRPC server: its parts, a channel and the stub of our own service."""

    served: Served
    port: int
    channel: grpc.aio.Channel
    stub: Any


@asynccontextmanager
async def calling(*, options: dict[str, Any] | None = None, **how: Any) -> AsyncIterator[Called]:
    """`serving` with gRPC beside HTTP on a free port; arguments as there."""
    async with serving(options={"grpc_port": 0, **(options or {})}, **how) as served:
        rpc = served.composed.rpc
        assert rpc is not None
        port = await rpc.start()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            try:
                yield Called(served, port, channel, openllm_pb2_grpc.OpenLLMStub(channel))
            finally:
                await rpc.aclose(0)


@asynccontextmanager
async def both(files: dict[str, str]) -> AsyncIterator[tuple[int, int]]:
    """Both servers as `serve` runs them; yields the ports of HTTP and gRPC."""
    ports, ready = dict[str, int](), asyncio.Event()
    options = ServerOptions(port=0, grpc_port=0, **files)
    composed = build(EngineOptions(backend="echo"), options, launch=launch_embedded)
    with run.bind(options) as sock:
        server = run._Server(  # the whole of `serve` but for its event loop
            composed,
            options,
            sock,
            lambda host, port: ports.setdefault("http", port),
            ready.set,
            lambda host, port: ports.setdefault("grpc", port),
            None,
        )
        running = asyncio.create_task(server.run())
        try:
            async with asyncio.timeout(30):
                await ready.wait()
            yield ports["http"], ports["grpc"]
        finally:
            server._stop.set()
            assert await running == 0


def sampling(**fields: Any) -> openllm_pb2.SamplingParams:
    """Sampling parameters."""
    return openllm_pb2.SamplingParams(**fields)


def told(error: grpc.aio.AioRpcError) -> Error:
    """The error that a refusal carries for our own clients."""
    trailers = dict(error.trailing_metadata() or ())
    return Error.FromString(trailers["openllm-error-bin"])
