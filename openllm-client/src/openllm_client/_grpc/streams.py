"""Where a stream over gRPC comes from: for `Stream` and `AsyncStream`, what the HTTP sources are for HTTP.

gRPC has no limit on silence, only on a whole call: here a call that says nothing for the client's time-out is ended.
"""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from typing import Any, Generic, TypeVar

import attrs
import grpc
import grpc.aio

from .._wire import Call
from .calls import Method

T = TypeVar("T")


class Watch:
    """Ends a call that is silent for too long, from a thread of its own. Each message is a `touch`.

    Attributes:
        fired: whether it did.
    """

    def __init__(self, limit_s: float, cancel: Callable[[], Any]) -> None:
        self.fired = False
        self._limit_s = limit_s
        self._cancel = cancel
        self._last = time.monotonic()
        self._over = threading.Event()
        threading.Thread(target=self._run, name="openllm-silence", daemon=True).start()

    def touch(self) -> None:
        """Something came."""
        self._last = time.monotonic()

    def stop(self) -> None:
        """The call is over."""
        self._over.set()

    def _run(self) -> None:
        while not self._over.wait(max(self._last + self._limit_s - time.monotonic(), 0.01)):
            if time.monotonic() - self._last >= self._limit_s:
                self.fired = True
                self._cancel()
                return


async def next_message(call: Any, seconds: float) -> Any:
    """The next message of a call, or None at its end.

    Raises:
        TimeoutError: none came in time.
        grpc.RpcError: the call failed.
    """
    async with asyncio.timeout(seconds):
        message = await call.read()
    return None if message is grpc.aio.EOF else message


@attrs.frozen
class Opened:
    """A call whose answer has begun.

    Attributes:
        call: as the library gave it.
        first: its first message; None where it has none.
        request_id: its name in the server's log.
    """

    call: Any
    first: Any
    request_id: str


class GrpcSource(Generic[T]):
    """The messages of one call, read as they come."""

    __slots__ = ("_broken", "_call", "_connect", "_method", "_opened", "_timeout_s")

    def __init__(
        self,
        call: Call[T],
        method: Method,
        connect: Callable[[Call[T]], Opened],
        broken: Callable[[str], Callable[[Any, bool], Exception]],
        timeout_s: float,
    ) -> None:
        """Args:
        connect: sends the call and waits until its answer begins.
        broken: for a request, what makes a typed error of the library's and of whether it was ended for its silence.
        timeout_s: the longest silence.
        """
        self._call = call
        self._method = method
        self._connect = connect
        self._broken = broken
        self._timeout_s = timeout_s
        self._opened: Opened | None = None

    @property
    def request_id(self) -> str | None:
        """As the server named it, once it has."""
        return None if self._opened is None else self._opened.request_id

    def open(self) -> None:
        """Send the call, unless it was sent; return when its first message is there."""
        self._begun()

    def _begun(self) -> Opened:
        if self._opened is None:
            self._opened = self._connect(self._call)
        return self._opened

    def pieces(self) -> Generator[T, None, None]:
        """What the messages say, one by one."""
        opened = self._begun()
        running = opened.call
        read, body = self._method.read, self._call.body
        watch = Watch(self._timeout_s, running.cancel)
        try:
            for message in itertools.chain(() if opened.first is None else (opened.first,), running):
                watch.touch()
                piece = read(message, body)
                if piece is not None:
                    yield piece
                    watch.touch()  # the caller's own time is not the server's silence
        except grpc.RpcError as error:
            raise self._broken(opened.request_id)(error, watch.fired) from error
        finally:
            watch.stop()
            running.cancel()

    def close(self) -> None:
        """End the call, which the server takes as an abort."""
        if self._opened is not None:
            self._opened.call.cancel()


class AsyncGrpcSource(Generic[T]):
    """The messages of one call, read as they come."""

    __slots__ = ("_broken", "_call", "_connect", "_method", "_opened", "_timeout_s")

    def __init__(
        self,
        call: Call[T],
        method: Method,
        connect: Callable[[Call[T]], Awaitable[Opened]],
        broken: Callable[[str], Callable[[Any, bool], Exception]],
        timeout_s: float,
    ) -> None:
        """See `GrpcSource`."""
        self._call = call
        self._method = method
        self._connect = connect
        self._broken = broken
        self._timeout_s = timeout_s
        self._opened: Opened | None = None

    @property
    def request_id(self) -> str | None:
        """As the server named it, once it has."""
        return None if self._opened is None else self._opened.request_id

    async def open(self) -> None:
        """Send the call, unless it was sent; return when its first message is there."""
        await self._begun()

    async def _begun(self) -> Opened:
        if self._opened is None:
            self._opened = await self._connect(self._call)
        return self._opened

    async def pieces(self) -> AsyncGenerator[T, None]:
        """What the messages say, one by one."""
        opened = await self._begun()
        running, message = opened.call, opened.first
        read, body = self._method.read, self._call.body
        try:
            while message is not None:
                piece = read(message, body)
                if piece is not None:
                    yield piece
                message = await next_message(running, self._timeout_s)
        except TimeoutError as error:
            running.cancel()
            raise self._broken(opened.request_id)(running, True) from error
        except grpc.RpcError as error:
            raise self._broken(opened.request_id)(error, False) from error
        finally:
            running.cancel()

    async def aclose(self) -> None:
        """End the call, which the server takes as an abort."""
        if self._opened is not None:
            self._opened.call.cancel()
