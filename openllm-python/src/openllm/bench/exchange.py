"""One HTTP request and the moments at which each part of its answer arrived, at little cost to the machine it shares.

Used by `endpoint`. A connection per request, a C parser, no work per token but a time and a reference: what the answer says
is read by `answers` once it is whole. Knows nothing of JSON.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Mapping
from typing import cast
from urllib.parse import urlsplit

import attrs
import httptools

PartTimes = list[tuple[float, bytes]]
"""(moment, bytes) of each part of a body, in the order they came; moments are of `time.perf_counter`."""

BUFFER_BYTES = 64 * 1024


class ExchangeFailed(Exception):
    """No whole answer came. `kind` is one word to count by: connect, cut, timeout, not_http."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


@attrs.frozen
class Reply:
    """A whole answer.

    Attributes:
        parts: of the body.
        ended_at: when the last byte came.
    """

    status: int
    parts: PartTimes
    ended_at: float

    @property
    def body(self) -> bytes:
        """The body in one piece."""
        return b"".join(part for _, part in self.parts)


class Address:
    """Where a server listens, with what every request to it carries.

    Args:
        url: scheme, host, port and path prefix.
        headers: sent with every request.
    """

    def __init__(self, url: str, headers: Mapping[str, str] | None = None) -> None:
        split = urlsplit(url)
        self.url = url.rstrip("/")
        self.host = split.hostname or "localhost"
        self.port = split.port or (443 if split.scheme == "https" else 80)
        self._prefix = split.path.rstrip("/")
        self._tls = ssl.create_default_context() if split.scheme == "https" else None
        self._buffer = memoryview(bytearray(BUFFER_BYTES))
        lines = {"Host": split.netloc, "Connection": "close", **(headers or {})}
        self._common = "".join(f"{name}: {value}\r\n" for name, value in lines.items())

    async def request(self, method: str, path: str, body: bytes = b"", *, timeout_s: float) -> Reply:
        """Send one request on a connection of its own and wait for the whole answer.

        Raises:
            ExchangeFailed: there was none.
        """
        head = f"{method} {self._prefix}{path} HTTP/1.1\r\n{self._common}"
        if body:
            head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        request = f"{head}\r\n".encode() + body
        loop = asyncio.get_running_loop()
        done: asyncio.Future[Reply] = loop.create_future()
        transport: asyncio.BaseTransport | None = None
        try:
            async with asyncio.timeout(timeout_s):
                transport, _ = await loop.create_connection(
                    lambda: _Exchange(request, done, self._buffer), self.host, self.port, ssl=self._tls
                )
                return await done
        except TimeoutError:
            raise ExchangeFailed("timeout", f"no whole answer within {timeout_s:g} s") from None
        except OSError as error:
            raise ExchangeFailed("connect", error.strerror or str(error)) from None
        finally:
            done.cancel()  # else the end of a connection that was given up is an error nobody asks for
            if transport is not None:
                transport.close()


class _Exchange(asyncio.BufferedProtocol):
    """Writes the request when connected; notes each part of the answer and when it came.

    The buffer is shared by all exchanges of an address: it is only in use within one turn of the event loop. asyncio's
    plain protocol makes a new one of 256 KiB for each piece, which costs more than all the rest.
    """

    def __init__(self, request: bytes, done: asyncio.Future[Reply], buffer: memoryview) -> None:
        self._buffer = buffer
        self._request = request
        self._done = done
        self._parser = httptools.HttpResponseParser(self)
        self._parts: PartTimes = []
        self._now = 0.0
        self._framed = False  # the answer says itself where it ends

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send."""
        cast(asyncio.Transport, transport).write(self._request)

    def get_buffer(self, sizehint: int) -> memoryview:
        """Where the next bytes go."""
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Parse."""
        self._now = time.perf_counter()
        try:
            self._parser.feed_data(self._buffer[:nbytes])
        except httptools.HttpParserError as error:
            self._fail("not_http", f"the answer is no HTTP/1.1: {error}")

    def connection_lost(self, exc: Exception | None) -> None:
        """The end, where the answer does not say itself where it ends; otherwise too early."""
        if not self._framed and self._parts and exc is None:
            self.on_message_complete()
        self._fail("cut", "the connection ended before the answer did")

    # called by the parser

    def on_header(self, name: bytes, value: bytes) -> None:
        """Look for what frames the body."""
        if name.lower() in (b"content-length", b"transfer-encoding"):
            self._framed = True

    def on_body(self, body: bytes) -> None:
        """Part of the body."""
        self._parts.append((self._now, body))

    def on_message_complete(self) -> None:
        """All of it is there."""
        if not self._done.done():
            self._done.set_result(Reply(self._parser.get_status_code(), self._parts, self._now))

    def _fail(self, kind: str, message: str) -> None:
        if not self._done.done():
            self._done.set_exception(ExchangeFailed(kind, message))
