"""Compiles guides beside the steps, so that a bad one is refused before its request is queued and a good one is ready.

A backend calls `check` with what a request may bring, and says how one is compiled; what that made is kept there, and the
request that follows finds it. It knows of threads, time and messages, not of grammars or sequences, and imports no compiler.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from openllm_core.errors import InvalidRequest, Overloaded

from .base import TokenGuide

LIMIT_S = 1.0
"""Seconds a guide may take to compile, counted from when a thread takes it."""
WAIT_S = 5.0
"""Seconds it waits for a thread: those that took too long keep theirs, for a compilation cannot be broken off."""
THREADS = 4
GOES_ON = "It goes on being compiled; send it again in a while, or send a simpler one."
VAGUE_CHARS = 40
"""A refusal shorter than this ("Invalid grammar specification.") says nothing that its cause does not say better."""
_PLACE = re.compile(r"\[\d\d:\d\d:\d\d\] \S+:\d+: ")  # [12:34:56] /project/cpp/grammar_parser.cc:123:
_KINDS = {
    "json": "schema",
    "json_object": "schema",
    "choice": "list of choices",
    "structural_tag": "set of tools",
}
FIRST = TokenGuide("choice", ["a"])
"""Compiled before anything else: tables of the vocabulary are made with the first guide, which is not its fault."""


class GuideCompiler:
    """Guides under way, each in a thread of its own for as long as it takes.

    Args:
        compile_guide: compiles one in the calling thread and keeps what it made; raises InvalidRequest where it cannot.
    """

    def __init__(self, compile_guide: Callable[[TokenGuide], None]) -> None:
        self._compile = compile_guide
        self._threads = ThreadPoolExecutor(THREADS, "guide")
        self._free = asyncio.Semaphore(THREADS)
        self._running: dict[str, asyncio.Future[None]] = {}
        self._first: asyncio.Future[None] | None = None

    async def check(self, guide: TokenGuide) -> None:
        """Return once the guide is compiled. Whoever asks for one that is under way already waits for that.

        Raises:
            InvalidRequest: it cannot be compiled, or not in time; then `retry_after_s` is set, since it goes on and may
                be ready when it is asked for again.
            Overloaded: all threads stayed busy.
        """
        await self._make_tables()
        running = await self._begun(guide)
        await asyncio.wait((running,), timeout=LIMIT_S)
        if not running.done():
            text = f"{guide.param}: it takes longer than {LIMIT_S:g} s to compile."
            raise InvalidRequest(text, hint=GOES_ON, param=guide.param, retry_after_s=LIMIT_S)
        running.result()

    def close(self) -> None:
        """Begin no more."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _begun(self, guide: TokenGuide) -> asyncio.Future[None]:
        """The compilation of a guide, which a thread has taken."""
        key = repr(guide)
        if key in self._running:
            return self._running[key]
        try:
            async with asyncio.timeout(WAIT_S):
                await self._free.acquire()
        except TimeoutError:
            raise Overloaded(f"{THREADS} grammars are being compiled, and none ended in {WAIT_S:g} s.") from None
        if key in self._running:  # somebody else began it meanwhile
            self._free.release()
        else:
            self._running[key] = self._in_thread(guide)
            self._running[key].add_done_callback(lambda _: (self._running.pop(key), self._free.release()))
        return self._running[key]

    async def _make_tables(self) -> None:
        if self._first is None:
            self._first = self._in_thread(FIRST)
        if not self._first.done():
            await asyncio.wait((self._first,))

    def _in_thread(self, guide: TokenGuide) -> asyncio.Future[None]:
        running = asyncio.get_running_loop().run_in_executor(self._threads, self._compile, guide)
        running.add_done_callback(lambda ended: ended.cancelled() or ended.exception())  # that nobody may wait for
        return running


def guide_refusal(error: Exception, guide: TokenGuide) -> InvalidRequest:
    """What a grammar compiler has against a guide, without the place in its source."""
    kind = _KINDS.get(guide.kind, guide.kind)
    cause = error.__cause__ if len(str(error)) < VAGUE_CHARS and error.__cause__ is not None else error
    lines = [_PLACE.sub("", line).strip() for line in str(cause).splitlines()]
    first = next(filter(None, lines), type(cause).__name__)[:400]
    if first.startswith("Check failed"):  # an assertion of the compiler's, which says nothing to who wrote the guide
        first = "it is well formed, and more than the grammar compiler can do."
    return InvalidRequest(f"{guide.param}: this {kind} cannot be used: {first}", param=guide.param)
