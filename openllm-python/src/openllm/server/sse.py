"""Server-sent events: deltas of the engine become bytes on a connection, cheaply.

`EventStream` is the ASGI response of every streaming route; the `*Frames` classes write one route's events. A frame is
glued from parts made once per stream; only the new text is encoded per token. Called by `routes/`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Coroutine, Mapping
from typing import Any, Protocol, TypeVar, cast

import orjson
from starlette.types import Message, Receive, Scope, Send

from openllm.service import Answer
from openllm.service.answers import chat_logprobs, completion_logprobs, plain_logprobs
from openllm_core.errors import OpenLLMError
from openllm_core.schema import Delta
from openllm_core.serde import dumps, unstructure

from .errors import ClientLeft, body_of
from .limits import FIRST_DELTA_WAIT_S, STALL_S
from .protocol import EXTENSION, StreamWriter

T = TypeVar("T")

DONE = b"data: [DONE]\n\n"
PING = b": ping\n\n"
HEADERS = ((b"cache-control", b"no-cache"), (b"x-accel-buffering", b"no"))

_json = orjson.dumps
_log = logging.getLogger("openllm.server")


# -- frames -----------------------------------------------------------------------------------------------------------


class Frames(Protocol):
    """Turns one answer's deltas into bytes."""

    content_type: bytes

    def begin(self) -> bytes:
        """What stands before the first delta."""
        ...

    def delta(self, delta: Delta) -> bytes:
        """One delta."""
        ...

    def end(self) -> bytes:
        """What stands after the last delta of an answer that succeeded."""
        ...

    def error(self, error: BaseException) -> bytes:
        """What ends an answer that failed."""
        ...


class EventFrames:
    """What the frames of all routes share."""

    content_type = b"text/event-stream; charset=utf-8"

    def __init__(self, answer: Answer, request_id: str) -> None:
        self._answer = answer
        self._request_id = request_id

    def begin(self) -> bytes:
        """Nothing."""
        return b""

    def end(self) -> bytes:
        """The mark of success."""
        return DONE

    def error(self, error: BaseException) -> bytes:
        """An error event; no `[DONE]` follows."""
        return b"data: %b\n\n" % dumps(body_of(error, self._request_id))


class OpenAIFrames(EventFrames):
    """Head and tail of the events of both OpenAI routes."""

    def __init__(self, answer: Answer, request_id: str, kind: str, include_usage: bool) -> None:
        super().__init__(answer, request_id)
        facts = {"id": answer.id, "object": kind, "created": answer.created, "model": answer.model}
        self._head = b"data: %b" % _json(facts | {"system_fingerprint": None})[:-1]
        self._include_usage = include_usage
        # Where usage was asked for, every event but the last says null.
        self._tail = b'}],"usage":null}\n\n' if include_usage else b"}]}\n\n"

    def end(self) -> bytes:
        """Usage where it was asked for, then the mark of success."""
        if not self._include_usage:
            return DONE
        return b'%b,"choices":[],"usage":%b}\n\n%b' % (self._head, dumps(self._answer.usage()), DONE)


class ChatFrames(OpenAIFrames):
    """Events of `/v1/chat/completions`."""

    def __init__(self, answer: Answer, request_id: str, include_usage: bool) -> None:
        super().__init__(answer, request_id, "chat.completion.chunk", include_usage)
        self._before = [
            b'%b,"choices":[{"index":%d,"delta":{"content":' % (self._head, index) for index in range(answer.choices)
        ]
        self._after = b'},"logprobs":null,"finish_reason":null' + self._tail

    def begin(self) -> bytes:
        """Who speaks, for each choice."""
        return b"".join(
            b'%b,"choices":[{"index":%d,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null%b'
            % (self._head, index, self._tail)
            for index in range(self._answer.choices)
        )

    def delta(self, delta: Delta) -> bytes:
        """New text; how the choice ended comes in an event of its own, as OpenAI has it."""
        before = self._before[delta.index]
        if delta.finish_reason is None and delta.logprobs is None:
            return b"%b%b%b" % (before, _json(delta.text), self._after)
        frame = b""
        if delta.text or delta.logprobs:
            logprobs = dumps(unstructure(chat_logprobs(delta.logprobs))) if delta.logprobs is not None else b"null"
            frame = b'%b%b},"logprobs":%b,"finish_reason":null%b' % (before, _json(delta.text), logprobs, self._tail)
        if delta.finish_reason is None:
            return frame
        return b'%b%b,"choices":[{"index":%d,"delta":{},"logprobs":null,"finish_reason":%b%b' % (
            frame,
            self._head,
            delta.index,
            _json(delta.finish_reason),
            self._tail,
        )


class CompletionFrames(OpenAIFrames):
    """Events of `/v1/completions`."""

    def __init__(self, answer: Answer, request_id: str, include_usage: bool) -> None:
        super().__init__(answer, request_id, "text_completion", include_usage)
        self._before = [b'%b,"choices":[{"index":%d,"text":' % (self._head, i) for i in range(answer.choices)]
        self._after = b',"logprobs":null,"finish_reason":null' + self._tail
        self._offsets = [0] * answer.choices

    def begin(self) -> bytes:
        """The prompts, where `echo` was asked for."""
        frames: list[bytes] = []
        if self._answer.prompts:
            for index, before in enumerate(self._before):
                prompt = self._answer.prompts[index // self._answer.n]
                frames.append(b"%b%b%b" % (before, _json(prompt), self._after))
        return b"".join(frames)

    def delta(self, delta: Delta) -> bytes:
        """New text and how the choice ended."""
        before = self._before[delta.index]
        if delta.finish_reason is None and delta.logprobs is None:
            return b"%b%b%b" % (before, _json(delta.text), self._after)
        logprobs = b"null"
        if delta.logprobs is not None:
            logprobs = dumps(unstructure(completion_logprobs(delta.logprobs, self._offsets[delta.index])))
            self._offsets[delta.index] += sum(len(entry.token) for entry in delta.logprobs)
        return b'%b%b,"logprobs":%b,"finish_reason":%b%b' % (
            before,
            _json(delta.text),
            logprobs,
            _json(delta.finish_reason),
            self._tail,
        )


class GenerateFrames(EventFrames):
    """Events of `/v1/generate_stream`: the very last one carries usage."""

    def __init__(self, answer: Answer, request_id: str) -> None:
        super().__init__(answer, request_id)
        self._open = answer.choices

    def begin(self) -> bytes:
        """The prompt, where `echo` was asked for."""
        if not self._answer.prompts:
            return b""
        prompt = _json(self._answer.prompts[0])
        return b"".join(
            b'data: {"index":%d,"text":%b,"token_ids":[],"finish_reason":null}\n\n' % (index, prompt)
            for index in range(self._answer.choices)
        )

    def delta(self, delta: Delta) -> bytes:
        """New text and ids."""
        text, ids = _json(delta.text), _json(delta.token_ids)
        if delta.finish_reason is None and delta.logprobs is None:
            return b'data: {"index":%d,"text":%b,"token_ids":%b,"finish_reason":null}\n\n' % (delta.index, text, ids)
        more = b""
        if delta.logprobs is not None:
            more += b',"logprobs":%b' % _json(plain_logprobs(delta.logprobs))
        if delta.finish_reason is not None:
            self._open -= 1
            if self._open == 0:
                more += b',"usage":%b' % dumps(self._answer.usage())
        return b'data: {"index":%d,"text":%b,"token_ids":%b,"finish_reason":%b%b}\n\n' % (
            delta.index,
            text,
            ids,
            _json(delta.finish_reason),
            more,
        )


class TextFrames:
    """`/v1/generate_stream` for `Accept: text/plain`: nothing but the text of the one choice."""

    content_type = b"text/plain; charset=utf-8"

    def __init__(self, answer: Answer) -> None:
        self._answer = answer

    def begin(self) -> bytes:
        """The prompt, where `echo` was asked for."""
        return self._answer.prompts[0].encode() if self._answer.prompts else b""

    def delta(self, delta: Delta) -> bytes:
        """New text."""
        return delta.text.encode()

    def end(self) -> bytes:
        """Nothing."""
        return b""

    def error(self, error: BaseException) -> bytes:
        """Plain text has no place for an error: the connection is cut instead."""
        raise Cut from error


class Cut(Exception):
    """The answer cannot say that it failed: cut the connection, so that its reader does not take it for whole."""


# -- the response -----------------------------------------------------------------------------------------------------


class EventStream:
    """ASGI response that streams one answer.

    An answer that fails before its first delta raises, so that the middleware can answer with a status. A client that
    leaves, or takes nothing for 30 s, aborts the answer in the engine at once. After `ping_s` of silence a comment is sent.

    Args:
        answer: closed in every case.
        frames: how it looks on the wire.
        headers: further headers.
    """

    def __init__(
        self, answer: Answer, frames: Frames, *, ping_s: float, headers: Mapping[str, str] | None = None
    ) -> None:
        self._answer = answer
        self._frames = frames
        self._ping_s = ping_s
        self._headers = [(name.encode(), value.encode("latin-1")) for name, value in (headers or {}).items()]
        self._last_write = 0.0
        self._writer: StreamWriter | None = None
        self._pinger: asyncio.TimerHandle | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run it."""
        main = cast("asyncio.Task[None]", asyncio.current_task())
        left = False

        def on_leave(watcher: asyncio.Task[None]) -> None:
            nonlocal left
            if not watcher.cancelled():
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
            watcher.remove_done_callback(on_leave)
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
                async with asyncio.timeout(STALL_S):
                    await send({"type": "http.response.body", "body": encode(delta), "more_body": True})
            return
        write = writer.write
        async for delta in self._answer.deltas:
            self._last_write = now()
            write(encode(delta))
            if writer.slow:
                await self._catch_up(writer)

    async def _catch_up(self, writer: StreamWriter) -> None:
        try:
            async with asyncio.timeout(STALL_S):
                await writer.drain()
        except TimeoutError:
            writer.abort()
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
    try:
        await asyncio.wait((task, watcher), return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise ClientLeft
    finally:
        watcher.cancel()
        if not task.done():
            task.cancel()
            await asyncio.wait((task,))
