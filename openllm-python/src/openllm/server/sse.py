"""Streams one answer to one client: waits for deltas, writes frames, notices clients that leave or stall.

`EventStream` is the ASGI response of every streaming route; `unless_left` does the waiting for one-shot answers. Frames
are made by `frames.py`. Knows nothing of what a frame says.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Coroutine, Mapping
from typing import Any, TypeVar, cast

from starlette.types import Message, Receive, Scope, Send

from openllm.observation import current, failed
from openllm.service import Answer
from openllm_core.errors import OpenLLMError
from openllm_core.limits import Limits
from openllm_core.schema import Delta

from .errors import ClientLeft
from .frames import Cut, EventFrames, Frames
from .limits import FIRST_DELTA_WAIT_S
from .protocol import EXTENSION, StreamWriter

T = TypeVar("T")

PING = b": ping\n\n"
HEADERS = ((b"cache-control", b"no-cache"), (b"x-accel-buffering", b"no"))

_log = logging.getLogger("openllm.server")


class EventStream:
    """ASGI response that streams one answer.

    An answer that fails before its first delta raises, so that the middleware can answer with a status. A client that
    leaves, or takes nothing for too long, aborts the answer in the engine at once. After a while of silence a comment is sent.

    Args:
        answer: closed in every case.
        frames: how it looks on the wire.
        limits: its `stall_timeout` and `ping_interval`.
        headers: further headers.
    """

    def __init__(
        self, answer: Answer, frames: Frames, *, limits: Limits, headers: Mapping[str, str] | None = None
    ) -> None:
        self._answer = answer
        self._frames = frames
        self._ping_s = limits.ping_interval
        self._stall_s = limits.stall_timeout
        self._headers = [(name.encode(), value.encode("latin-1")) for name, value in (headers or {}).items()]
        self._last_write = 0.0
        self._writer: StreamWriter | None = None
        self._pinger: asyncio.TimerHandle | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run it."""
        main = cast("asyncio.Task[None]", asyncio.current_task())
        if (seen := current()) is not None:
            seen.stream = True
        left = over = False

        def on_leave(watcher: asyncio.Task[None]) -> None:
            nonlocal left
            if not over and not watcher.cancelled():
                left = True
                main.cancel()

        watcher = asyncio.create_task(until_left(receive))
        watcher.add_done_callback(on_leave)
        try:
            await self._run(scope, send)
        except asyncio.CancelledError:
            if left and main.uncancel() == 0:
                raise ClientLeft from None
            raise
        finally:
            over = True  # the callback may be on its way already, when the client leaves as its answer ends
            watcher.cancel()
            if self._pinger is not None:
                self._pinger.cancel()
            await self._answer.aclose()

    async def _run(self, scope: Scope, send: Send) -> None:
        frames = self._frames
        deltas = self._answer.deltas
        first = asyncio.ensure_future(anext(deltas, None))
        try:
            await asyncio.wait((first,), timeout=FIRST_DELTA_WAIT_S)
            if first.done():
                first.result()  # raises what there is to refuse
            headers = [(b"content-type", frames.content_type), *HEADERS, *self._headers]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            writer: StreamWriter | None = scope.get("extensions", {}).get(EXTENSION)
            self._writer = writer if writer is not None and writer.usable else None
            self._pinger = asyncio.get_running_loop().call_later(self._ping_s, self._ping, send)
            try:
                begin = frames.begin()
                delta = await first
                await self._write(send, begin + frames.delta(delta) if delta is not None else begin)
                await self._pump(send)
                last = frames.end()
            except Exception as error:
                last = self._failed(error)
        finally:
            first.cancel()
        if last:
            await self._write(send, last)
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _pump(self, send: Send) -> None:
        """The hot path: one delta, one frame, one write."""
        encode, writer, now = self._frames.delta, self._writer, time.monotonic
        if writer is None:
            async for delta in self._answer.deltas:
                self._last_write = now()
                try:
                    async with asyncio.timeout(self._stall_s):
                        await send({"type": "http.response.body", "body": encode(delta), "more_body": True})
                except TimeoutError:
                    raise ClientLeft from None
            return
        write = writer.write
        behind = False

        def sink(delta: Delta) -> bool:
            """Straight from the engine's step to the socket, while the client keeps up."""
            if behind or writer.slow:
                return False
            self._last_write = now()
            write(encode(delta))
            return True

        self._answer.listen(sink)
        async for delta in self._answer.deltas:  # what came while the client was slow, and the end
            behind = True  # a delta is in hand: none may overtake it
            if writer.slow:
                await self._catch_up(writer)
            self._last_write = now()
            write(encode(delta))
            behind = False

    async def _catch_up(self, writer: StreamWriter) -> None:
        try:
            async with asyncio.timeout(self._stall_s):
                await writer.drain()
        except TimeoutError:
            await writer.cut()
            raise ClientLeft from None

    async def _write(self, send: Send, data: bytes) -> None:
        self._last_write = time.monotonic()
        if self._writer is not None:
            self._writer.write(data)
        elif data:
            await send({"type": "http.response.body", "body": data, "more_body": True})

    def _failed(self, error: BaseException) -> bytes:
        if isinstance(error, ClientLeft | Cut):
            raise error
        if not isinstance(error, OpenLLMError):
            _log.error("a stream failed", exc_info=error)
        failed(error)
        return self._frames.error(error)

    def _ping(self, send: Send) -> None:
        """Every so often: a comment, if nothing else was sent meanwhile."""
        loop = asyncio.get_running_loop()
        silent = time.monotonic() - self._last_write
        if silent >= self._ping_s and isinstance(self._frames, EventFrames):
            if self._writer is not None:
                if not self._writer.slow:
                    self._writer.write(PING)
            else:
                message: Message = {"type": "http.response.body", "body": PING, "more_body": True}
                self._ping_task = asyncio.ensure_future(_quietly(send, message))
            silent = 0.0
        self._pinger = loop.call_later(max(0.01, self._ping_s - silent), self._ping, send)


async def _quietly(send: Send, message: Message) -> None:
    with contextlib.suppress(Exception):
        await send(message)


async def until_left(receive: Receive) -> None:
    """Return when the client has left (or its answer is whole); what it still sends is thrown away."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def unless_left(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """Do some work for a client; cancel it as soon as the client leaves.

    Raises:
        ClientLeft: it did.
    """
    task, watcher = asyncio.ensure_future(work), asyncio.ensure_future(until_left(receive))
    claimed = False
    try:
        await asyncio.wait((task, watcher), return_when=asyncio.FIRST_COMPLETED)
        claimed = task.done()
        if not claimed:
            raise ClientLeft
        return task.result()
    finally:
        watcher.cancel()
        if not claimed:
            await _give_up(task)


async def _give_up(work: asyncio.Future[Any]) -> None:
    """End work that nobody waits for any more."""
    work.cancel()
    work.add_done_callback(_close_answer)  # however it ends, and even where the waiting is cancelled
    await asyncio.wait((work,))


def _close_answer(work: asyncio.Future[Any]) -> None:
    """Close a stream that was begun for nobody."""
    if not work.cancelled() and work.exception() is None and isinstance(work.result(), Answer):
        work.result().close()
