"""Clients of an OpenLLM server: HTTPClient, AsyncHTTPClient, GrpcClient and AsyncGrpcClient, with the same names.

Errors are those of `openllm_core.errors`, messages those of `openllm_core.schema`. Names load on first use, so that a program
pays for the client it takes: neither torch nor grpc comes with the HTTP clients, and asyncio only with the asynchronous ones.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from openllm_core.schema import EmbeddingsOutput

    from ._agents import AgentCall, AgentStep
    from ._async_http import AsyncHTTPClient
    from ._async_streaming import AsyncStream
    from ._grpc import AsyncGrpcClient, GrpcClient
    from ._http import HTTPClient
    from ._replies import GenerationOutput, Readiness
    from ._streaming import Stream

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

_HOME = {
    "AgentCall": "openllm_client._agents",
    "AgentStep": "openllm_client._agents",
    "AsyncGrpcClient": "openllm_client._grpc",
    "AsyncHTTPClient": "openllm_client._async_http",
    "AsyncStream": "openllm_client._async_streaming",
    "EmbeddingsOutput": "openllm_core.schema",
    "GenerationOutput": "openllm_client._replies",
    "GrpcClient": "openllm_client._grpc",
    "HTTPClient": "openllm_client._http",
    "Readiness": "openllm_client._replies",
    "Stream": "openllm_client._streaming",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return getattr(import_module(_HOME[name]), name)
    except ImportError as error:
        if _HOME[name] != "openllm_client._grpc":
            raise
        from openllm_core.errors import MissingDependency

        hint = 'pip install "openllm-client[grpc]"'
        raise MissingDependency(f"{name} needs grpcio and protobuf: {error}.", hint=hint) from error


def __dir__() -> list[str]:
    return list(__all__)
