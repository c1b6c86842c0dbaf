"""The one table from error code to gRPC status, and what a refusal carries.

Used by `gate` for every call. Codes, messages and parameters are those of HTTP; only the number differs.
"""

from __future__ import annotations

import math

import grpc
from google.protobuf.any_pb2 import Any
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc.error_details_pb2 import BadRequest, RetryInfo
from google.rpc.status_pb2 import Status

from openllm_core.errors import EngineError, InvalidRequest, OpenLLMError
from openllm_core.proto.openllm.v1.openllm_pb2 import Error

MAX_CHARS = 1000
MAX_RETRY_AFTER_S = 60.0
ERROR_KEY = "openllm-error-bin"
"""Trailing metadata with a serialised `Error`, for clients that have no google.rpc messages."""
DETAILS_KEY = "grpc-status-details-bin"
"""Trailing metadata where gRPC's own libraries look for a google.rpc.Status."""

TABLE: dict[str, grpc.StatusCode] = {
    "invalid_api_key": grpc.StatusCode.UNAUTHENTICATED,
    "admin_key_needed": grpc.StatusCode.PERMISSION_DENIED,
    "adapter_loading_forbidden": grpc.StatusCode.PERMISSION_DENIED,
    "model_not_found": grpc.StatusCode.NOT_FOUND,
    "adapter_not_found": grpc.StatusCode.NOT_FOUND,
    "unknown_url": grpc.StatusCode.UNIMPLEMENTED,
    "content_too_large": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "rate_limit_exceeded": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "server_is_overloaded": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "engine_loading": grpc.StatusCode.UNAVAILABLE,
    "engine_unavailable": grpc.StatusCode.UNAVAILABLE,
    "shutting_down": grpc.StatusCode.UNAVAILABLE,
    "queue_full": grpc.StatusCode.UNAVAILABLE,
    "engine_out_of_memory": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "deadline_exceeded": grpc.StatusCode.DEADLINE_EXCEEDED,
    "non_finite_logits": grpc.StatusCode.INTERNAL,
}
"""A code that is not here is INVALID_ARGUMENT when its error is an InvalidRequest, else INTERNAL."""

WORTH_ANOTHER = frozenset({grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNAVAILABLE})
TOO_LARGE = "content_too_large"


def status_of(error: BaseException) -> grpc.StatusCode:
    """Status of an error."""
    if isinstance(error, OpenLLMError):
        found = TABLE.get(error.wire_code)
        if found is not None:
            return found
        if isinstance(error, InvalidRequest):
            return grpc.StatusCode.INVALID_ARGUMENT
    return grpc.StatusCode.INTERNAL


def message_of(error: BaseException, request_id: str) -> Error:
    """The error as the client gets it; of our own bugs only the request's id."""
    if not isinstance(error, InvalidRequest | EngineError):
        text = f"The server failed on this request; its log names the cause under id {request_id}."
        return Error(code="internal_error", message=text, request_id=request_id)
    made = Error(
        code=error.wire_code,
        message=error.message[:MAX_CHARS],
        hint=(error.hint or "")[:MAX_CHARS],
        param=error.param or "",
        request_id=request_id,
    )
    if status_of(error) in WORTH_ANOTHER and error.wire_code != TOO_LARGE:
        spent = error.wire_code == "engine_unavailable" and error.retry_after_s is None  # the restart budget is
        made.retry = not spent
        if not spent:
            made.retry_after_s = max(1.0, min(MAX_RETRY_AFTER_S, math.ceil(error.retry_after_s or 1)))
    return made


def trailers_of(error: BaseException, request_id: str) -> tuple[grpc.StatusCode, str, tuple[tuple[str, bytes], ...]]:
    """What ends a refused call: its status, one line, and the trailing metadata with the details.

    The details are an `openllm.v1.Error`, and of google.rpc's own a BadRequest that names the field and a RetryInfo.
    """
    status, told = status_of(error), message_of(error, request_id)
    text = f"{told.message} {told.hint}".strip()
    details: list[Message] = [told]
    if told.param:
        violation = BadRequest.FieldViolation(field=told.param, description=told.message)
        details.append(BadRequest(field_violations=[violation]))
    if told.HasField("retry_after_s"):
        details.append(RetryInfo(retry_delay=Duration(seconds=int(told.retry_after_s))))
    number: int = status.value[0]
    rich = Status(code=number, message=text, details=[_packed(detail) for detail in details])
    return status, text, ((ERROR_KEY, told.SerializeToString()), (DETAILS_KEY, rich.SerializeToString()))


def _packed(detail: Message) -> Any:
    packed = Any()
    packed.Pack(detail)
    return packed
