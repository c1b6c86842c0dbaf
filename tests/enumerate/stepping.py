"""Runs a coroutine and does something when it or a task that it started stops running for the n-th time.

A task stops running at an await and at its end: between that and the moment when somebody takes its result lies a step of
the loop, too. The tests do it for n = 1, 2, 3 … and so stand at every await there is. Knows nothing of what it runs.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
from collections.abc import Callable, Coroutine, Generator
from typing import Any

import attrs

_WATCH: contextvars.ContextVar[Watch | None] = contextvars.ContextVar("watch", default=None)


@attrs.define(eq=False)
class Watch:
    """Counts stops and acts at one of them.

    Attributes:
        at: the stop to act at, from 1.
        act: called once.
        count: stops so far.
    """

    at: int
    act: Callable[[], object]
    count: int = 0
    reached: bool = False

    def stopped(self) -> None:
        """One task of those watched waits now, or has ended."""
        self.count += 1
        if self.count == self.at:
            self.reached = True
            self.act()


class Stepped(Coroutine[Any, Any, Any]):
    """A coroutine that tells when it waits or ends."""

    def __init__(self, inner: Coroutine[Any, Any, Any], watch: Watch) -> None:
        self._inner = inner
        self._watch = watch

    def send(self, value: Any) -> Any:
        """Go on."""
        try:
            return self._inner.send(value)
        finally:
            self._watch.stopped()

    def throw(self, *error: Any) -> Any:
        """Go on with an error."""
        try:
            return self._inner.throw(*error)
        finally:
            self._watch.stopped()

    def close(self) -> None:
        """Give up."""
        self._inner.close()

    def __await__(self) -> Generator[Any, Any, Any]:
        """Never awaited itself: it is the body of a task."""
        raise NotImplementedError

    def __str__(self) -> str:
        return repr(self._inner)


def factory(loop: asyncio.AbstractEventLoop, coro: Any, context: Any = None) -> asyncio.Task[Any]:
    """A task factory: tasks that a watched one starts are watched as well."""
    watch = context.get(_WATCH) if context is not None else _WATCH.get()
    return asyncio.Task(coro if watch is None else Stepped(coro, watch), loop=loop, context=context)


@contextlib.contextmanager
def watching() -> Generator[None]:
    """Let the running loop make tasks that can be watched."""
    loop = asyncio.get_running_loop()
    before = loop.get_task_factory()
    loop.set_task_factory(factory)
    try:
        yield
    finally:
        loop.set_task_factory(before)


def start(coro: Coroutine[Any, Any, Any], watch: Watch) -> asyncio.Task[Any]:
    """Start a watched task; only inside `watching`."""
    token = _WATCH.set(watch)
    try:
        return asyncio.get_running_loop().create_task(coro)
    finally:
        _WATCH.reset(token)
