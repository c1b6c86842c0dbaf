"""From a refusal, a broken connection or a bad answer to one of the typed errors of `openllm_core.errors`.

Called by both clients. Pure. What a server sent is shown with control characters removed and cut to a bounded length.
"""

from __future__ import annotations

from typing import Any, cast

import httpx
import orjson

from openllm_core.errors import (
    BadRequest,
    ClientError,
    ConnectionFailed,
    NotFound,
    RateLimited,
    ServerError,
    StatusError,
    StreamInterrupted,
    TimedOut,
    Unauthorized,
)

from ._retry import retry_after_s
from ._wire import Outcome, Reply

MAX_SHOWN = 500
IS_IT_RUNNING = "Is the server running? `openllm start` starts one here."
_NO_HTTP = "If a gRPC server listens there, ask it over gRPC; HTTP has a port of its own."
_HANDSHAKE = (
    (
        ("mismatch", "hostname verification", "not in peer certificate"),
        "The certificate is made out to another name: use that name in the address.",
    ),
    (
        ("certificate required", "alert bad certificate", "alert unknown ca", "handshake failure"),
        "The server asks for a certificate of yours that its authority signed: pass cert=.",
    ),
    (("certificate verify failed",), "Pass verify= with the certificate of its authority."),
    (
        ("wrong version number", "record layer failure"),
        "What listens there does not speak TLS: the address may have to begin with http://.",
    ),
)
_CLOSED = {
    "http": "Where a server speaks TLS, its address begins with https://.",
    "https": "Where a server asks for the caller's own certificate, pass cert=.",
}
_BAD_REQUEST = frozenset({400, 405, 408, 413, 415, 422, 431})
_BY_TYPE: dict[str, type[StatusError]] = {
    "invalid_request_error": BadRequest,
    "rate_limit_error": RateLimited,
    "authentication_error": Unauthorized,
}


def shown(text: str, limit: int = MAX_SHOWN) -> str:
    """Text of a stranger, fit for a terminal and a log: one line, no control characters, bounded."""
    clean = " ".join("".join(c if c.isprintable() else " " for c in text[: limit * 2]).split())
    return clean if len(clean) <= limit else clean[: limit - 1] + "…"


def failure(outcome: Outcome, address: str, timeout_s: float) -> ClientError:
    """The error a call ends with: `outcome` is a refusal or what the transport reported."""
    if isinstance(outcome, Reply):
        return refusal(outcome, address)
    return broken(outcome, address, timeout_s)


def refusal(reply: Reply, address: str) -> StatusError:
    """The typed error of an answer whose status is not 200."""
    status = reply.status
    detail = error_detail(reply.content)
    message = detail.get("message") or f"HTTP {status} without a reason"
    hint = None
    if 300 <= status < 400:
        message = f"redirects to {shown(reply.headers.get('location', 'nowhere'), 200)}"
        hint = "Redirects are not followed: use the address it redirects to."
    elif status in (401, 403):
        hint = "Set OPENLLM_API_KEY or pass api_key=." if status == 401 else None
    elif status == 404 and detail.get("code") in (None, "unknown_url"):
        hint = "Is an OpenLLM server behind this address?"
        if address.endswith("/v1"):
            hint = "Leave /v1 out of the address: it is put before each route."
    return status_class(status, detail.get("code"))(
        f"{address} answered {status}: {message}",
        status=status,
        request_id=reply.headers.get("x-request-id"),
        hint=hint,
        code=detail.get("code"),
        param=detail.get("param"),
        retry_after_s=retry_after_s(reply.headers),
    )


def status_class(status: int, code: str | None) -> type[StatusError]:
    """The class of a refusal."""
    if status == 429 or (status == 503 and code == "server_is_overloaded"):
        return RateLimited
    if status in (401, 403):
        return Unauthorized
    if status == 404:
        return NotFound
    if status in _BAD_REQUEST:
        return BadRequest
    return ServerError if status >= 500 else StatusError


def error_detail(content: bytes) -> dict[str, str]:
    """`message`, `code` and `param` of an error body, as far as there are any; other bodies give their text."""
    try:
        body: Any = orjson.loads(content)
    except orjson.JSONDecodeError:
        text = shown(content[: 4 * MAX_SHOWN].decode("utf-8", "replace"))
        return {"message": text} if text else {}
    if isinstance(body, dict):
        fields = cast("dict[str, Any]", body)
        body = fields.get("error", fields.get("detail", fields.get("message", fields)))
    if isinstance(body, dict):
        fields = cast("dict[str, Any]", body)
        return {k: shown(fields[k]) for k in ("message", "code", "param", "type") if isinstance(fields.get(k), str)}
    return {"message": shown(body)} if isinstance(body, str) and body.strip() else {}


def in_stream(error: Any, request_id: str | None) -> StatusError:
    """The typed error of an `error` event: the stream began with 200, so there is no status."""
    detail = error_detail(orjson.dumps({"error": error}))
    code, kind = detail.get("code"), detail.get("type", "")
    found = RateLimited if code == "server_is_overloaded" else _BY_TYPE.get(kind, ServerError)
    message = detail.get("message") or "the server reported a failure without a reason"
    return found(f"The answer broke off: {message}", request_id=request_id, code=code, param=detail.get("param"))


def broken(error: httpx.RequestError, address: str, timeout_s: float) -> ClientError:
    """The typed error of what the transport reported before the answer was complete."""
    why = shown(str(error)) or type(error).__name__
    if isinstance(error, httpx.ConnectTimeout):
        return ConnectionFailed(f"No connection to {address} within the time-out.", hint=IS_IT_RUNNING)
    if isinstance(error, httpx.TimeoutException):
        return TimedOut(f"{address} did not answer within {timeout_s:g} s.", hint="Pass a larger timeout=.")
    why = why.removesuffix(".")
    if isinstance(error, httpx.ConnectError):
        return ConnectionFailed(f"No connection to {address}: {why}.", hint=tls_hint(why) or IS_IT_RUNNING)
    if isinstance(error, httpx.ProxyError):
        return ConnectionFailed(f"The proxy made no connection to {address}: {why}.")
    if isinstance(error, httpx.RemoteProtocolError):
        hint = closed_hint(address) if "without sending a response" in why else tls_hint(why) or _NO_HTTP
        return ConnectionFailed(f"{address} closed the connection or does not speak HTTP: {why}.", hint=hint)
    if isinstance(error, httpx.DecodingError):
        return malformed(f"{address}: the answer cannot be decompressed: {why}.")
    hint = tls_hint(why) or (closed_hint(address) if address.startswith("https:") else None)
    return ConnectionFailed(f"The connection to {address} broke: {why}.", hint=hint)


def tls_hint(why: str) -> str | None:
    """What to change about a handshake that failed; None where `why` says nothing of one.

    Args:
        why: the reason in the words of OpenSSL, or of gRPC's own TLS.
    """
    said = why.lower().replace("_", " ")
    for words, hint in _HANDSHAKE:
        if any(word in said for word in words):
            return hint
    return None


def closed_hint(address: str) -> str | None:
    """What a server may have wanted that closed a new connection without a word."""
    return _CLOSED.get(address.partition("://")[0])


def interrupted(
    address: str, timeout_s: float, request_id: str | None, error: httpx.RequestError | None
) -> ClientError:
    """The typed error of a stream that ended without its end mark, or fell silent."""
    request = f" (request {shown(request_id, 100)})" if request_id else ""
    if isinstance(error, httpx.TimeoutException):
        return TimedOut(f"{address} sent nothing for {timeout_s:g} s in the middle of a stream{request}.")
    why = "" if error is None else f": {shown(str(error)) or type(error).__name__}"
    return StreamInterrupted(f"The stream from {address} ended before the answer did{request}{why}.")


def closed(address: str) -> ClientError:
    """The error of a call on a client whose connections were closed."""
    return ClientError(f"This client of {address} has been closed.", code="client_closed", hint="Make a new one.")


def malformed(message: str) -> ClientError:
    """The error of an answer that is not what its route answers."""
    return ClientError(message, code="malformed_response", hint="Is an OpenLLM server of this version behind it?")
