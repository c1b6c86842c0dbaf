"""Running requests and their answers: deltas of the engine become the answers of each route.

`Answer` is what a stream reads; `collect` gathers it for a one-shot answer. Called by `Service`; the HTTP frames are
`openllm.server.sse`'s business, which uses the same log-probability shapes.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import TYPE_CHECKING, Any, cast

import attrs

from openllm_core.schema import (
    AssistantMessage,
    CallDelta,
    ChatChoice,
    ChatCompletion,
    ChatLogprobs,
    Completion,
    CompletionChoice,
    CompletionLogprobs,
    Delta,
    FinishReason,
    LogprobEntry,
    TokenLogprob,
    ToolCall,
    TopLogprob,
    Usage,
)
from openllm_core.tool_messages import FunctionCall

from .chat import AnswerReader, ReadDeltas

if TYPE_CHECKING:
    from openllm.engine.stream import RequestStream

MERGE_BOUND = 1024  # deltas of several prompts that may wait for a slow reader


class Answer:
    """One running request of one or more prompts.

    Attributes:
        id: as OpenAI's clients see it.
        created: Unix time.
        model: the name the caller asked for.
        n: choices per prompt; `Delta.index` counts prompt number x n + choice.
        deltas: what the engine adds, as it adds it; raises OpenLLMError when it fails.
        prompts: text of each prompt, for `echo`; empty otherwise.
        ignored: paths of fields that were accepted but have no effect on a server.
        adapter: that answers; None for the bare base.
        is_read: its deltas tell text, reasoning and calls apart.
    """

    __slots__ = ("adapter", "created", "deltas", "id", "ignored", "is_read", "model", "n", "prompts", "streams")

    def __init__(
        self,
        prefix: str,
        model: str,
        n: int,
        streams: Sequence[RequestStream],
        prompts: Sequence[str] = (),
        ignored: Sequence[str] = (),
        adapter: str | None = None,
        readers: Sequence[AnswerReader] | None = None,
    ) -> None:
        self.id = f"{prefix}-{secrets.token_hex(12)}"
        self.created = int(time.time())
        self.model = model
        self.n = n
        self.streams = list(streams)
        self.prompts = list(prompts)
        self.ignored = tuple(ignored)
        self.adapter = adapter
        self.deltas: AsyncIterator[Delta] = self.streams[0] if len(self.streams) == 1 else Merged(self.streams, n)
        self.is_read = readers is not None
        if readers is not None:
            self.deltas = ReadDeltas(self.deltas, readers)

    @property
    def choices(self) -> int:
        """How many choices there are in all."""
        return self.n * len(self.streams)

    def listen(self, sink: Callable[[Delta], bool]) -> None:
        """Hand deltas to `sink` at once, without a turn of the event loop; iteration gets those that it refuses.

        Several prompts are merged, and answers are read, by iteration alone: then `sink` is never called.
        """
        if len(self.streams) == 1 and not self.is_read:
            self.streams[0].listen(sink)

    def usage(self) -> Usage:
        """Token counts so far, all prompts together."""
        return total_usage([stream.usage() for stream in self.streams])

    def close(self) -> None:
        """Abort what still runs; nothing happens when all is finished."""
        for stream in self.streams:
            stream.close()

    async def aclose(self) -> None:
        """The same, and wait for the tasks that read it: what is aborted is so even where the waiting is cancelled."""
        self.close()
        if isinstance(self.deltas, Merged):
            await self.deltas.aclose()


class Merged:
    """Deltas of several streams as they come, choices numbered through. The first error ends it."""

    def __init__(self, streams: Sequence[RequestStream], n: int) -> None:
        self._queue: asyncio.Queue[Delta | BaseException | None] = asyncio.Queue(MERGE_BOUND)
        self._tasks = [asyncio.create_task(self._pump(stream, i * n)) for i, stream in enumerate(streams)]
        self._running = len(self._tasks)

    def __aiter__(self) -> Merged:
        return self

    async def __anext__(self) -> Delta:
        while self._running:
            item = await self._queue.get()
            if isinstance(item, Delta):
                return item
            if isinstance(item, BaseException):
                self._running = 0
                raise item
            self._running -= 1
        raise StopAsyncIteration

    async def _pump(self, stream: RequestStream, offset: int) -> None:
        try:
            async for delta in stream:
                delta.index += offset
                await self._queue.put(delta)
        except Exception as error:
            await self._queue.put(error)
        else:
            await self._queue.put(None)

    async def aclose(self) -> None:
        """Stop reading."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


def total_usage(parts: Sequence[Usage]) -> Usage:
    """Sum of token counts."""
    prompt, completion = sum(p.prompt_tokens for p in parts), sum(p.completion_tokens for p in parts)
    return Usage(prompt_tokens=prompt, completion_tokens=completion, total_tokens=prompt + completion)


# -- one-shot ---------------------------------------------------------------------------------------------------------


@attrs.define
class Choice:
    """One finished choice."""

    text: str = ""
    token_ids: list[int] = attrs.Factory(list[int])
    finish_reason: FinishReason = "stop"
    logprobs: list[LogprobEntry] = attrs.Factory(list[LogprobEntry])
    reasoning: str = ""
    calls: list[CallDelta] = attrs.Factory(list[CallDelta])

    def add_calls(self, calls: Sequence[CallDelta]) -> None:
        """Calls that begin, and more of the arguments of those that have."""
        for call in calls:
            if call.index == len(self.calls):
                self.calls.append(call)
            else:
                self.calls[call.index].arguments += call.arguments


async def collect(answer: Answer) -> list[Choice]:
    """Read an answer to its end; aborts it when it fails or the caller is cancelled."""
    choices = [Choice() for _ in range(answer.choices)]
    parts: list[list[str]] = [[] for _ in choices]
    try:
        async for delta in answer.deltas:
            choice = choices[delta.index]
            parts[delta.index].append(delta.text)
            choice.token_ids.extend(delta.token_ids)
            if delta.logprobs:
                choice.logprobs.extend(delta.logprobs)
            choice.reasoning += delta.reasoning or ""
            choice.add_calls(delta.calls or ())
            if delta.finish_reason is not None:
                choice.finish_reason = cast(FinishReason, delta.finish_reason)
    finally:
        await answer.aclose()
    for choice, texts in zip(choices, parts, strict=True):
        choice.text = "".join(texts)
    return choices


def chat_completion(answer: Answer, choices: Sequence[Choice], *, logprobs: bool) -> ChatCompletion:
    """Shape of `POST /v1/chat/completions`."""
    return ChatCompletion(
        id=answer.id,
        created=answer.created,
        model=answer.model,
        choices=[
            ChatChoice(
                index=index,
                message=_message(choice),
                finish_reason=choice.finish_reason,
                logprobs=chat_logprobs(choice.logprobs) if logprobs else None,
            )
            for index, choice in enumerate(choices)
        ],
        usage=answer.usage(),
    )


def _message(choice: Choice) -> AssistantMessage:
    calls = [
        ToolCall(id=call.id or "", function=FunctionCall(name=call.name or "", arguments=call.arguments))
        for call in choice.calls
    ]
    return AssistantMessage(
        content=choice.text if choice.text or not calls else None,
        reasoning_content=choice.reasoning or None,
        tool_calls=calls or None,
    )


def completion(answer: Answer, choices: Sequence[Choice], *, logprobs: bool) -> Completion:
    """Shape of `POST /v1/completions`; the prompt stands first where `echo` was asked for."""
    made: list[CompletionChoice] = []
    for index, choice in enumerate(choices):
        prompt = answer.prompts[index // answer.n] if answer.prompts else ""
        made.append(
            CompletionChoice(
                index=index,
                text=prompt + choice.text,
                finish_reason=choice.finish_reason,
                logprobs=completion_logprobs(choice.logprobs) if logprobs else None,
            )
        )
    return Completion(id=answer.id, created=answer.created, model=answer.model, choices=made, usage=answer.usage())


def chat_logprobs(entries: Sequence[LogprobEntry]) -> ChatLogprobs:
    """Chat format: one object per token."""
    return ChatLogprobs(
        content=[
            TokenLogprob(
                token=entry.token,
                logprob=entry.logprob,
                bytes=entry.bytes,
                top_logprobs=[
                    TopLogprob(token=token, logprob=logprob, bytes=list(token.encode()))
                    for token, _, logprob in entry.top
                ],
            )
            for entry in entries
        ]
    )


def completion_logprobs(entries: Sequence[LogprobEntry], offset: int = 0) -> CompletionLogprobs:
    """Completion format: four parallel lists. `offset`: characters of text before the first token."""
    offsets: list[int] = []
    for entry in entries:
        offsets.append(offset)
        offset += len(entry.token)
    return CompletionLogprobs(
        tokens=[entry.token for entry in entries],
        token_logprobs=[entry.logprob for entry in entries],
        top_logprobs=[{token: logprob for token, _, logprob in entry.top} for entry in entries],
        text_offset=offsets,
    )


def plain_logprobs(entries: Sequence[LogprobEntry]) -> list[dict[str, Any]]:
    """Format of `/v1/generate*`: ids and text of each drawn token and of the likely ones."""
    return [
        {
            "token": entry.token,
            "token_id": entry.token_id,
            "logprob": entry.logprob,
            "top": [{"token": t, "token_id": i, "logprob": p} for t, i, p in entry.top],
        }
        for entry in entries
    ]
