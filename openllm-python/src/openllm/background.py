"""An event loop in a thread of its own, on which an `openllm.LLM` runs its engine, and the ways to it from other threads.

The engine's host is started from this thread too: the kernel's parent-death signal follows the thread. Knows no model.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar, cast

T = TypeVar("T")

CLOSE_S = 30.0
JOIN_S = 10.0


class Background:
    """The loop and its thread, both running until `stop`.

    Attributes:
        starting: held by whoever makes what runs here.
        closing: called on the loop when it ends, in this order.
    """

    def __init__(self) -> None:
        self.starting = asyncio.Lock()
        self.closing: list[Callable[[], Awaitable[None]]] = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="openllm", daemon=True)
        self._thread.start()

    def call(self, work: Coroutine[Any, Any, T]) -> T:
        """Run it there and wait; of several errors at once, the first is raised."""
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except ExceptionGroup as group:
            raise _first(group) from group
        except BaseException:
            future.cancel()
            raise

    async def acall(self, work: Coroutine[Any, Any, T]) -> T:
        """The same for a caller with an event loop; cancelling it cancels the work."""
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return await asyncio.wrap_future(future)
        except ExceptionGroup as group:
            raise _first(group) from group

    def stop(self) -> None:
        """Close what runs here, stop the loop, end the thread."""
        for close in self.closing:
            closing = asyncio.run_coroutine_threadsafe(_await(close), self._loop)
            with contextlib.suppress(Exception):
                closing.result(timeout=CLOSE_S)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(timeout=JOIN_S)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
            pending = asyncio.all_tasks(self._loop)
            for task in pending:
                task.cancel()
            self._loop.run_until_complete(asyncio.gather(*pending, return_exceptions=True))
        finally:
            self._loop.close()


async def _await(make: Callable[[], Awaitable[None]]) -> None:
    await make()


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The first error of a batch: one refused prompt ends the call, as it would alone."""
    first = group.exceptions[0]
    return _first(cast("BaseExceptionGroup[BaseException]", first)) if isinstance(first, BaseExceptionGroup) else first
