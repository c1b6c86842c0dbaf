"""Keeps one engine host alive: starts it, notices at once when it dies or stalls, restarts it within a budget.

The engine gives it callbacks and sends frames through it. A host is a `Life`: a process (`launch_process`) or, embedded,
a session within this one (`launch_embedded`). It must not know of requests; the engine decides what a death means to them.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

import attrs

from openllm_core.errors import EngineError, EngineUnavailable, OpenLLMError, from_dict
from openllm_core.options import EngineOptions, as_data

from .channel import Channel, Failed, Loading, OnFrame, Ping, Pong, Ready, Start, ToHost, memory_pair
from .host import HostSession

BUDGET_WINDOW_S = 600.0
MAX_STARVED = 6
"""A silent host that waits for a processor is left alone for this many times the silence allowed, no longer."""


class Life(Protocol):
    """One host from its start to its end."""

    pid: int | None

    @property
    def cause(self) -> BaseException | None:
        """The exception it failed with, where that was raised in this process."""
        ...

    @property
    def channel(self) -> Channel:
        """Where frames for it go."""
        ...

    def starved_s(self) -> float:
        """Seconds since the last call in which it could not run because others did; 0 where that cannot be told."""
        ...

    async def stop(self, grace_s: float) -> None:
        """End it: ask, wait up to `grace_s`, then kill the whole process group. Nothing of it is left afterwards."""
        ...


OnLost = Callable[[OpenLLMError], None]
Launcher = Callable[[EngineOptions, OnFrame, OnLost], Awaitable[Life]]
"""Starts a host and sends it `Start`. `on_lost` is called once if it ends by itself, never after `stop`."""


@attrs.frozen(kw_only=True)
class Watch:
    """Limits by which a host is judged.

    Attributes:
        restarts: restarts allowed within 10 minutes.
        backoff_s: pause before the first restart; doubles with each, up to `backoff_max_s`.
        ping_s: silence after which the host is asked for a sign of life.
        stall_s: silence after which a running host counts as stalled, though it was asked; time in which it waited
            for a processor does not count, up to `MAX_STARVED` times this limit.
        load_stall_s: the same while it loads, when native code may hold the interpreter for long.
        start_timeout_s: a host that is not ready by then is given up.
        stop_grace_s: how long a host may take to end when asked.
    """

    restarts: int = 3
    backoff_s: float = 0.25
    backoff_max_s: float = 10.0
    ping_s: float = 1.0
    stall_s: float = 10.0
    load_stall_s: float = 180.0
    start_timeout_s: float = 3600.0
    stop_grace_s: float = 5.0


class Listener(Protocol):
    """What the supervisor tells the engine."""

    def on_ready(self, ready: Ready) -> None:
        """A host has loaded its model."""
        ...

    def on_frame(self, frame: Any) -> None:
        """Any other frame than those about loading and health."""
        ...

    def on_loading(self, text: str, share: float | None) -> None:
        """Progress of loading."""
        ...

    def overdue(self) -> str | None:
        """Why the present host should be given up though it gives signs of life; None while all is well."""
        ...

    def on_down(self, error: OpenLLMError, retry_in_s: float | None) -> None:
        """The host is gone; it comes back after `retry_in_s`, or never when None."""
        ...


class Supervisor:
    """Owns the present life of a host and the decision whether there will be another."""

    def __init__(self, options: EngineOptions, launcher: Launcher, watch: Watch, listener: Listener) -> None:
        self.options = options
        self.watch = watch
        self.restart_count = 0
        self._launcher = launcher
        self._listener = listener
        self._life: Life | None = None
        self._ready = self._ever_ready = False
        self._deaths: deque[float] = deque(maxlen=128)
        self._heard = self._checked = 0.0
        self._starved_s = 0.0  # of its present silence
        self._was_silent = False
        self._reported = False
        self._lost = asyncio.Event()
        self._lost_error: OpenLLMError | None = None
        self._task: asyncio.Task[None] | None = None
        self._closing = False
        self._pings = 0

    @property
    def pid(self) -> int | None:
        """Process id of the present host; None when embedded or between two lives."""
        return self._life.pid if self._life is not None else None

    @property
    def has_host(self) -> bool:
        """Whether somebody hears what is sent; a host that hears it may still be loading."""
        return self._life is not None

    def start(self) -> None:
        """Begin the first life in the background."""
        self._task = asyncio.get_running_loop().create_task(self._supervise())

    def send(self, frame: ToHost) -> None:
        """Send to the present host; dropped when there is none."""
        if self._life is not None:
            self._life.channel.send(frame)

    def mark_ready(self) -> None:
        """The engine has seen a real token of the present host."""
        self._ready = self._ever_ready = True

    def declare_lost(self, error: OpenLLMError) -> None:
        """Give up the present host for a reason only the engine can see: its first token failed."""
        self._reported = True
        self._give_up(error)

    async def aclose(self) -> None:
        """End the host and watch no more."""
        self._closing = True
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        life, self._life = self._life, None
        if life is not None:
            await life.stop(self.watch.stop_grace_s)

    async def _supervise(self) -> None:
        # `_closing` is looked at beside being cancelled: a wait may end with what it waited for and swallow the cancellation,
        # as `asyncio.wait_for` does before Python 3.12. A new host would then start while everybody waits for the end.
        while not self._closing:
            error = await self._live_once()
            if self._closing:
                return
            self._deaths.append(time.monotonic())
            wait = self._back_off(error)
            self._listener.on_down(error, wait)
            if wait is None:
                return
            await asyncio.sleep(wait)
            self.restart_count += 1

    async def _live_once(self) -> OpenLLMError:
        """From start to death; returns what it died of."""
        self._ready, self._reported, self._lost_error = False, False, None
        self._lost.clear()
        self._heard = self._checked = started = time.monotonic()
        try:
            self._life = await self._launcher(self.options, self._on_frame, self._give_up)
        except OpenLLMError as error:
            self._reported = True
            return error
        except OSError as error:
            return EngineUnavailable(f"The engine host could not be started: {error}.")
        while not self._lost.is_set():
            if self._closing:
                raise asyncio.CancelledError
            try:
                await asyncio.wait_for(self._lost.wait(), self.watch.ping_s)
            except TimeoutError:
                self._check(started)
        life, self._life = self._life, None
        await life.stop(0)
        error = self._lost_error
        assert error is not None
        if life.cause is not error:
            error.__cause__ = life.cause
        return error

    def _check(self, started: float) -> None:
        """Called every `ping_s`: ask a silent host for a sign of life, give up one that stays silent."""
        now, watch = time.monotonic(), self.watch
        late = now - self._checked > 2 * watch.ping_s  # our own loop stood still: what the host sent is yet to be read
        if late:
            self._heard = now
        silent = now - self._heard
        self._count_starvation(silent)
        self._checked = now
        limit = watch.stall_s if self._ready else watch.load_stall_s
        if silent - self._starved_s > limit or silent > limit * MAX_STARVED:
            self._give_up(EngineUnavailable(f"The engine host gave no sign of life for {silent:.0f} s."))
        elif not self._ready and now - started > watch.start_timeout_s:
            self._give_up(EngineUnavailable(f"The engine host was not ready after {watch.start_timeout_s:.0f} s."))
        elif (overdue := self._listener.overdue()) is not None:
            self._give_up(EngineUnavailable(overdue))
        elif silent > watch.ping_s * 0.5:
            self._pings += 1
            self.send(Ping(self._pings))

    def _count_starvation(self, silent: float) -> None:
        """Note how much of its present silence the host waited for a processor; one that talks is not asked."""
        if self._life is None or silent <= self.watch.ping_s * 0.5:
            self._was_silent = False
            return
        starved = self._life.starved_s()
        goes_on = self._was_silent and self._heard <= self._checked
        self._starved_s = self._starved_s + starved if goes_on else 0.0
        self._was_silent = True

    def _on_frame(self, frame: Any) -> None:
        self._heard = time.monotonic()
        match frame:
            case Loading():
                self._listener.on_loading(frame.text, frame.share)
            case Ready():
                self._listener.on_ready(frame)
            case Failed():
                self._reported = True
                self._give_up(from_dict(frame.error))
            case Pong():
                if frame.error is not None:
                    self._give_up(from_dict(frame.error))
            case _:
                self._listener.on_frame(frame)

    def _give_up(self, error: OpenLLMError) -> None:
        if not self._lost.is_set():
            self._lost_error = error
            self._lost.set()

    def _back_off(self, error: OpenLLMError) -> float | None:
        """Seconds until the next life; None when another would be of no use or the budget is spent.

        A load that failed with a reason is not tried again unless it once succeeded and the reason may pass.
        """
        if self._reported and not self._ready and not (self._ever_ready and isinstance(error, EngineError)):
            return None
        now = time.monotonic()
        recent = sum(1 for death in self._deaths if now - death < BUDGET_WINDOW_S)
        if recent > self.watch.restarts:
            return None
        return min(self.watch.backoff_s * 2 ** (recent - 1), self.watch.backoff_max_s)


class EmbeddedHost:
    """A host session within this process and event loop: for the echo backend, and for programs that want one process."""

    pid: int | None = None

    def __init__(self, options: EngineOptions, on_frame: OnFrame, on_lost: OnLost) -> None:
        self._on_lost: OnLost | None = on_lost
        self._session = HostSession(lambda status: None)  # its closed channel tells, after its last frame
        self.channel, theirs = memory_pair(
            (on_frame, lambda error: self._lose("The embedded backend closed its channel.")),
            (self._session.on_frame, self._session.on_close),
        )
        self._session.channel = theirs
        self.channel.send(Start(as_data(options)))

    @property
    def cause(self) -> BaseException | None:
        """What the backend raised."""
        return self._session.cause

    def starved_s(self) -> float:
        """It has no threads of its own to tell of."""
        return 0.0

    async def stop(self, grace_s: float) -> None:
        """Close the backend; there is no process to kill."""
        self._on_lost = None
        await self._session.close()
        self.channel.close()

    def _lose(self, message: str) -> None:
        on_lost, self._on_lost = self._on_lost, None
        if on_lost is not None:
            on_lost(EngineUnavailable(message))


async def launch_embedded(options: EngineOptions, on_frame: OnFrame, on_lost: OnLost) -> Life:
    """Run the backend in this process; a backend that blocks its loop then blocks ours."""
    return EmbeddedHost(options, on_frame, on_lost)
