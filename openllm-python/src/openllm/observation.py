"""What is seen of one request from its first byte to its last: who asked what, how long each part took, how it ended.

Begun and ended by the HTTP middleware and the gRPC gate, filled on the way down through `current()`, read by observers: the
access log and, where it is asked for, OpenTelemetry. Holds no prompt, answer or key; knows no framework.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Literal, Protocol

import attrs

from openllm_core.errors import OpenLLMError

if TYPE_CHECKING:
    from collections.abc import Generator

    from openllm_core.config.sampling import SamplingParams

Protocols = Literal["http", "grpc"]
Operation = Literal["", "chat", "text_completion", "embeddings"]
"""What was asked of the model, in the words of OpenTelemetry's conventions; "" where nothing was."""

_current: ContextVar[Observation | None] = ContextVar("openllm_observation", default=None)


class Timed(Protocol):
    """A prompt under way in the engine; `openllm.engine.stream.RequestStream` is one.

    Attributes:
        admitted_at, submitted_at, first_token_at, last_token_at: monotonic seconds; 0.0 = has not happened.
        completion_tokens: generated so far, all choices together.
        finish_reasons: of the choices that have ended by themselves.
    """

    admitted_at: float
    submitted_at: float
    first_token_at: float
    last_token_at: float
    completion_tokens: int
    finish_reasons: list[str]

    @property
    def prompt_tokens(self) -> int:
        """Tokens of the prompt."""
        ...


@attrs.define(kw_only=True, eq=False)
class Observation:
    """One request.

    Attributes:
        route: of HTTP one of ours, else "other"; of gRPC the full method.
        began, ended: monotonic seconds; `began_ns` is the same moment in nanoseconds since the epoch.
        model: name of what answers, one of those that are served.
        key: name of the API key, never the key.
        status: HTTP status or name of the gRPC status; 499 and CANCELLED: the client left.
        error: code of what it was refused or failed with.
        embedded_tokens: prompt tokens of embeddings.
        sampling: how tokens were to be drawn.
        transcripts: where the operator lets prompts be logged, each prompt with the pieces of its answers; else None.
        trace_id, span_id: in hex, where it is traced.
    """

    request_id: str
    protocol: Protocols
    method: str
    route: str
    began: float = attrs.field(factory=time.monotonic)
    began_ns: int = attrs.field(factory=time.time_ns)
    ended: float = 0.0
    operation: Operation = ""
    model: str = ""
    adapter: str = ""
    key: str = ""
    stream: bool = False
    status: str = ""
    error: str = ""
    embedded_tokens: int = 0
    streams: list[Timed] = attrs.field(factory=list["Timed"])
    sampling: SamplingParams | None = None
    transcripts: list[Transcript] | None = None
    trace_id: str = ""
    span_id: str = ""

    @property
    def prompt_tokens(self) -> int:
        """Of all prompts that got as far as the engine."""
        return self.embedded_tokens + sum(stream.prompt_tokens for stream in self.streams)

    @property
    def completion_tokens(self) -> int:
        """Generated, all prompts and choices together."""
        return sum(stream.completion_tokens for stream in self.streams)

    @property
    def finish_reasons(self) -> list[str]:
        """Of all choices, in the order they ended."""
        return [reason for stream in self.streams for reason in stream.finish_reasons]

    @property
    def queue_s(self) -> float | None:
        """The longest any prompt waited for a slot; None where none got one."""
        waits = [s.submitted_at - s.admitted_at for s in self.streams if s.submitted_at]
        return max(waits, default=None)

    @property
    def first_token_s(self) -> float | None:
        """From the request's first byte to its first token; None where none came."""
        firsts = [s.first_token_at for s in self.streams if s.first_token_at]
        return min(firsts) - self.began if firsts else None

    @property
    def duration_s(self) -> float:
        """From first byte to end."""
        return self.ended - self.began

    def at_ns(self, moment: float) -> int:
        """A monotonic moment in nanoseconds since the epoch."""
        return self.began_ns + round((moment - self.began) * 1e9)


@attrs.define(eq=False)
class Transcript:
    """A prompt and the pieces of its answers as (choice, text), in the order they came."""

    prompt: str | list[int]
    pieces: list[tuple[int, str]] = attrs.field(factory=list[tuple[int, str]])

    def answers(self) -> list[str]:
        """The text of each choice."""
        found: dict[int, str] = {}
        for choice, piece in self.pieces:
            found[choice] = found.get(choice, "") + piece
        return [found[choice] for choice in sorted(found)]


class Observer(Protocol):
    """Somebody who looks at requests. Called on the event loop: must neither wait nor raise."""

    def begin(self, seen: Observation, headers: Mapping[str, str]) -> None:
        """A request has come; nothing is known of it but its route and its headers (names in lower case)."""
        ...

    def end(self, seen: Observation) -> None:
        """It is over: its answer has left, or it never will."""
        ...


class Observers:
    """All who look, in order; none at all by default."""

    def __init__(self, *observers: Observer) -> None:
        self._observers = observers

    @contextmanager
    def watch(self, seen: Observation, headers: Mapping[str, str]) -> Generator[Observation]:
        """Observe one request while the block runs; it is `current()` there, and in the tasks begun there."""
        _current.set(seen)
        for observer in self._observers:
            observer.begin(seen, headers)
        try:
            yield seen
        finally:
            seen.ended = time.monotonic()
            for observer in self._observers:
                observer.end(seen)
            _current.set(None)


NOBODY = Observers()
"""Where nobody looks."""


def current() -> Observation | None:
    """The request that is being served here; None outside of one."""
    return _current.get()


def note(operation: Operation, model: str, adapter: str | None = None) -> None:
    """Say what the present request asks of the model; of no effect outside of one."""
    seen = _current.get()
    if seen is not None:
        seen.operation, seen.model, seen.adapter = operation, model, adapter or ""


def failed(error: BaseException) -> None:
    """Say what the present request was refused or failed with; of no effect outside of one."""
    seen = _current.get()
    if seen is not None:
        seen.error = error.wire_code if isinstance(error, OpenLLMError) else "internal_error"
