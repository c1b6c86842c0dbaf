"""Clients of an OpenLLM server over HTTP: HTTPClient and its twin AsyncHTTPClient.

Errors are those of `openllm_core.errors`, messages those of `openllm_core.schema`. Imports neither torch nor grpc.
"""

from ._async_http import AsyncHTTPClient
from ._http import HTTPClient
from ._replies import EmbeddingsOutput, GenerationOutput, Readiness
from ._streaming import AsyncStream, Stream

__all__ = [
    "AsyncHTTPClient",
    "AsyncStream",
    "EmbeddingsOutput",
    "GenerationOutput",
    "HTTPClient",
    "Readiness",
    "Stream",
]
