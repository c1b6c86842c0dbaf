"""The one table from error code to HTTP status and type, and the one shape errors have on every route.

Used by the middleware (before an answer began), by `sse` (after) and by the protocol (before there is a request). Nothing
else in the project knows a status number.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from starlette.responses import Response

from openllm_core.errors import EngineError, InvalidRequest, OpenLLMError
from openllm_core.schema import ErrorBody, ErrorDetail
from openllm_core.serde import dumps

from .limits import MAX_ERROR_CHARS, MAX_RETRY_AFTER_S

INVALID = "invalid_request_error"
UNAVAILABLE = "service_unavailable_error"
SERVER = "server_error"


class ClientLeft(Exception):
    """The client closed the connection before its answer was whole; nobody is left to tell."""


CLIENT_LEFT = 499  # in logs and metrics only

TABLE: dict[str, tuple[int, str]] = {
    "invalid_api_key": (401, INVALID),
    "forbidden_host": (403, INVALID),
    "forbidden_peer": (403, INVALID),
    "forbidden_origin": (403, INVALID),
    "admin_key_needed": (403, INVALID),
    "adapter_loading_forbidden": (403, INVALID),
    "model_not_found": (404, INVALID),
    "adapter_not_found": (404, INVALID),
    "unknown_url": (404, INVALID),
    "method_not_allowed": (405, INVALID),
    "request_timeout": (408, INVALID),
    "content_too_large": (413, INVALID),
    "uri_too_long": (414, INVALID),
    "unsupported_media_type": (415, INVALID),
    "headers_too_large": (431, INVALID),
    "rate_limit_exceeded": (429, "rate_limit_error"),
    "server_is_overloaded": (503, UNAVAILABLE),
    "engine_loading": (503, UNAVAILABLE),
    "engine_unavailable": (503, UNAVAILABLE),
    "shutting_down": (503, UNAVAILABLE),
    "engine_out_of_memory": (503, UNAVAILABLE),
    "queue_full": (503, UNAVAILABLE),
    "deadline_exceeded": (504, SERVER),
    "non_finite_logits": (500, SERVER),
}
"""A code that is not here is 400 when its error is an InvalidRequest, else 500 with nothing told but the request's id."""

TOO_MANY = 429
CLOSES = frozenset({408, 413, 414, 431})


def status_of(error: BaseException, overload_status: int = 503) -> tuple[int, str]:
    """(HTTP status, error type) of an error.

    Args:
        overload_status: status for `server_is_overloaded`: 503, or 429 where the operator asked for it.
    """
    if isinstance(error, OpenLLMError):
        if error.wire_code == "server_is_overloaded" and overload_status == TOO_MANY:
            return TOO_MANY, "rate_limit_error"
        found = TABLE.get(error.wire_code)
        if found is not None:
            return found
        if isinstance(error, InvalidRequest):
            return 400, INVALID
    return 500, SERVER


def body_of(error: BaseException, request_id: str = "", overload_status: int = 503) -> ErrorBody:
    """The error as it goes onto the wire; of our own bugs only the request's id."""
    status, kind = status_of(error, overload_status)
    told = isinstance(error, InvalidRequest | EngineError) or (isinstance(error, OpenLLMError) and status < 500)
    if not told or not isinstance(error, OpenLLMError):
        message = "The server failed on this request; its log names the cause"
        message += f" under id {request_id}." if request_id else "."
        return ErrorBody(error=ErrorDetail(message=message, type=kind, code="internal_error"))
    message = error.message if not error.hint else f"{error.message} {error.hint}"
    return ErrorBody(
        error=ErrorDetail(message=message[:MAX_ERROR_CHARS], type=kind, param=error.param, code=error.wire_code)
    )


def headers_of(error: BaseException, status: int) -> dict[str, str]:
    """Headers a refusal carries besides the request's id."""
    headers: dict[str, str] = {}
    if status in (TOO_MANY, 503):
        wait = error.retry_after_s if isinstance(error, OpenLLMError) else None
        headers["retry-after"] = str(max(1, min(MAX_RETRY_AFTER_S, math.ceil(wait or 1))))
        if isinstance(error, OpenLLMError) and error.wire_code == "engine_unavailable" and wait is None:
            headers["x-should-retry"] = "false"  # the restart budget is spent
    if status == 401:
        headers["www-authenticate"] = "Bearer"
    if status in CLOSES:
        headers["connection"] = "close"
    return headers


def response_of(
    error: BaseException, request_id: str = "", overload_status: int = 503, extra: Mapping[str, str] | None = None
) -> Response:
    """A whole refusal."""
    status, _ = status_of(error, overload_status)
    headers = headers_of(error, status) | dict(extra or {})
    return Response(dumps(body_of(error, request_id, overload_status)), status, headers, media_type="application/json")
