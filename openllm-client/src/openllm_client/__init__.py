"""Clients of an OpenLLM server over HTTP: HTTPClient and its twin AsyncHTTPClient.

Errors are those of `openllm_core.errors`, messages those of `openllm_core.schema`. Imports neither torch nor grpc; the
asynchronous half, and asyncio with it, is loaded when it is first named.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from openllm_core.schema import EmbeddingsOutput

from ._agents import AgentCall, AgentStep
from ._http import HTTPClient
from ._replies import GenerationOutput, Readiness
from ._streaming import Stream

if TYPE_CHECKING:
    from ._async_http import AsyncHTTPClient
    from ._async_streaming import AsyncStream

__all__ = [
    "AgentCall",
    "AgentStep",
    "AsyncHTTPClient",
    "AsyncStream",
    "EmbeddingsOutput",
    "GenerationOutput",
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
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return list(__all__)
