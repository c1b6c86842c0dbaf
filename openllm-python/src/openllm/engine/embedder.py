"""Who makes the embeddings: the engine that serves the model where it can, else a second engine, started at first use.

The second engine runs the same model on a backend that can, or a sentence encoder; `compose` says which. It starts with the
first request for embeddings, dies with the server, and what goes wrong with it is told to those requests alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import threading
import time
from array import array
from collections.abc import Callable, Sequence

import attrs

from openllm_core.errors import (
    EngineUnavailable,
    InvalidRequest,
    MissingDependency,
    OpenLLMError,
    OutOfMemory,
    ShuttingDown,
    StoreError,
    UnsupportedFeature,
)

from .embedding import MAX_WAITING, Embedded, Input
from .engine import Engine
from .pool import AnyEngine

log = logging.getLogger("openllm.engine.embedder")

RETRY_S = 30.0
"""After a second engine could not be had, requests are refused for so long before it is tried again."""
SLICE_TEXTS = 2048
"""Texts of a program's own list that wait at once."""


@attrs.frozen(kw_only=True)
class Second:
    """How a second engine is had.

    Attributes:
        name: of its model, as clients may write it; None where it is the served model itself.
        make: finds the model, fetching what is missing, and gives an engine that is not started; runs in a thread.
        possible: whether it can be had as far as can be told without trying.
        otherwise: takes its place where loading it shows that its model has no embeddings.
    """

    name: str | None
    make: Callable[[], Engine]
    possible: Callable[[], bool] = lambda: True
    otherwise: Second | None = None


class Embedder:
    """Embeddings of one server or program."""

    def __init__(self, engine: AnyEngine, *, own: bool, second: Second) -> None:
        """Args:
        engine: that serves the model.
        own: whether that one is asked first, which is known to be able to, or may be.
        second: asked where `engine` cannot.
        """
        self.second = second
        self._engine = engine
        self._own = own
        self._made: Engine | None = None
        self._starting: asyncio.Task[Engine] | None = None
        self._failure: str | None = None
        self._failed_at = 0.0
        self._closed = False
        self._slices = asyncio.Semaphore(MAX_WAITING // SLICE_TEXTS)

    @property
    def own(self) -> bool:
        """Whether the engine that serves the model makes them, as far as is known before it is loaded."""
        info = self._engine.info
        return self._own and (info is None or info.capabilities.embed)

    @property
    def available(self) -> bool:
        """Whether a request for embeddings is likely to be answered."""
        return self.own or (self._failure is None and (self._made is not None or self.second.possible()))

    @property
    def name(self) -> str | None:
        """Name of the model that makes them; None where it is the served one."""
        return None if self.own else self.second.name

    async def embed(self, inputs: Sequence[Input]) -> Embedded:
        """Vectors of texts or token ids; see `Embeddings.embed`.

        Raises:
            EngineUnavailable: the second engine cannot be had, or died; tried again after a while.
        """
        if self.own:
            return await self._engine.embed(inputs)
        if self._closed or self._engine.state in ("draining", "closed"):
            raise ShuttingDown("The server is shutting down.")
        engine = await self._second_engine()
        return await engine.embed(inputs)

    async def drain(self, grace_s: float) -> None:
        """Take nothing new for the second engine; wait up to `grace_s` for what it computes; then end that."""
        self._closed = True
        if self._made is not None:
            await self._made.drain(grace_s)

    async def aclose(self) -> None:
        """End the second engine. Idempotent."""
        self._closed = True
        if self._starting is not None:
            self._starting.cancel()
            await asyncio.gather(self._starting, return_exceptions=True)
        if self._made is not None:
            await self._made.aclose()

    async def embed_all(self, inputs: Sequence[Input]) -> Embedded:
        """`embed` for a program, whose list may be longer than a server takes: in slices, each waiting for its turn."""
        vectors: list[array[float]] = []
        num_tokens = 0
        for start in range(0, len(inputs), SLICE_TEXTS):
            try:
                async with self._slices:
                    found = await self.embed(inputs[start : start + SLICE_TEXTS])
            except InvalidRequest as error:
                raise _moved(error, start) from None
            vectors += found.vectors
            num_tokens += found.num_tokens
        return Embedded(vectors, num_tokens)

    async def _second_engine(self) -> Engine:
        if self._made is not None and self._made.failure is not None:
            self._refuse_for_now(self._made.failure)
            await self._drop()
        if self._failure is not None and time.monotonic() - self._failed_at < RETRY_S:
            raise EngineUnavailable(self._failure, retry_after_s=RETRY_S)
        if self._starting is None and (self._made is None or self._made.state != "ready"):
            self._starting = asyncio.create_task(self._start())
        if self._starting is not None:
            starting = self._starting
            try:
                return await asyncio.shield(starting)  # whoever leaves leaves it to the others
            except asyncio.CancelledError:
                if starting.cancelled():
                    raise ShuttingDown("The server is shutting down.") from None
                raise
        assert self._made is not None
        return self._made

    async def _start(self) -> Engine:
        try:
            try:
                made = await self._started()
            except UnsupportedFeature as error:
                if self.second.otherwise is None:
                    raise
                log.warning("%s %s makes the embeddings instead", error.message, self.second.otherwise.name)
                await self._drop()
                self.second = self.second.otherwise
                made = await self._started()
        except ShuttingDown:  # ours; `aclose` ends the engine
            raise
        except Exception as error:
            await self._drop()
            raise self._refuse_for_now(error) from None
        else:
            self._failure = None
            return made
        finally:
            self._starting = None

    async def _started(self) -> Engine:
        if self._made is None:
            log.info("starting an engine for embeddings (%s)", self.second.name or "the served model")
            self._made = await _in_thread(self.second.make)
            await self._made.start()
        await self._made.wait_ready()
        return self._made

    async def _drop(self) -> None:
        made, self._made = self._made, None
        if made is not None:
            await made.aclose()

    def _refuse_for_now(self, error: Exception) -> EngineUnavailable:
        """Keep what stopped it for the requests of the next seconds; the log has it whole."""
        name = self.second.name or "the served model"
        hint = error.hint if isinstance(error, OpenLLMError) else None
        log.error("the engine for embeddings (%s) cannot be had: %s %s", name, error, hint or "")
        match error:  # other messages name folders of this machine
            case MissingDependency() | OutOfMemory():
                why = error.message
            case StoreError():
                why = "its files are not on this machine and could not be fetched, or are not whole."
            case _:
                why = "the server's log says why."
        self._failed_at = time.monotonic()
        self._failure = f"The embeddings of {name} cannot be had now: {why}"
        return EngineUnavailable(self._failure, retry_after_s=RETRY_S)


def _moved(error: InvalidRequest, start: int) -> InvalidRequest:
    """The refusal of a slice's input, with the place of that input in the whole list."""
    if (named := re.fullmatch(r"input\[(\d+)\]", error.param or "")) is None:
        return error
    param = f"input[{start + int(named[1])}]"
    message = error.message.replace(named[0], param)
    return type(error)(message, hint=error.hint, code=error.wire_code, param=param)


async def _in_thread(make: Callable[[], Engine]) -> Engine:
    """Run it in a daemon thread: a server that stops need not wait for a download."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[Engine] = loop.create_future()

    def settle(engine: Engine | None, error: Exception | None) -> None:
        if done.done():
            return
        if engine is not None:
            done.set_result(engine)
        elif error is not None:
            done.set_exception(error)

    def run() -> None:
        engine, error = None, None
        try:
            engine = make()
        except Exception as raised:
            error = raised
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
            loop.call_soon_threadsafe(settle, engine, error)

    threading.Thread(target=run, name="embedding-model", daemon=True).start()
    return await done
