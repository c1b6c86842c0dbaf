"""From a status of gRPC to one of the typed errors of `openllm_core.errors`: the same as over HTTP. Pure.

A refusal of our server brings an `Error` message; a status without one comes from the library, from something between, or
from a server that is none of ours. Such ones may name a time to come back at, in gRPC's own details.
"""

from __future__ import annotations

import re
from typing import Any

import attrs
import grpc
from google.protobuf.message import DecodeError
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status

from openllm_core.errors import ClientError, ConnectionFailed, NotFound, StreamInterrupted, TimedOut
from openllm_core.proto.openllm.v1 import openllm_pb2 as pb

from .._errors import closed_hint, malformed, shown, status_class, tls_hint

_REFUSED = "Is the server running? gRPC has a port of its own: openllm start --grpc-port, or openllm start-grpc."
ERROR_KEY = "openllm-error-bin"
DETAILS_KEY = "grpc-status-details-bin"
"""Trailing metadata with a google.rpc.Status, by gRPC's convention."""

_Code = grpc.StatusCode
STATUS = {
    _Code.INVALID_ARGUMENT: 400,
    _Code.OUT_OF_RANGE: 400,
    _Code.FAILED_PRECONDITION: 400,
    _Code.UNAUTHENTICATED: 401,
    _Code.PERMISSION_DENIED: 403,
    _Code.NOT_FOUND: 404,
    _Code.UNIMPLEMENTED: 404,
    _Code.ALREADY_EXISTS: 409,
    _Code.ABORTED: 409,
    _Code.RESOURCE_EXHAUSTED: 429,
    _Code.CANCELLED: 499,
    _Code.UNAVAILABLE: 503,
    _Code.DEADLINE_EXCEEDED: 504,
}
"""The HTTP status that says the same; any other code is 500."""

_WHERE = re.compile(r"^[A-Z_]+: ipv[46]:\S+: ")
_BY_CODE = {"content_too_large": 413, "server_is_overloaded": 503}
"""Where one status of gRPC stands for two of HTTP, the wire code tells them apart."""


@attrs.frozen(kw_only=True)
class Failure:
    """Why a call failed.

    Attributes:
        error: to raise.
        refused: the server said so itself, before it began.
        unsent: no connection came about.
        final: the server says that the same call will not succeed later.
    """

    error: ClientError
    refused: bool = False
    unsent: bool = False
    final: bool = False


def failure(error: Any, address: str, timeout_s: float, *, begun: bool = False, silent: bool = False) -> Failure:
    """What a failed call means.

    Args:
        error: as the library raised it; not looked at when `silent`.
        begun: a stream's answer had begun.
        silent: we ended it ourselves, since nothing came for the time-out.
    """
    if silent:
        return _too_late(address, timeout_s, begun=begun)
    call: Any = error
    code: grpc.StatusCode = call.code()
    said = _error_of(call)
    if said is not None:
        return _refusal(said, code, address, begun=begun)
    if code is _Code.DEADLINE_EXCEEDED:
        return _too_late(address, timeout_s, begun=begun)
    details = call.details() or code.name
    why = _last_step(details)
    if begun:
        return Failure(error=StreamInterrupted(f"The stream from {address} ended before the answer did: {why}."))
    wait_s = _wait_of(call)
    if wait_s is not None:
        return _foreign_refusal(code, why, address, wait_s)
    return _without_error(code, details, why, address)


def _last_step(details: str) -> str:
    """What matters to a person of the library's account: of the way it went the last step, without address and source."""
    why = shown(details.partition("last error: ")[2] or details)
    why = _WHERE.sub("", why).rpartition("OPENSSL_internal:")[2]
    return why.removesuffix(".").removesuffix(": OK").removesuffix(": Invalid certificate verification context")


def _too_late(address: str, timeout_s: float, *, begun: bool) -> Failure:
    if begun:
        return Failure(error=TimedOut(f"{address} sent nothing for {timeout_s:g} s in the middle of a stream."))
    hint = "Pass a larger timeout=."
    return Failure(error=TimedOut(f"{address} did not answer within {timeout_s:g} s.", hint=hint))


def _without_error(code: grpc.StatusCode, details: str, why: str, address: str) -> Failure:
    if code in (_Code.UNAVAILABLE, _Code.CANCELLED):
        unsent = "failed to connect" in details
        if "http1" in why.lower() or "HTTP/1" in why:
            hint = "An HTTP server listens there; gRPC has a port of its own (openllm start --grpc-port)."
        elif "ALPN" in why:
            hint = "An HTTP server may listen there; gRPC has a port of its own (openllm start --grpc-port)."
        else:
            hint = tls_hint(why) or (closed_hint(address) if "Socket closed" in why else None) or _REFUSED
        return Failure(error=ConnectionFailed(f"No connection to {address}: {why}.", hint=hint), unsent=unsent)
    if code is _Code.UNIMPLEMENTED:
        hint = "Is an OpenLLM server behind this address?"
        return Failure(error=NotFound(f"{address} has no such method: {why}.", status=404, hint=hint), final=True)
    if code is _Code.RESOURCE_EXHAUSTED and "larger than max" in why:
        too_large = malformed if why.startswith("Received") or "CLIENT" in why else None
        if too_large is not None:
            return Failure(error=too_large(f"{address}: the answer is too large: {why}."), final=True)
        found = status_class(413, None)(f"{address} answered: {why}", status=413)
        return Failure(error=found, refused=True, final=True)
    return _foreign_refusal(code, why, address)


def _foreign_refusal(code: grpc.StatusCode, why: str, address: str, wait_s: float | None = None) -> Failure:
    """The call reached somebody who is not our server, and who refused it; perhaps for `wait_s` seconds only."""
    status = STATUS.get(code, 500)
    hint = "Set OPENLLM_API_KEY or pass api_key=." if status == 401 else None
    text = f"{address} answered {code.name}: {why}"
    return Failure(error=status_class(status, None)(text, status=status, hint=hint, retry_after_s=wait_s), refused=True)


def _refusal(said: pb.Error, code: grpc.StatusCode, address: str, *, begun: bool) -> Failure:
    wire_code = shown(said.code) or None
    status = _BY_CODE.get(said.code, STATUS.get(code, 500))
    message = shown(said.message) or f"{code.name} without a reason"
    hint = "Set OPENLLM_API_KEY or pass api_key=." if status == 401 else None
    error = status_class(status, wire_code)(
        f"The answer broke off: {message}" if begun else f"{address} answered {status}: {message}",
        status=None if begun else status,
        request_id=shown(said.request_id) or None,
        hint=hint,
        code=wire_code,
        param=shown(said.param) or None,
        retry_after_s=said.retry_after_s if said.HasField("retry_after_s") else None,
    )
    return Failure(error=error, refused=not begun, final=not said.retry)


def _trailing(call: Any, key: str) -> bytes | None:
    found = (value for name, value in call.trailing_metadata() or () if name == key)
    value: Any = next(found, None)
    return value if isinstance(value, bytes) else None


def _error_of(call: Any) -> pb.Error | None:
    sent = _trailing(call, ERROR_KEY)
    try:
        return pb.Error.FromString(sent) if sent is not None else None
    except DecodeError:
        return None


def _wait_of(call: Any) -> float | None:
    """Seconds that a google.rpc.RetryInfo among a status's details names; None without one that can be read."""
    sent = _trailing(call, DETAILS_KEY)
    if sent is None:
        return None
    info = RetryInfo()
    try:
        if not any(detail.Unpack(info) for detail in Status.FromString(sent).details):
            return None
    except DecodeError:
        return None
    return max(0.0, info.retry_delay.seconds + info.retry_delay.nanos / 1e9)
