"""What a streamed answer says: when text came and how many tokens it was.

Used by `endpoint` once an answer is whole, so that nothing here delays the arrival of another. Tokens are counted by the
server's usage, else by its token ids; pieces are only counted where it gives neither, and the result says so.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any, Literal, cast

import attrs
import orjson

from .exchange import ExchangeFailed, PartTimes, Reply

DONE = b"[DONE]"
CountedBy = Literal["usage", "token_ids", "pieces"]


class AnswerFailed(Exception):
    """The server answered, but with an error or without text. `kind` is one word to count by."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


@attrs.frozen(kw_only=True)
class Sample:
    """One request that was answered. Times in seconds since it was due.

    Attributes:
        first_token_s: until the first text.
        inter_token_s: mean time per token after the first; None for a single token.
        gaps_s: waits between two arrivals of text.
        total_s: until the last byte.
        tokens: generated, as `counted_by` says.
        prompt_tokens: as the server counted; None when it did not say.
    """

    first_token_s: float
    inter_token_s: float | None
    gaps_s: list[float]
    total_s: float
    tokens: int
    prompt_tokens: int | None
    counted_by: CountedBy
    finish_reason: str | None


@attrs.frozen(kw_only=True)
class Failure:
    """One request that was not answered.

    Attributes:
        kind: one word to count by.
        message: what the server or the system said.
    """

    kind: str
    message: str


def read_stream(reply: Reply, due: float) -> Sample:
    """The sample of a streamed answer of `/v1/chat/completions` or `/v1/completions`.

    Args:
        due: moment at which the request was to be sent.

    Raises:
        AnswerFailed: an error status, an error event, no end, or no text.
    """
    check_status(reply)
    text_at: list[float] = []
    ids = pieces = 0
    usage: dict[str, Any] | None = None
    reason: str | None = None
    ended = False
    for at, data in events(reply.parts):
        if data == DONE:
            ended = True
            continue
        chunk = _parse(data)
        if chunk.get("error") or chunk.get("object") == "error":
            raise AnswerFailed("error_event", error_text(data))
        usage = chunk.get("usage") or usage
        for choice in cast("list[dict[str, Any]]", chunk.get("choices") or ()):
            new_ids = len(choice.get("token_ids") or ())
            if new_ids or _text_of(choice):
                ids += new_ids
                pieces += 1
                if not text_at or text_at[-1] != at:
                    text_at.append(at)
            reason = choice.get("finish_reason") or reason
    if not ended and reason is None:
        raise AnswerFailed("incomplete", "the stream ended without a finish reason and without [DONE]")
    if not text_at:
        raise AnswerFailed("no_text", "the stream carried no text")
    tokens, counted_by = _count(usage, ids, pieces)
    return Sample(
        first_token_s=text_at[0] - due,
        inter_token_s=(text_at[-1] - text_at[0]) / (tokens - 1) if tokens > 1 else None,
        gaps_s=[later - earlier for earlier, later in itertools.pairwise(text_at)],
        total_s=reply.ended_at - due,
        tokens=tokens,
        prompt_tokens=usage.get("prompt_tokens") if usage else None,
        counted_by=counted_by,
        finish_reason=reason,
    )


def check_status(reply: Reply) -> None:
    """Raises:
    AnswerFailed: the status is not 200.
    """
    if reply.status != 200:
        raise AnswerFailed(f"http_{reply.status}", error_text(reply.body))


def failure_of(error: ExchangeFailed | AnswerFailed) -> Failure:
    """The failure to count for an error."""
    return Failure(kind=error.kind, message=str(error)[:500])


def events(parts: PartTimes) -> Iterator[tuple[float, bytes]]:
    """(moment its last byte came, data) of each server-sent event; comments are left out.

    Source: https://html.spec.whatwg.org/multipage/server-sent-events.html
    """
    rest = b""
    for at, part in parts:
        rest += part
        if b"\r" in rest:
            rest = rest.replace(b"\r\n", b"\n")
        if b"\n\n" not in rest:
            continue
        *whole, rest = rest.split(b"\n\n")
        for event in whole:
            lines = [line[5:].strip() for line in event.split(b"\n") if line.startswith(b"data:")]
            if lines:
                yield at, b"\n".join(lines)


def error_text(body: bytes) -> str:
    """The message of an error body, in OpenAI's shape or any other."""
    try:
        data: Any = orjson.loads(body)
    except ValueError:
        data = None
    if not isinstance(data, dict):
        return body[:500].decode("utf-8", "replace").strip() or "no message"
    whole = cast("dict[str, Any]", data)
    error: Any = whole.get("error", whole)
    message: Any = cast("dict[str, Any]", error).get("message") if isinstance(error, dict) else error
    return str(message or cast(Any, error))[:500]


def _parse(data: bytes) -> dict[str, Any]:
    try:
        chunk: Any = orjson.loads(data)
    except ValueError:
        chunk = None
    if not isinstance(chunk, dict):
        raise AnswerFailed("not_json", f"an event is no JSON object: {data[:80]!r}")
    return cast("dict[str, Any]", chunk)


def _text_of(choice: dict[str, Any]) -> Any:
    delta = choice.get("delta")
    if delta is None:
        return choice.get("text")
    return delta.get("content") or delta.get("reasoning_content") or delta.get("reasoning") or delta.get("tool_calls")


def _count(usage: dict[str, Any] | None, ids: int, pieces: int) -> tuple[int, CountedBy]:
    reported = usage.get("completion_tokens") if usage else None
    if isinstance(reported, int) and reported > 0:
        return reported, "usage"
    return (ids, "token_ids") if ids else (pieces, "pieces")
