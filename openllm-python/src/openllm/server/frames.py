"""How the events of each streaming route look: deltas become bytes, glued from parts made once per stream.

Only the new text is encoded per token. `sse.EventStream` writes what these make; nothing here does I/O.
"""

from __future__ import annotations

from typing import Protocol

import orjson

from openllm.service import Answer
from openllm.service.answers import chat_logprobs, completion_logprobs, plain_logprobs
from openllm_core.schema import CallDelta, Delta
from openllm_core.serde import dumps, unstructure

from .errors import body_of

DONE = b"data: [DONE]\n\n"

_json = orjson.dumps


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
        if delta.finish_reason is None and delta.logprobs is None and not self._answer.is_read:
            return b"%b%b%b" % (before, _json(delta.text), self._after)
        frame = self._reasoning(delta) if delta.reasoning else b""
        if delta.text or delta.logprobs:
            logprobs = dumps(unstructure(chat_logprobs(delta.logprobs))) if delta.logprobs is not None else b"null"
            frame += b'%b%b},"logprobs":%b,"finish_reason":null%b' % (before, _json(delta.text), logprobs, self._tail)
        for call in delta.calls or ():
            frame += self._call(delta.index, call)
        if delta.finish_reason is None:
            return frame
        return b'%b%b,"choices":[{"index":%d,"delta":{},"logprobs":null,"finish_reason":%b%b' % (
            frame,
            self._head,
            delta.index,
            _json(delta.finish_reason),
            self._tail,
        )

    def _reasoning(self, delta: Delta) -> bytes:
        """What the model says to itself."""
        return self._with(delta.index, b'"reasoning_content":%b' % _json(delta.reasoning))

    def _call(self, index: int, call: CallDelta) -> bytes:
        """A call that begins, which alone names it, or more of its arguments."""
        head: dict[str, object] = {"index": call.index}
        function: dict[str, object] = {"arguments": call.arguments}
        if call.id is not None:
            head |= {"id": call.id, "type": "function"}
            function = {"name": call.name} | function
        return self._with(index, b'"tool_calls":[%b]' % _json(head | {"function": function}))

    def _with(self, index: int, entry: bytes) -> bytes:
        return b'%b,"choices":[{"index":%d,"delta":{%b},"logprobs":null,"finish_reason":null%b' % (
            self._head,
            index,
            entry,
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
