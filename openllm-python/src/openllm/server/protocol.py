"""HTTP/1.1 on a connection: uvicorn's httptools protocol with the limits it lacks, and a short way out for streams.

Created once per connection by `run.py`. Adds: caps on connections, request line, headers and the framing of bodies, a timer
for headers, refusals in the one error shape, a refused body read away before closing, and `StreamWriter`, by which an event
reaches the socket without a trip through the ASGI layers. Knows nothing of routes.
"""

from __future__ import annotations

import asyncio
import secrets
import socket
from collections.abc import Callable
from typing import Any, cast

from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from openllm_core.errors import InvalidRequest, OpenLLMError, Overloaded
from openllm_core.limits import Limits
from openllm_core.serde import dumps

from .errors import body_of, headers_of, status_of
from .limits import KEEP_ALIVE_SLACK_S, LINGER_S, MAX_FRAMING_BYTES, MAX_WRITE_BUFFER_BYTES, SEND_BUFFER_BYTES

EXTENSION = "openllm.stream"
REASONS = {
    400: "Bad Request",
    408: "Request Timeout",
    413: "Content Too Large",
    414: "URI Too Long",
    429: "Too Many Requests",
    431: "Request Header Fields Too Large",
    503: "Service Unavailable",
}
VERSIONS = frozenset({"1.0", "1.1"})
DEFAULTS = Limits()
REQUEST_ID = "openllm.request_id"
REFUSED = "openllm.refused"
"""In a request's scope: its id; the error that it was refused with while the application waited for its body."""

OnRefused = Callable[[str, OpenLLMError], None]
"""Gets the id and the error of what was refused before it became a request."""


class LimitedConfig(Config):
    """What uvicorn's protocol wants to know, the limits it does not have, and who hears of refusals."""

    limits = DEFAULTS
    on_refused: OnRefused | None = None


def configure(app: Any, limits: Limits = DEFAULTS, on_refused: OnRefused | None = None) -> LimitedConfig:
    """The configuration of every connection."""
    config = LimitedConfig(
        app,
        http=LimitedProtocol,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        log_level="error",  # else each malformed request writes a line
        server_header=False,
        date_header=False,
        proxy_headers=False,
        timeout_keep_alive=limits.keep_alive,
    )
    config.limits = limits
    config.on_refused = on_refused
    config.load()
    return config


class _Refused(Exception):
    """Raised inside the parser's callbacks to stop it."""


class StreamWriter:
    """Writes parts of a chunked answer straight to the connection, once its start went out the ordinary way."""

    __slots__ = ("_cycle", "_transport")

    def __init__(self, cycle: RequestResponseCycle, transport: asyncio.Transport) -> None:
        self._cycle = cycle
        self._transport = transport

    @property
    def usable(self) -> bool:
        """Whether the answer is chunked, as HTTP/1.1 answers without a length are."""
        return bool(self._cycle.chunked_encoding) and self._cycle.scope["method"] != "HEAD"

    def write(self, data: bytes) -> None:
        """Send one chunk; lost when the client has left. No bytes are no chunk: an empty one would end the answer."""
        if data and not self._cycle.disconnected:
            self._transport.write(b"%x\r\n%b\r\n" % (len(data), data))

    @property
    def arrived(self) -> bool:
        """Whether the request's body is here to its last byte, read or not."""
        return not self._cycle.more_body

    @property
    def slow(self) -> bool:
        """Whether the client takes less than we write."""
        return self._cycle.flow.write_paused

    async def drain(self) -> None:
        """Wait until it has caught up, or left."""
        await self._cycle.flow.drain()

    async def cut(self) -> None:
        """End the connection at once, unsent bytes and all, so that nobody takes what came for the whole."""
        self._transport.abort()
        await asyncio.sleep(0)  # lets the connection notice, which would else complain of half an answer


class LimitedProtocol(HttpToolsProtocol):
    """One connection with limits."""

    def __init__(
        self,
        config: LimitedConfig,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._limits = config.limits
        self._on_refused = config.on_refused
        self.timeout_keep_alive = config.limits.keep_alive + KEEP_ALIVE_SLACK_S
        self._header_timer: asyncio.TimerHandle | None = None
        self._linger_timer: asyncio.TimerHandle | None = None
        self._header_bytes = 0
        self._header_count = 0
        self._head_bytes = 0  # received since the request began, while its headers are not whole
        self._in_headers = True
        self._framing_bytes = 0  # received of a request's body that are not the body itself
        self._hosts = 0
        self._refusal: OpenLLMError | None = None

    @property
    def _max_head(self) -> int:
        return self._limits.max_header_bytes + self._limits.max_request_line

    # -- connection ---------------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:
        """Take the connection, or drop it where there are too many."""
        super().connection_made(transport)
        transport.set_write_buffer_limits(high=MAX_WRITE_BUFFER_BYTES)
        if (sock := transport.get_extra_info("socket")) is not None:
            # Else the kernel would keep megabytes for a client that does not read, and we would not know it stalled.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
        if len(self.connections) > self._limits.max_connections:
            self._tell(Overloaded("This server has as many connections as it takes."))
            transport.close()
            return
        self._arm_header_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the timers."""
        self._cancel_timers()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse, under the limits."""
        if self._linger_timer is not None or self.parser is None or self.transport.is_closing():
            return
        if self._in_headers:
            self._head_bytes += len(data)
            if self._header_timer is None:
                self._arm_header_timer()
        else:
            self._framing_bytes += len(data)
        super().data_received(data)
        if not self._in_headers and self._framing_bytes > MAX_FRAMING_BYTES and self._refusal is None:
            self._refuse(InvalidRequest("The request's body has too much around it.", code="content_too_large"))
        # The parser reports a header once it is whole; one without an end would grow inside it.
        if self._in_headers and self._head_bytes > self._max_head and self._refusal is None:
            self._refuse(InvalidRequest("The request's headers are too large.", code="headers_too_large"))

    def timeout_keep_alive_handler(self) -> None:
        """The connection was idle for its time: close it, if nothing has arrived by the loop's next turn.

        A busy loop comes here late, with a request already in the socket; closing over it would reset the connection.
        """
        self.timeout_keep_alive_task = self.loop.call_later(0, super().timeout_keep_alive_handler)

    def _arm_header_timer(self) -> None:
        self._header_timer = self.loop.call_later(self._limits.header_timeout, self._on_header_timeout)

    def _on_header_timeout(self) -> None:
        """As with an idle connection: look again on the loop's next turn, when what is in the socket has been read."""
        self._header_timer = self.loop.call_later(0, self._end_headers, self._head_bytes)

    def _end_headers(self, had_bytes: int) -> None:
        self._header_timer = None
        if self._head_bytes == 0:
            self.transport.close()
        elif had_bytes == 0:
            self._arm_header_timer()  # it begins only now
        elif not self.transport.is_closing():
            late = InvalidRequest("The request's headers did not arrive in time.", code="request_timeout")
            self._refuse(late)

    def _cancel_timers(self) -> None:
        for timer in (self._header_timer, self._linger_timer):
            if timer is not None:
                timer.cancel()
        self._header_timer = None

    # -- parser callbacks ---------------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        """A request begins."""
        super().on_message_begin()
        self._in_headers = True
        self._header_bytes = self._header_count = self._framing_bytes = self._hosts = 0

    def on_url(self, url: bytes) -> None:
        """Part of the request line."""
        super().on_url(url)
        if len(self.url) > self._limits.max_request_line:
            self._stop(InvalidRequest("The request line is too long.", code="uri_too_long"))

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header."""
        super().on_header(name, value)
        self._header_bytes += len(name) + len(value) + 4
        self._header_count += 1
        limits = self._limits
        if self._header_bytes > limits.max_header_bytes or self._header_count > limits.max_headers:
            self._stop(InvalidRequest("The request's headers are too large.", code="headers_too_large"))
        if self.headers[-1][0] == b"host":
            self._hosts += 1

    def on_headers_complete(self) -> None:
        """The headers are whole: hand the request to the app, with the short way out."""
        if self._header_timer is not None:
            self._header_timer.cancel()
            self._header_timer = None
        self._in_headers = False
        self._head_bytes = 0
        parser: Any = self.parser  # it is what calls this
        version = parser.get_http_version()
        if version not in VERSIONS:
            self._stop(InvalidRequest("The request must be HTTP/1.1 or HTTP/1.0.", code="invalid_http"))
        if self._hosts != 1 and (self._hosts > 1 or version == "1.1"):
            self._stop(InvalidRequest("The request needs exactly one Host header.", code="invalid_http"))
        if not self.url.startswith(b"/") or parser.get_method() == b"CONNECT":
            self._stop(InvalidRequest("The request must name a path; this server is no proxy.", code="invalid_http"))
        super().on_headers_complete()
        cycle = self.cycle
        cast("dict[str, Any]", self.scope)["extensions"] = {EXTENSION: StreamWriter(cycle, self.transport)}
        # The body that nobody will read must still be taken off the wire before closing.
        cycle.transport = cast(asyncio.Transport, _LingeringTransport(self.transport, cycle, self._linger))

    def on_body(self, body: bytes) -> None:
        """Part of the body."""
        self._framing_bytes -= len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The body is whole; what follows is another request."""
        super().on_message_complete()
        self._in_headers = True

    # -- refusals -----------------------------------------------------------------------------------------------------

    def _stop(self, error: InvalidRequest) -> None:
        self._refusal = error
        raise _Refused

    def send_400_response(self, msg: str) -> None:
        """What uvicorn calls when the parser stopped: answer in our shape and close."""
        self._refuse(self._refusal or InvalidRequest("The request is not valid HTTP.", code="invalid_http"))

    def _refuse(self, error: OpenLLMError) -> None:
        self._refusal = error
        if self._header_timer is not None:
            self._header_timer.cancel()
            self._header_timer = None
        cycle = cast("RequestResponseCycle | None", self.cycle)
        if cycle is None or cycle.response_complete:
            self._tell(error)
            self._linger()
        elif not cycle.response_started and not self._in_headers and not self.pipeline:
            # The body that the app waits for is broken: the app hears that its client has left, and why.
            scope = cast("dict[str, Any]", cycle.scope)
            scope[REFUSED] = error
            request_id = scope.setdefault(REQUEST_ID, secrets.token_hex(16))
            self.transport.write(_answer(error, self._limits, request_id))
            cycle.disconnected = True
            cycle.message_event.set()
            self._linger()
        else:  # an answer is under way: nothing may be put between its bytes
            self.transport.close()

    def _tell(self, error: OpenLLMError) -> None:
        """Answer what is no request, and say so to whoever counts."""
        request_id = secrets.token_hex(16)
        self.transport.write(_answer(error, self._limits, request_id))
        if self._on_refused is not None:
            self._on_refused(request_id, error)

    def _linger(self) -> None:
        """Say that nothing more comes, throw away what still arrives for a moment, then close."""
        if self._linger_timer is not None or self.transport.is_closing():
            return
        self._linger_timer = self.loop.call_later(LINGER_S, self.transport.close)
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self.flow.resume_reading()

    def eof_received(self) -> None:
        """The client will send nothing more; the transport closes itself."""


def _answer(error: OpenLLMError, limits: Limits, request_id: str) -> bytes:
    """A whole refusal of what never became a request; it says that the connection ends."""
    status, _ = status_of(error, limits.overload_status)
    body = dumps(body_of(error, overload_status=limits.overload_status))
    headers = headers_of(error, status) | {
        "content-type": "application/json",
        "content-length": str(len(body)),
        "x-request-id": request_id,
        "connection": "close",
    }
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"HTTP/1.1 {status} {REASONS.get(status, 'Bad Request')}\r\n{lines}\r\n".encode() + body


class _LingeringTransport:
    """The transport as one request's answer sees it: closing waits while the request's body is still coming."""

    __slots__ = ("_cycle", "_linger", "_transport", "is_closing", "write")

    def __init__(self, transport: asyncio.Transport, cycle: RequestResponseCycle, linger: Callable[[], None]) -> None:
        self._transport = transport
        self._cycle = cycle
        self._linger = linger
        self.write = transport.write
        self.is_closing = transport.is_closing

    def close(self) -> None:
        if self._cycle.more_body and self._cycle.response_complete and not self._cycle.disconnected:
            self._linger()
        else:
            self._transport.close()
