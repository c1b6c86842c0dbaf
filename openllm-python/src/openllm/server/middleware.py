"""What every request passes through, outermost first: identity and errors, Host, CORS, key. Pure ASGI.

`wrap` puts them around the router. None of them touches the bytes of an answer; a stream's events do not pass here at all
(`protocol.StreamWriter`).
"""

from __future__ import annotations

import logging
import re
import secrets
import time
from collections.abc import Collection

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from openllm.access import ANY_ORIGIN, PRIORITY_HEADER, Access, allowed_origins, is_loopback
from openllm.observation import NOBODY, Observation, Observers, failed
from openllm_core.errors import InvalidRequest, OpenLLMError
from openllm_core.options import ServerOptions

from .errors import CLIENT_LEFT, ClientLeft, response_of, status_of
from .frames import Cut
from .metrics import OTHER, RequestMetrics
from .protocol import EXTENSION, REFUSED, REQUEST_ID, OnRefused, StreamWriter

_log = logging.getLogger("openllm.server")
_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
READING = frozenset({"GET", "HEAD", "OPTIONS"})
CORS_METHODS = "GET, POST, HEAD, OPTIONS"
CORS_EXPOSED = "x-request-id, retry-after, x-openllm-ignored, x-openllm-adapter"


class Identity:
    """Outermost: gives each request an id, turns every error into its answer, counts, and logs what failed.

    Once an answer has begun, an error cannot become another one: the connection is cut, so that nobody takes what came
    for the whole.
    """

    def __init__(
        self, app: ASGIApp, *, metrics: RequestMetrics, overload_status: int, observers: Observers = NOBODY
    ) -> None:
        self._app = app
        self._metrics = metrics
        self._overload_status = overload_status
        self._observers = observers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            if scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": 1000})
            return
        headers = Headers(scope=scope)
        given = headers.get("x-request-id", "")
        request_id = scope.get(REQUEST_ID) or (given if _ID.fullmatch(given) else secrets.token_hex(16))
        scope[REQUEST_ID] = request_id
        method, route = self._metrics.named(scope["method"], scope["path"])
        seen = Observation(request_id=request_id, protocol="http", method=method, route=route)
        with self._observers.watch(seen, headers):
            try:
                await self._serve(scope, receive, send, headers, seen)
            finally:
                if refused := scope.get(REFUSED):  # what the client read, whatever became of the request here
                    seen.status = str(self._status_of(refused))
                    failed(refused)
                self._metrics.count(scope["path"], int(seen.status or 0), time.monotonic() - seen.began)

    async def _serve(self, scope: Scope, receive: Receive, send: Send, headers: Headers, seen: Observation) -> None:
        """Have it answered, and make an answer of whatever was raised instead."""
        request_id = seen.request_id
        expects_body = headers.get("content-length", "0") != "0" or "transfer-encoding" in headers
        body_read = not expects_body
        writer: StreamWriter | None = scope.get("extensions", {}).get(EXTENSION)

        async def watched_receive() -> Message:
            nonlocal body_read
            message = await receive()
            if message["type"] == "http.request" and not message.get("more_body", False):
                body_read = True
            return message

        async def marked_send(message: Message) -> None:
            if message["type"] == "http.response.start":
                seen.status = str(message["status"])
                marked = MutableHeaders(scope=message)
                marked["x-request-id"] = request_id
                if not (body_read or (writer is not None and writer.arrived)):
                    marked["connection"] = "close"
            await send(message)

        try:
            await self._app(scope, watched_receive, marked_send)
        except ClientLeft:
            seen.status = str(CLIENT_LEFT)
        except Cut as error:
            seen.error = "cut"
            _log.warning("request %s: its answer was cut: %s", request_id, error.__cause__)
            if writer is None:
                raise
            await writer.cut()
        except Exception as error:
            failed(error)
            if seen.status:
                raise
            await self._answer(error, request_id)(scope, watched_receive, marked_send)

    def refused(self, request_id: str, error: OpenLLMError) -> None:
        """Count and log what a connection refused before it became a request."""
        seen = Observation(request_id=request_id, protocol="http", method="", route=OTHER)
        with self._observers.watch(seen, {}):
            seen.status = str(self._status_of(error))
            failed(error)
        self._metrics.count(OTHER, int(seen.status), 0.0)

    def _status_of(self, error: OpenLLMError) -> int:
        return status_of(error, self._overload_status)[0]

    def _answer(self, error: Exception, request_id: str) -> Response:
        if isinstance(error, HTTPException):
            refused, extra = _of_framework(error)
            failed(refused)
            return response_of(refused, request_id, extra=extra)
        if not isinstance(error, OpenLLMError):
            _log.error("request %s failed", request_id, exc_info=error)
        return response_of(error, request_id, self._overload_status)


def _of_framework(error: HTTPException) -> tuple[OpenLLMError, dict[str, str]]:
    """Starlette's own refusals as ours."""
    if error.status_code == 404:
        return InvalidRequest("There is no such route; /docs lists them.", code="unknown_url"), {}
    if error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "")
        names = ", ".join(sorted(name.strip() for name in allowed.split(",")))
        refused = InvalidRequest(f"This route takes {names or 'other methods'}.", code="method_not_allowed")
        return refused, {"allow": names}
    return InvalidRequest(str(error.detail)[:200]), dict(error.headers or {})


class HostCheck:
    """On a loopback address, only names of this machine: a web page cannot reach us by a name it made up."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Check one request."""
        host = Headers(scope=scope).get("host", "").lower()
        name = re.sub(r":\d*$", "", host)
        if not is_loopback(name):  # no page can make up a name that is an address
            raise InvalidRequest(
                "The Host header must be localhost or 127.0.0.1 where the server listens on this machine only.",
                code="forbidden_host",
            )
        await self._app(scope, receive, send)


class PeerCheck:
    """Without a key, where somebody else chose the address to listen on: only this machine is answered, as by `HostCheck`.

    What is open to all stays so: a probe of the platform may ask whether we are ready.
    """

    def __init__(self, app: ASGIApp, *, open_paths: Collection[str]) -> None:
        self._app = app
        self._local = HostCheck(app)
        self._open = frozenset(open_paths)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Check one request."""
        peer = scope.get("client")
        if peer and is_loopback(peer[0]):
            await self._local(scope, receive, send)
            return
        if scope["path"] not in self._open:
            raise InvalidRequest(
                "This server has no API key and answers its own machine only; its operator can set OPENLLM_API_KEY.",
                code="forbidden_peer",
            )
        await self._app(scope, receive, send)


class Cors:
    """Lets pages of some origins, or of any, read answers, refusals too; only there when the operator asked for it.

    Cookies and other credentials of a browser are never allowed: a page must have a key of its own.
    """

    def __init__(self, app: ASGIApp, origins: Collection[str]) -> None:
        self._app = app
        self._origins = frozenset(origins)
        self._any = ANY_ORIGIN in self._origins

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Mark an answer."""
        origin = Headers(scope=scope).get("origin", "").lower() if scope["type"] == "http" else ""
        allowed = self._any or origin in self._origins

        async def marked_send(message: Message) -> None:
            if message["type"] == "http.response.start":
                marked = MutableHeaders(scope=message)
                if not self._any:
                    marked.add_vary_header("Origin")
                if allowed:
                    marked["access-control-allow-origin"] = "*" if self._any else origin
                    marked["access-control-expose-headers"] = CORS_EXPOSED
            await send(message)

        await self._app(scope, receive, marked_send)


class Preflight:
    """Answers what a browser asks ahead of a page's request; what is none goes on, and needs a key like all else."""

    def __init__(self, app: ASGIApp, origins: Collection[str]) -> None:
        self._app = app
        self._origins = frozenset(origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a preflight."""
        headers = Headers(scope=scope)
        if scope["method"] != "OPTIONS" or "origin" not in headers or "access-control-request-method" not in headers:
            await self._app(scope, receive, send)
            return
        if ANY_ORIGIN not in self._origins and headers["origin"].lower() not in self._origins:
            raise InvalidRequest("Pages of this origin may not ask this server.", code="forbidden_origin")
        wanted = headers.get("access-control-request-headers", "authorization, content-type")
        answer = {
            "access-control-allow-methods": CORS_METHODS,
            "access-control-allow-headers": wanted,
            "access-control-max-age": "600",
        }
        await Response(status_code=200, headers=answer)(scope, receive, send)


class KeyCheck:
    """Every route needs a key, those in `open_paths` excepted; what is more than reading counts against its limits."""

    def __init__(self, app: ASGIApp, *, access: Access, open_paths: Collection[str]) -> None:
        self._app = app
        self._access = access
        self._open = frozenset(open_paths)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Check one request."""
        if scope["path"] in self._open:
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        given, priority = headers.getlist("authorization"), headers.getlist(PRIORITY_HEADER)
        with self._access.passing(given, counts=scope["method"] not in READING, priority=priority):
            await self._app(scope, receive, send)


class Application:
    """The router behind its middleware: an ASGI application that also hears of what never became a request.

    Attributes:
        refused: counts and logs one of those.
    """

    def __init__(self, app: ASGIApp, refused: OnRefused) -> None:
        self._app = app
        self.refused = refused

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        await self._app(scope, receive, send)


def wrap(
    app: ASGIApp,
    options: ServerOptions,
    *,
    access: Access,
    metrics: RequestMetrics,
    open_paths: Collection[str],
    loopback_only: bool = False,
    observers: Observers = NOBODY,
) -> Application:
    """Put the middleware around a router.

    Args:
        access: whose keys open it.
        loopback_only: check who asks, since the address is not ours to choose.
    """
    app = KeyCheck(app, access=access, open_paths=open_paths)
    origins = allowed_origins(options)
    if origins:
        app = Preflight(app, origins)
    if loopback_only:
        app = PeerCheck(app, open_paths=open_paths)
    elif is_loopback(options.host):
        app = HostCheck(app)
    identity = Identity(app, metrics=metrics, overload_status=options.overload_status, observers=observers)
    return Application(Cors(identity, origins) if origins else identity, identity.refused)


def wrap_open(app: ASGIApp, *, metrics: RequestMetrics) -> ASGIApp:
    """The same without a key, for what listens on a loopback address alone."""
    return Identity(HostCheck(app), metrics=metrics, overload_status=503)
