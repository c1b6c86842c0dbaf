"""Clients of an OpenLLM server: HTTPClient, AsyncHTTPClient, GrpcClient and AsyncGrpcClient, with the same names.

Errors are those of `openllm_core.errors`, messages those of `openllm_core.schema`. Imports neither torch nor grpc; the
asynchronous half, and asyncio with it, is loaded when it is first named, and so is what speaks gRPC.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from openllm_core.errors import MissingDependency
from openllm_core.schema import EmbeddingsOutput

from ._agents import AgentCall, AgentStep
from ._http import HTTPClient
from ._replies import GenerationOutput, Readiness
from ._streaming import Stream

if TYPE_CHECKING:
    from ._async_http import AsyncHTTPClient
    from ._async_streaming import AsyncStream
    from ._grpc import AsyncGrpcClient, GrpcClient

__all__ = [
    "AgentCall",
    "AgentStep",
    "AsyncGrpcClient",
    "AsyncHTTPClient",
    "AsyncStream",
    "EmbeddingsOutput",
    "GenerationOutput",
    "GrpcClient",
    "HTTPClient",
    "Readiness",
    "Stream",
]


def __getattr__(name: str) -> Any:
    if name == "AsyncHTTPClient":
        from ._async_http import AsyncHTTPClient

        return AsyncHTTPClient
    if name == "AsyncStream":
        from ._async_streaming import AsyncStream

        return AsyncStream
    if name in ("GrpcClient", "AsyncGrpcClient"):
        try:
            from . import _grpc
        except ImportError as error:
            hint = 'pip install "openllm-client[grpc]"'
            raise MissingDependency(f"{name} needs grpcio and protobuf: {error}.", hint=hint) from error
        return getattr(_grpc, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return list(__all__)
