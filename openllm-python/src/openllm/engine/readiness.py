"""Whether an engine that runs should be sent more: not while its line stays full, nor while its steps stand still.

`Engine` tells it of refusals and asks it on behalf of `/readyz`. Nothing is refused because of it: whoever balances load
looks elsewhere for a while, and what is sent all the same takes its chance. It must not know of processes.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from openllm_core.errors import EngineUnavailable, OpenLLMError, Overloaded

from .dispatch import Dispatcher

FULL_S = 5.0
"""A line that has been full for longer makes the engine unready."""
FULL_SHARE = 0.75
"""Of its places, so many must be taken for a line to count as still full: when it is overrun, one place or another is
always free for a moment."""
STEP_S = 60.0
"""The same for a step that does not end; a long prompt on a CPU takes tens of seconds, and the engine is given up later."""


class Readiness:
    """What keeps one engine from being ready.

    Args:
        clock: monotonic seconds.
    """

    def __init__(self, work: Dispatcher, clock: Callable[[], float] = time.monotonic) -> None:
        self._work = work
        self._clock = clock
        self._full_since = self._refused_at = float("-inf")

    def refused(self) -> None:
        """A request has just been turned away because the line is full."""
        now = self._clock()
        if now - self._refused_at > FULL_S:
            self._full_since = now
        self._refused_at = now

    def hindrance(self) -> OpenLLMError | None:
        """Why nothing should be sent here now; None while all is well."""
        now, work = self._clock(), self._work
        full_s = now - self._full_since
        refuses = now - self._refused_at <= FULL_S and work.queue_depth >= FULL_SHARE * work.max_queue
        if refuses and full_s > FULL_S:
            return Overloaded(f"The waiting line has been full for {full_s:.0f} s.", code="queue_full")
        step_s = now - work.last_step_at
        if work.in_host and step_s > STEP_S:
            return EngineUnavailable(f"The engine has not finished a step for {step_s:.0f} s.")
        return None
