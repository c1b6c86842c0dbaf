"""What every call passes: identity and errors, key, counts. Health alone is open and uncounted.

An interceptor of the server in `server.py`. Methods raise our errors; here they become a status with details.
"""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractContextManager, asynccontextmanager
from typing import TYPE_CHECKING, Any, cast

import grpc
import grpc.aio
from google.protobuf.message import DecodeError
from prometheus_client import CollectorRegistry, Counter, Histogram

from openllm.access import PRIORITY_HEADER, Access
from openllm.observation import NOBODY, Observation, Observers, failed
from openllm_core.errors import InvalidRequest, OpenLLMError

from .errors import status_of, trailers_of
from .ignored import check_unknown

if TYPE_CHECKING:
    from .untyped import Context

REQUEST_ID = "x-request-id"
OPEN = "/grpc.health.v1.Health/"
READING = frozenset(
    {
        "/openllm.v1.OpenLLM/Metadata",
        "/openllm.v1.OpenLLM/ListModels",
        "/openllm.v1.OpenLLM/ListAdapters",
        "/bentoml.grpc.v1.BentoService/ServiceMetadata",
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
    }
)
"""Methods that count against no key's limits."""
BOUNDS = (0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_log = logging.getLogger("openllm.rpc")

Behaviour = Callable[[Any, "Context"], Awaitable[Any]]
Next = Callable[[grpc.HandlerCallDetails], Awaitable["grpc.RpcMethodHandler[Any, Any] | None"]]


class Gate(grpc.aio.ServerInterceptor):
    """Wraps the methods of every service but health.

    Args:
        access: whose keys open it.
        registry: what /metrics shows; the counts of calls are added to it.
        observers: who look at each call.
        strict: refuse fields that no message has, in place of naming them.
    """

    def __init__(
        self, access: Access, registry: CollectorRegistry, observers: Observers = NOBODY, *, strict: bool = False
    ) -> None:
        self._access = access
        self._strict = strict
        self._counts = Counter(
            "openllm_grpc_requests",
            "gRPC calls by method and status; CANCELLED: the client left.",
            ["method", "status"],
            registry=registry,
        )
        self._observers = observers
        self._times = Histogram(
            "openllm_grpc_request_seconds",
            "From the start of a call to its end.",
            ["method"],
            registry=registry,
            buckets=BOUNDS,
        )

    async def intercept_service(  # the base class leaves its types open
        self, continuation: Next, handler_call_details: grpc.HandlerCallDetails
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        """The method that was asked for, wrapped; None where there is none."""
        handler = await continuation(handler_call_details)
        method = handler_call_details.method
        if handler is None or method.startswith(OPEN):
            return handler
        kind = ("stream" if handler.request_streaming else "unary") + (
            "_stream" if handler.response_streaming else "_unary"
        )
        inner = cast(Behaviour, getattr(handler, kind))
        make = cast("Callable[..., grpc.RpcMethodHandler[Any, Any]]", getattr(grpc, f"{kind}_rpc_method_handler"))
        streams, read = handler.request_streaming, handler.request_deserializer
        return make(
            self._wrapped(method, inner, None if streams else read),
            request_deserializer=read if streams else None,  # one message is read behind the key, not before it
            response_serializer=handler.response_serializer,
        )

    def _wrapped(self, method: str, inner: Behaviour, read: Callable[[bytes], Any] | None) -> Behaviour:
        async def call(request: Any, context: Context) -> Any:
            with self._watched(method, context) as seen:
                async with self._call(seen, context):
                    if read is not None:
                        request = _read(request, read)
                        check_unknown(request, context, strict=self._strict)
                    made = inner(request, context)
                    if not hasattr(made, "__aiter__"):
                        return await made
                    async for message in cast("AsyncGenerator[Any]", made):  # reflection is one of these
                        await context.write(message)

        return call

    def _watched(self, method: str, context: Context) -> AbstractContextManager[Observation]:
        """One call as its observers see it; its id is the client's own where that is one."""
        metadata = dict(reversed(_texts(context)))  # the first of several counts
        given = metadata.get(REQUEST_ID, "")
        request_id = given if _ID.fullmatch(given) else secrets.token_hex(16)
        seen = Observation(request_id=request_id, protocol="grpc", method="", route=method)
        return self._observers.watch(seen, metadata)

    @asynccontextmanager
    async def _call(self, seen: Observation, context: Context) -> AsyncGenerator[None]:
        """Around one call."""
        metadata, method, request_id = _texts(context), seen.route, seen.request_id
        context.set_trailing_metadata(((REQUEST_ID, request_id),))
        status = grpc.StatusCode.OK
        try:
            keys = [value for name, value in metadata if name == "authorization"]
            priority = [value for name, value in metadata if name == PRIORITY_HEADER]
            with self._access.passing(keys, counts=method not in READING, priority=priority):
                yield
        except asyncio.CancelledError:
            status = grpc.StatusCode.CANCELLED
            raise
        except Exception as error:
            status = status_of(error)
            failed(error)
            if not isinstance(error, OpenLLMError):
                _log.error("request %s failed", request_id, exc_info=error)
            _, text, trailers = trailers_of(error, request_id)
            await context.abort(status, text, (*trailers, (REQUEST_ID, request_id)))
        finally:
            seen.status = status.name
            self._counts.labels(method, status.name).inc()
            self._times.labels(method).observe(time.monotonic() - seen.began)


def _texts(context: Context) -> list[tuple[str, str]]:
    """Metadata of a call, what is not text left out."""
    return [(name, value) for name, value in context.invocation_metadata() or () if isinstance(value, str)]


def _read(data: bytes, read: Callable[[bytes], Any]) -> Any:
    """A request's message.

    Raises:
        InvalidRequest: the bytes are none of its type.
    """
    try:
        return read(data)
    except DecodeError:
        raise InvalidRequest("The request's bytes are not the message that this method takes.") from None
