"""A fixed prompt, asked again and again while the engine is idle: weights that change in memory change its answer.

What the model says to it soon after loading is what it must say ever after, in this life of the host. `Engine` starts it with
each life and hands it every step. It compares like with like alone: an answer that shared the batch with a request does not
count. It must not know of texts or of clients.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from openllm_core.errors import EngineUnavailable, OpenLLMError

from ..backends.base import BackendInfo, BackendRequest, SequenceDelta, StepOutput, TokenSampling
from .channel import Submit
from .request import new_request_id

NUM_TOKENS = 8
FIRST_AFTER_S = 5.0
"""After loading; whoever waited for the model comes first."""
CLOSE = 0.01
"""Log-probabilities that differ by less are the same: some kernels add up in any order."""
PROOFS = 2
"""Answers in a row that must differ before it is believed."""

CHANGED = "The model no longer answers a fixed prompt as it did after it was loaded: its weights in memory are damaged."

Said = tuple[list[int], list[float]]


class Canary:
    """Asks one host.

    Args:
        send: to the host.
        is_idle: whether the host has nothing else to do.
        on_changed: called with the error once the answer has changed; the host should be given up.
        interval_s: between two questions; 0 = never ask.

    Attributes:
        asked: answers that counted, over all lives.
    """

    def __init__(
        self,
        send: Callable[[Submit], None],
        is_idle: Callable[[], bool],
        on_changed: Callable[[OpenLLMError], None],
        interval_s: float,
    ) -> None:
        self.asked = 0
        self._send = send
        self._is_idle = is_idle
        self._on_changed = on_changed
        self._interval_s = interval_s
        self._first_after_s = min(FIRST_AFTER_S, interval_s)
        self._timer: asyncio.TimerHandle | None = None
        self._start_token = 0
        self._logprobs = False
        self._request_id: str | None = None
        self._alone = True
        self._saying: Said = ([], [])
        self._expected: Said | None = None
        self._differed = 0

    def start(self, info: BackendInfo, start_token: int) -> None:
        """A host is ready: whatever an earlier one said no longer counts."""
        self.stop()
        self._expected, self._differed = None, 0
        self._start_token, self._logprobs = start_token, info.capabilities.logprobs
        if self._interval_s and info.capabilities.generate:
            self._wait(self._first_after_s)

    def stop(self) -> None:
        """The host is gone."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._request_id = None

    def on_step(self, output: StepOutput) -> None:
        """Look for its own tokens among those of a step."""
        if self._request_id is None:
            return
        if not self._is_idle():
            self._alone = False
        for delta in output.deltas:
            if delta.request_id == self._request_id:
                self._take(delta)

    def _wait(self, seconds: float) -> None:
        self._timer = asyncio.get_running_loop().call_later(seconds, self._ask)

    def _ask(self) -> None:
        if not self._is_idle():
            self._wait(self._first_after_s)
            return
        self._alone, self._saying, self._request_id = True, ([], []), new_request_id()
        sampling = TokenSampling(max_tokens=NUM_TOKENS, temperature=0.0, logprobs=0 if self._logprobs else None)
        self._send(Submit([BackendRequest(self._request_id, [self._start_token], sampling, None, self._request_id)]))

    def _take(self, delta: SequenceDelta) -> None:
        tokens, logprobs = self._saying
        tokens += delta.token_ids
        logprobs += [one.logprob for one in delta.logprobs or ()]
        if delta.finish_reason is None:
            return
        self._request_id = None
        if delta.finish_reason in ("error", "abort"):
            self._doubt()
        elif self._alone:
            self._judge(self._saying)
        else:
            self._wait(self._first_after_s)

    def _judge(self, said: Said) -> None:
        self.asked += 1
        if self._expected is None:
            self._expected = said
        if _same(said, self._expected):
            self._differed = 0
            self._wait(self._interval_s)
        else:
            self._doubt()

    def _doubt(self) -> None:
        self._differed += 1
        if self._differed < PROOFS:
            self._ask()
        else:
            self._on_changed(EngineUnavailable(CHANGED, hint="Look for memory errors in the log of the kernel."))


def _same(one: Said, other: Said) -> bool:
    return one[0] == other[0] and all(abs(a - b) < CLOSE for a, b in zip(one[1], other[1], strict=True))
