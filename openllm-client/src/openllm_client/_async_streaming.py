"""AsyncStream: the stream that the asynchronous client's `generate_stream` and `chat(stream=True)` return.

Twin of `_streaming.Stream`: change both. Apart from it, so that importing the package does not import asyncio.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import suppress
from types import TracebackType
from typing import Generic, TypeVar

import httpx

from openllm_core.errors import StatusError

from ._streaming import DONE, DRAIN_S, Interrupted, SSEDecoder, is_plain
from ._wire import Call

T = TypeVar("T")


class _AsyncSource(Generic[T]):
    __slots__ = ("call", "connect", "interrupted", "response")

    def __init__(
        self, call: Call[T], connect: Callable[[Call[T]], Awaitable[httpx.Response]], interrupted: Interrupted
    ) -> None:
        self.call = call
        self.connect = connect
        self.interrupted = interrupted
        self.response: httpx.Response | None = None

    async def open(self) -> httpx.Response:
        if self.response is None:
            self.response = await self.connect(self.call)
        return self.response


async def _async_events(source: _AsyncSource[T]) -> AsyncGenerator[T, None]:
    response = await source.open()
    read, feed = source.call.read, SSEDecoder().feed
    request_id = response.headers.get("x-request-id")
    try:
        chunks = response.aiter_raw() if is_plain(response) else response.aiter_bytes()
        async for chunk in chunks:
            for payload in feed(chunk):
                if payload == DONE:
                    await _async_drain(chunks)
                    return
                yield read(payload)
        raise source.interrupted(None, request_id)
    except httpx.RequestError as error:
        raise source.interrupted(error, request_id) from error
    except StatusError as error:
        error.request_id = request_id
        raise
    finally:
        await response.aclose()


async def _async_drain(chunks: AsyncIterator[bytes]) -> None:
    with suppress(httpx.RequestError, TimeoutError):
        async with asyncio.timeout(DRAIN_S):
            async for _ in chunks:
                pass


class AsyncStream(Generic[T]):
    """Asynchronous iterator over what a server sends, piece by piece; see `Stream`."""

    def __init__(
        self, call: Call[T], connect: Callable[[Call[T]], Awaitable[httpx.Response]], interrupted: Interrupted
    ) -> None:
        self._source = _AsyncSource(call, connect, interrupted)
        self._events = _async_events(self._source)

    async def open(self) -> AsyncStream[T]:
        """Send the request and wait until the answer begins; iteration does this by itself."""
        await self._source.open()
        return self

    @property
    def request_id(self) -> str | None:
        """`X-Request-Id` of the answer, once it has begun."""
        response = self._source.response
        return None if response is None else response.headers.get("x-request-id")

    def __aiter__(self) -> AsyncIterator[T]:
        return self._events

    async def __anext__(self) -> T:
        return await anext(self._events)

    async def aclose(self) -> None:
        """Leave the stream; the server stops generating. May be called again."""
        await self._events.aclose()
        if self._source.response is not None:
            await self._source.response.aclose()

    async def __aenter__(self) -> AsyncStream[T]:
        return await self.open()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()
