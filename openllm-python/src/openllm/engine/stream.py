"""One request while it runs: its n sequences, and the stream of deltas its caller reads.

`Engine` feeds `Sequence.take` once per step and token, so that is the hot path of the server process. `RequestStream` is
what `Engine.add` returns. It must not know of HTTP.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Literal, Protocol

from openllm_core.errors import EngineError, EngineUnavailable, OpenLLMError, RequestAborted, from_dict
from openllm_core.schema import Delta, LogprobEntry, Usage

from ..backends.base import BackendRequest, SequenceDelta, TokenLogprob
from ..python_tokenizer import HostDetokenizer
from ..tokenizer import Tokenizer
from .detokenizer import TextStream
from .request import EngineRequest

MERGE_ABOVE = 32
"""Deltas a slow reader may leave before further text of a choice is joined to its last one."""


class Home(Protocol):
    """The engine that has a request now; a request that nobody has begun may move to another one."""

    def on_stream_closed(self, stream: RequestStream) -> None:
        """Its caller wants no more of it."""
        ...

    def on_deadline(self, stream: RequestStream) -> None:
        """Its time is over."""
        ...

    def on_queue_timeout(self, stream: RequestStream) -> None:
        """It stood in line for too long."""
        ...


class RequestStream:
    """Async iterator of one request's deltas, all choices interleaved; the last delta of each has a finish reason.

    Close it (`aclose`, or `async with`) to abort: what it holds in the engine is freed at once. Iteration raises the
    `OpenLLMError` that ended the request, after the deltas that came before it.

    Attributes:
        request_id: of the request.
        prompt_token_ids: [prompt_len] as the model got them.
        completion_tokens: generated so far, all choices together, stop tokens included.

        admitted_at, submitted_at, first_token_at, last_token_at: monotonic seconds; 0.0 = has not happened.
        finish_reasons: of the choices that have ended by themselves.

    The engine's own: `home`, `sequences`, `open` (choices not ended), `deadline`, `left_line` (set while it waits in line).
    """

    def __init__(self, request: EngineRequest, prompt_token_ids: list[int], home: Home) -> None:
        self.request_id = request.request_id
        self.request = request
        self.prompt_token_ids = prompt_token_ids
        self.completion_tokens = 0
        self.sequences: list[Sequence] = []
        self.open = 0
        self.admitted_at = self.submitted_at = self.first_token_at = self.last_token_at = 0.0
        self.finish_reasons: list[str] = []
        self.deadline: asyncio.TimerHandle | None = None
        self.left_line: asyncio.Future[None] | None = None
        self.loop = asyncio.get_running_loop()
        self.home = home
        self._deltas: deque[Delta] = deque()
        self._waiter: asyncio.Future[None] | None = None
        self._error: OpenLLMError | None = None
        self._ended = False
        self._sink: Callable[[Delta], bool] | None = None
        self._transcript = request.transcript

    @property
    def prompt_tokens(self) -> int:
        """Tokens of the prompt, special tokens included."""
        return len(self.prompt_token_ids)

    def usage(self) -> Usage:
        """Token counts so far."""
        prompt, completion = self.prompt_tokens, self.completion_tokens
        return Usage(prompt_tokens=prompt, completion_tokens=completion, total_tokens=prompt + completion)

    @property
    def finished(self) -> bool:
        """True once nothing more will come: ended, failed or closed."""
        return self._ended

    def __aiter__(self) -> RequestStream:
        return self

    async def __anext__(self) -> Delta:
        deltas = self._deltas
        while not deltas:
            if self._error is not None:
                raise self._error
            if self._ended:
                raise StopAsyncIteration
            self._waiter = self.loop.create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        return deltas.popleft()

    async def __aenter__(self) -> RequestStream:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Abort what still runs and forget what was not read; idempotent, never waits."""
        self.close()

    def close(self) -> None:
        """`aclose` for callers that cannot await."""
        self._deltas.clear()
        self._error = None
        if not self._ended:
            self.end()
            self.home.on_stream_closed(self)

    def start_deadline(self) -> None:
        """Let the request's time run, from now on."""
        self.deadline = self.loop.call_later(self.request.deadline_s, lambda: self.home.on_deadline(self))

    def listen(self, sink: Callable[[Delta], bool]) -> None:
        """Hand deltas to `sink` as they come, without waking the reader; it still gets those that `sink` refuses.

        Order is kept: while a refused delta waits to be read, none goes to `sink`.

        Args:
            sink: called within the engine's step, so it must not wait; False = not taken.
        """
        self._sink = sink

    # fed by the engine

    def put(self, delta: Delta) -> None:
        """Hand one delta to the reader."""
        if self._transcript is not None:
            self._transcript.pieces.append((delta.index, delta.text))
        deltas, sink = self._deltas, self._sink
        if sink is not None and not deltas and sink(delta):
            return
        if len(deltas) >= MERGE_ABOVE and _merge(deltas, delta):
            return
        deltas.append(delta)
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def end(self, error: OpenLLMError | None = None) -> None:
        """Nothing more will come."""
        if not self._ended:
            self._ended = True
            self._error = error
            if self.deadline is not None:
                self.deadline.cancel()
            if self.request.on_end is not None and self.submitted_at:  # else nothing was computed of it
                self.request.on_end(self.usage())
            self._notify()

    def leave_line(self, error: OpenLLMError | None = None) -> None:
        """It need not wait in line any more: it got a slot, or it never will."""
        left = self.left_line
        if left is not None and not left.done():
            if error is None:
                left.set_result(None)
            else:
                left.set_exception(error)

    def _notify(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


def _merge(deltas: deque[Delta], new: Delta) -> bool:
    """Join `new` to the newest waiting delta of its choice, if that is among the last few."""
    for delta in reversed(deltas):
        if delta.index == new.index:
            delta.text += new.text
            delta.token_ids += new.token_ids
            delta.finish_reason = new.finish_reason
            delta.stop_reason = new.stop_reason
            if new.logprobs is not None:
                delta.logprobs = (delta.logprobs or []) + new.logprobs
            return True
    return False


class Sequence:
    """One choice of a request, from the line to its end.

    Attributes:
        backend_request: what the backend gets.
        state: where it stands.
        requeued: it already survived one death of the host.
    """

    __slots__ = (
        "_detokenizer",
        "_ids",
        "_logprobs",
        "_tokenizer",
        "_watched",
        "backend_request",
        "index",
        "last_token_at",
        "requeued",
        "state",
        "stream",
        "text",
    )

    def __init__(
        self, stream: RequestStream, index: int, backend_request: BackendRequest, tokenizer: Tokenizer
    ) -> None:
        sampling = stream.request.sampling
        self.stream = stream
        self.index = index
        self.backend_request = backend_request
        self._detokenizer = tokenizer.detokenizer(stream.request.marks)
        self.text = TextStream(self._detokenizer, sampling.stop, sampling.min_tokens)
        self.state: Literal["waiting", "submitted", "started", "done"] = "waiting"
        self.requeued = False
        self.last_token_at = 0.0
        self._watched = frozenset(sampling.stop_token_ids)
        self._ids: list[int] = []
        self._logprobs: list[TokenLogprob] | None = None
        self._tokenizer = tokenizer

    def take(self, delta: SequenceDelta) -> bool:
        """Turn one step's tokens into text and pass it on.

        Returns:
            True when a stop string ended the sequence here, so that the backend must be told to drop it.
        """
        ids, reason, text = delta.token_ids, delta.finish_reason, self.text
        if delta.text is not None and isinstance(self._detokenizer, HostDetokenizer):
            self._detokenizer.feed(delta.text.pieces, delta.text.tokens)
        if len(ids) > 1 and text.searches:
            return self._take_one_by_one(delta)
        self.stream.completion_tokens += len(ids)
        if reason == "stop" and ids and ids[-1] == delta.stop_token_id:
            piece = text.push(ids[:-1]) if len(ids) > 1 else ""  # a stop token has no text
        else:
            piece = text.push(ids)
        if self._ids:
            ids = self._ids = self._ids + ids
        if delta.logprobs is not None:
            self._logprobs = delta.logprobs if self._logprobs is None else self._logprobs + delta.logprobs
        if reason is None and text.stop is None:
            if piece:
                self._send(piece, ids, None, None)
            elif ids is not self._ids:
                self._ids = list(ids)
            return False
        return self._finish(piece, ids, delta)

    def _finish(self, piece: str, ids: list[int], delta: SequenceDelta) -> bool:
        text, reason = self.text, delta.finish_reason
        if text.stop is None:
            piece += text.flush()
        if text.stop is not None:
            self._send(piece, ids, "stop", text.stop)
            return reason is None
        if reason == "stop" and delta.stop_token_id in self._watched:
            self._send(piece, ids, "stop", delta.stop_token_id)
        else:
            self._send(piece, ids, reason, None)
        return False

    def _take_one_by_one(self, delta: SequenceDelta) -> bool:
        """Several tokens in one step: none behind the one that completes a stop string counts."""
        last = len(delta.token_ids) - 1
        for position, token_id in enumerate(delta.token_ids):
            logprobs = None if delta.logprobs is None else delta.logprobs[position : position + 1]
            reason, stop = (delta.finish_reason, delta.stop_token_id) if position == last else (None, None)
            if self.take(SequenceDelta(delta.request_id, [token_id], reason, stop, None, logprobs)):
                return True
        return False

    def _send(self, piece: str, ids: list[int], reason: str | None, stop_reason: str | int | None) -> None:
        logprobs = None
        if self._logprobs is not None:
            logprobs = [self._entry(found) for found in self._logprobs]
            self._logprobs = None
        if self._ids:
            self._ids = []
        self.stream.put(Delta(self.index, piece, ids, reason, logprobs, stop_reason))

    def _entry(self, found: TokenLogprob) -> LogprobEntry:
        tokenizer = self._tokenizer
        raw = tokenizer.token_bytes(found.token_id)
        return LogprobEntry(
            raw.decode("utf-8", "replace"),
            found.token_id,
            found.logprob,
            list(raw),
            [(tokenizer.token_text(token_id), token_id, logprob) for token_id, logprob in found.top],
        )


def error_of(delta: SequenceDelta) -> OpenLLMError:
    """The error a delta with finish reason "error" or "abort" carries."""
    if delta.error is not None:
        return from_dict(delta.error)
    if delta.finish_reason == "abort":
        return RequestAborted("The backend dropped the request.")
    return EngineError("The backend failed this request without saying why.")


def stopped_by(error: OpenLLMError, retry_in_s: float | None) -> EngineUnavailable:
    """What a request is told whose host went down.

    Args:
        error: that ended the host.
        retry_in_s: until another is started; None where none will be.
    """
    retry = None if retry_in_s is None else max(1.0, retry_in_s)
    return EngineUnavailable(f"The engine stopped while working on this request: {error.message}", retry_after_s=retry)
