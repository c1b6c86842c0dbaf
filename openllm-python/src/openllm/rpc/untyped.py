"""Types for what gRPC's generated modules leave without: the servicers to inherit from, and how they join a server.

Used by the modules beside it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

from grpc_health.v1 import health_pb2_grpc

from openllm.rpc.proto import bentoml_v1_pb2_grpc
from openllm_core.proto.openllm.v1 import openllm_pb2_grpc

if TYPE_CHECKING:
    import grpc.aio

    Context = grpc.aio.ServicerContext[Any, Any]
    OpenLLMServicer = object
    BentoServiceServicer = object
else:
    OpenLLMServicer = openllm_pb2_grpc.OpenLLMServicer
    BentoServiceServicer = bentoml_v1_pb2_grpc.BentoServiceServicer

Add = Callable[[Any, "grpc.aio.Server"], None]

add_openllm = cast(Add, cast(Any, openllm_pb2_grpc).add_OpenLLMServicer_to_server)
add_bento = cast(Add, cast(Any, bentoml_v1_pb2_grpc).add_BentoServiceServicer_to_server)
add_health = cast(Add, cast(Any, health_pb2_grpc).add_HealthServicer_to_server)
