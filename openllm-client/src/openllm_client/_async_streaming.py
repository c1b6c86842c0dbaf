"""AsyncStream: the stream that the asynchronous client's `generate_stream` and `chat(stream=True)` return.

Twin of `_streaming.Stream`: change both. Apart from it, so that importing the package does not import asyncio.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import suppress
from types import TracebackType
from typing import Generic, Protocol, TypeVar

import httpx

from openllm_core.errors import StatusError

from ._streaming import DONE, DRAIN_S, Interrupted, SSEDecoder, is_plain
from ._wire import Call

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class AsyncSource(Protocol[T_co]):
    """Where a stream comes from; see `Source`."""

    @property
    def request_id(self) -> str | None:
        """As the server named it, once it has."""
        ...

    async def open(self) -> None:
        """Send the request and wait until the answer begins, unless that was done."""
        ...

    def pieces(self) -> AsyncGenerator[T_co, None]:
        """Open, and give what comes; close when that ends or is left."""
        ...

    async def aclose(self) -> None:
        """End the answer, if there is one. May be called again."""
        ...


class AsyncHTTPSource(Generic[T]):
    """Server-sent events of one response."""

    __slots__ = ("_call", "_connect", "_interrupted", "_response")

    def __init__(
        self, call: Call[T], connect: Callable[[Call[T]], Awaitable[httpx.Response]], interrupted: Interrupted
    ) -> None:
        self._call = call
        self._connect = connect
        self._interrupted = interrupted
        self._response: httpx.Response | None = None

    @property
    def request_id(self) -> str | None:
        """`X-Request-Id` of the answer, once it has begun."""
        return None if self._response is None else self._response.headers.get("x-request-id")

    async def open(self) -> None:
        """Send the request, unless it was sent; return when the answer begins."""
        await self._opened()

    async def _opened(self) -> httpx.Response:
        if self._response is None:
            self._response = await self._connect(self._call)
        return self._response

    async def pieces(self) -> AsyncGenerator[T, None]:
        """What the events say, one by one."""
        response = await self._opened()
        read, feed = self._call.read, SSEDecoder().feed
        try:
            chunks = response.aiter_raw() if is_plain(response) else response.aiter_bytes()
            async for chunk in chunks:
                for payload in feed(chunk):
                    if payload == DONE:
                        await _async_drain(chunks)
                        return
                    yield read(payload)
            raise self._interrupted(None, self.request_id)
        except httpx.RequestError as error:
            raise self._interrupted(error, self.request_id) from error
        except StatusError as error:
            error.request_id = self.request_id
            raise
        finally:
            await response.aclose()

    async def aclose(self) -> None:
        """Close the connection, which the server takes as an abort."""
        if self._response is not None:
            await self._response.aclose()


async def _async_drain(chunks: AsyncIterator[bytes]) -> None:
    with suppress(httpx.RequestError, TimeoutError):
        async with asyncio.timeout(DRAIN_S):
            async for _ in chunks:
                pass


class AsyncStream(Generic[T]):
    """Asynchronous iterator over what a server sends, piece by piece; see `Stream`."""

    def __init__(self, source: AsyncSource[T]) -> None:
        self._source = source
        self._pieces = source.pieces()

    async def open(self) -> AsyncStream[T]:
        """Send the request and wait until the answer begins; iteration does this by itself."""
        await self._source.open()
        return self

    @property
    def request_id(self) -> str | None:
        """Id of the request in the server's log, once the answer has begun."""
        return self._source.request_id

    def __aiter__(self) -> AsyncIterator[T]:
        return self._pieces

    async def __anext__(self) -> T:
        return await anext(self._pieces)

    async def aclose(self) -> None:
        """Leave the stream; the server stops generating. May be called again."""
        await self._pieces.aclose()
        await self._source.aclose()

    async def __aenter__(self) -> AsyncStream[T]:
        return await self.open()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()
