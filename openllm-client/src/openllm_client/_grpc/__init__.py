"""The clients that speak gRPC: GrpcClient and AsyncGrpcClient. All of this package that knows grpc lives in this folder.

Needs the extra `grpc`, and is imported when one of the two is first named. A call is the same value that the HTTP clients
send: `calls` says which method of openllm.v1 it is, `messages` turns its body and answer over.
"""

from __future__ import annotations

from .async_client import AsyncGrpcClient
from .client import GrpcClient

__all__ = ["AsyncGrpcClient", "GrpcClient"]
