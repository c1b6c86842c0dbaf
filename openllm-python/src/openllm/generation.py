"""What `openllm.LLM` answers with: choices, their texts and counts. Plain values."""

from __future__ import annotations

import attrs

from openllm_core.schema import Delta, LogprobEntry, Usage


@attrs.frozen(kw_only=True)
class Choice:
    """One completion.

    Attributes:
        finish_reason: "stop" or "length".
        stop_reason: the stop string or stop token id of the request that ended it.
        logprobs: one entry per token where asked for.
    """

    text: str
    token_ids: list[int]
    finish_reason: str
    stop_reason: str | int | None = None
    logprobs: list[LogprobEntry] | None = None


@attrs.frozen(kw_only=True)
class Generation:
    """Answer to one prompt; `str()` gives the text of its first choice."""

    choices: list[Choice]
    usage: Usage

    @property
    def text(self) -> str:
        """Text of the first choice."""
        return self.choices[0].text

    def __str__(self) -> str:
        return self.text


def choice_of(deltas: list[Delta]) -> Choice:
    """A choice of all its deltas, at least one."""
    last = deltas[-1]
    logprobs = [entry for delta in deltas for entry in delta.logprobs or ()]
    return Choice(
        text="".join(delta.text for delta in deltas),
        token_ids=[token for delta in deltas for token in delta.token_ids],
        finish_reason=last.finish_reason or "",
        stop_reason=last.stop_reason,
        logprobs=logprobs if any(delta.logprobs is not None for delta in deltas) else None,
    )
