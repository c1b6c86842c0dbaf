"""What one engine step adds to an answer, between engine, service and whoever writes it out; never on the wire as such.

One `Delta` is made for every token: not frozen, which takes three times as long.
"""

from __future__ import annotations

import attrs


@attrs.define
class Delta:
    """What one engine step added to one choice of a request: text, ids, and how it ended if it did.

    Attributes:
        index: the choice, 0..n-1.
        text: new text, ready to send; text that may still become a stop string is held back.
        token_ids: ids generated since the last delta.
        finish_reason: None while the choice runs.
        logprobs: one entry per id when asked for.
        stop_reason: the stop string or stop token id that ended it.
        reasoning: new text of the model to itself; only in a chat whose model's reasoning is told apart.
        calls: calls that begin or go on; only in a chat with tools.
    """

    index: int
    text: str
    token_ids: list[int]
    finish_reason: str | None = None
    logprobs: list[LogprobEntry] | None = None
    stop_reason: str | int | None = None
    reasoning: str | None = None
    calls: list[CallDelta] | None = None


@attrs.define
class LogprobEntry:
    """A drawn token with its natural-log probability, and the most likely ones beside it."""

    token: str
    token_id: int
    logprob: float
    bytes: list[int]
    top: list[tuple[str, int, float]] = attrs.Factory(list[tuple[str, int, float]])


@attrs.define
class CallDelta:
    """A call that begins, with id and name, or more of its arguments.

    Attributes:
        index: of the call in its choice, from 0.
        arguments: JSON text; its pieces add up to an object.
    """

    index: int
    id: str | None = None
    name: str | None = None
    arguments: str = ""
