"""The engine host: a process that runs one backend. `… -m openllm.engine.host FD [PARENT [LIFELINE [BACKEND]]]`.

Started by the supervisor in a session of its own, with one end of a socketpair as FD. BACKEND's framework is
imported at once; the first frame brings the options; the model loads in a thread; then one frame per engine step goes
back. It dies with the server: by end of file, and by the kernel's parent-death signal; what its backend started dies by the
watchdog, which waits for the end of the pipe LIFELINE. `HostSession` is also run inside the server process when embedded.
"""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import gc
import itertools
import os
import signal
import socket
import sys
import threading
import traceback
from array import array
from collections.abc import Callable
from typing import Any

from openllm_core import options as core_options
from openllm_core.errors import (
    EngineError,
    EngineUnavailable,
    MissingDependency,
    OpenLLMError,
    OutOfMemory,
    root_of,
)

from ..backends import registry
from ..backends.base import Backend
from ..lifetime import die_with_parent
from ..python_tokenizer import PythonTokenizer
from . import watchdog
from .cause import fix_for
from .channel import (
    Abort,
    Answer,
    AskIds,
    AskText,
    AskVectors,
    Channel,
    CheckGuide,
    Failed,
    LoadAdapter,
    Loading,
    OpenTokenizer,
    Ping,
    Pong,
    Ready,
    Shutdown,
    SocketChannel,
    Start,
    Step,
    Submit,
    TokenizerOpened,
    UnloadAdapter,
)
from .text import HostText

EXIT_FAILED = 70  # the reason went over the channel


class HostSession:
    """Drives one backend at the host's end of a channel."""

    def __init__(self, on_end: Callable[[int], None], preloading: threading.Thread | None = None) -> None:
        """Args:
        on_end: called once with the exit status when there is nothing more to do.
        preloading: imports what loading needs, see `preload`.
        """
        self.channel: Channel | None = None
        self.cause: BaseException | None = None  # what the backend raised, for a caller in the same process
        self._on_end = on_end
        self._preloading = preloading
        self._backend: Backend | None = None
        self._text: HostText | None = None  # where the model's tokenizer runs here
        self._task: asyncio.Task[None] | None = None
        self._side_tasks: set[asyncio.Task[None]] = set()
        self._ended = False

    def on_frame(self, frame: Any) -> None:
        """Act on one frame of the server; a backend that raises here can work no longer."""
        try:
            self._act(frame)
        except Exception as error:
            self._fail(error)

    def _act(self, frame: Any) -> None:
        backend = self._backend
        match frame:
            case Submit():
                if self._text is not None:
                    self._text.submit(frame.requests)
                if backend is not None:
                    for request in frame.requests:
                        backend.submit(request)
            case Abort():
                if self._text is not None:
                    self._text.abort(frame.request_ids)
                if backend is not None:
                    for request_id in frame.request_ids:
                        backend.abort(request_id)
            case Ping():
                self._spawn(self._answer(frame.number))
            case OpenTokenizer():
                self._spawn(self._open_tokenizer(frame))
            case CheckGuide():
                self._spawn(self._check_guide(frame))
            case LoadAdapter() | UnloadAdapter():
                self._spawn(self._change_adapter(frame))
            case AskIds() | AskText():
                self._spawn(self._answer_ask(frame))
            case AskVectors():
                self._spawn(self._embed(frame))
            case Start():
                self._task = asyncio.get_running_loop().create_task(self._run(frame))
            case Shutdown():
                self._spawn(self.close())
            case _:
                raise TypeError(f"{type(frame).__name__} is no frame for a host")

    def on_close(self, error: Exception | None) -> None:
        """The server is gone: nobody is left to work for."""
        self._end(0)

    async def close(self) -> None:
        """Close the backend, then end."""
        if self._task is not None:
            self._task.cancel()
        if self._backend is not None:
            await self._backend.aclose()
        self._end(0)

    async def _run(self, start: Start) -> None:
        channel = self.channel
        assert channel is not None
        try:
            options = core_options.from_data(start.options)
            backend = await self._load(options, channel)
            self._backend = backend
            channel.send(Ready(backend.info))
            async for output in backend.steps():
                channel.send(Step(output if self._text is None else self._text.with_text(output)))
                await channel.writable()
            raise EngineUnavailable("The backend stopped stepping.")
        except asyncio.CancelledError:
            raise
        except BaseException as error:
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        """Tell the server why, and end."""
        if self.channel is None or self._ended:
            return
        self.cause = error
        if not isinstance(error, OpenLLMError):
            traceback.print_exception(error)
        self.channel.send(Failed(_as_data(_as_openllm_error(error))))
        self.channel.close()
        self._end(EXIT_FAILED)

    async def _load(self, options: core_options.EngineOptions, channel: Channel) -> Backend:
        """Run the backend's `load` in a daemon thread, so that a process that must end need not wait for it."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[Backend] = loop.create_future()

        def progress(text: str, share: float | None) -> None:
            _call_soon(loop, channel.send, Loading(text, share))

        def load() -> None:
            if self._preloading is not None:
                self._preloading.join()  # two threads that import one package from two ends see it half made
            try:
                backend = registry.get(options.backend).load(options, progress)
            except BaseException as error:
                _call_soon(loop, _settle, done, error, None)
            else:
                _call_soon(loop, _settle, done, None, backend)

        threading.Thread(target=load, name="load", daemon=True).start()
        return await done

    async def _answer(self, number: int) -> None:
        error: dict[str, Any] | None = None
        if self._backend is not None:
            try:
                await self._backend.check_health()
            except OpenLLMError as unhealthy:
                error = _as_data(unhealthy)
        if self.channel is not None:
            self.channel.send(Pong(number, error))

    async def _open_tokenizer(self, frame: OpenTokenizer) -> None:
        try:
            trust = frame.trust_remote_code
            tokenizer = await asyncio.to_thread(PythonTokenizer.open, frame.folder, trust_remote_code=trust)
        except OpenLLMError as error:
            self._fail(error)
            return
        self._text = HostText(tokenizer)
        if self.channel is not None:
            self.channel.send(TokenizerOpened(tokenizer.eos_token_ids))

    async def _check_guide(self, frame: CheckGuide) -> None:
        error: dict[str, Any] | None = None
        try:
            await self._model().check_guide(frame.guide)
        except Exception as refused:
            error = _as_data(_as_openllm_error(refused))
        if self.channel is not None:
            self.channel.send(Answer(frame.number, error=error))

    async def _change_adapter(self, frame: LoadAdapter | UnloadAdapter) -> None:
        error: dict[str, Any] | None = None
        try:
            if isinstance(frame, LoadAdapter):
                await self._model().load_adapter(frame.key, frame.folder)
            else:
                await self._model().unload_adapter(frame.key)
        except Exception as refused:  # a broken adapter must not end a host that serves others
            error = _as_data(_as_openllm_error(refused))
        if self.channel is not None:
            self.channel.send(Answer(frame.number, error=error))

    async def _answer_ask(self, frame: AskIds | AskText) -> None:
        if self.channel is None:
            return
        if self._text is None:
            closed = EngineUnavailable("The tokenizer is not open yet.")
            self.channel.send(Answer(frame.number, error=closed.as_dict()))
        else:
            self.channel.send(await self._text.answer(frame))

    async def _embed(self, frame: AskVectors) -> None:
        if self.channel is None:
            return
        try:
            vectors = await self._model().embed(frame.batch)
            data = array("f", itertools.chain.from_iterable(vectors)).tobytes()
            self.channel.send(Answer(frame.number, vectors=data))
        except Exception as error:  # one request's sake: the others go on
            self.channel.send(Answer(frame.number, error=_as_data(_as_openllm_error(error))))

    def _model(self) -> Backend:
        """The loaded one, for a question that may have been meant for the host before."""
        if self._backend is None:
            raise EngineUnavailable("There is no model yet.")
        return self._backend

    def _spawn(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._side_tasks.add(task)
        task.add_done_callback(self._side_tasks.discard)

    def _end(self, status: int) -> None:
        if not self._ended:
            self._ended = True
            self._on_end(status)


def _settle(done: asyncio.Future[Backend], error: BaseException | None, backend: Backend | None) -> None:
    if done.done():
        return
    if error is not None:
        plain = isinstance(error, Exception) and not isinstance(error, StopIteration)  # no future takes the latter
        done.set_exception(error if plain else EngineError(f"Loading ended: {error!r}"))
    elif backend is not None:
        done.set_result(backend)


def _call_soon(loop: asyncio.AbstractEventLoop, function: Callable[..., Any], *arguments: Any) -> None:
    try:
        loop.call_soon_threadsafe(function, *arguments)
    except RuntimeError:
        return  # the loop closed while loading; nobody listens


def _as_openllm_error(error: BaseException) -> OpenLLMError:
    """Ours as it is; anything else with its root cause on the first line."""
    if isinstance(error, OpenLLMError):
        return error
    root = root_of(error)
    if isinstance(root, MemoryError):
        return OutOfMemory("Memory ran out while loading the model.", hint="Use a smaller model or dtype.")
    lines = [line.strip() for line in str(root).splitlines() if line.strip()] or ["no message"]
    text = " ".join(lines[:2]) if lines[0].endswith(":") else lines[0]  # "Error(s) in …:" alone says nothing
    message = f"{type(root).__name__}: {text[:500]}"
    hint = fix_for(message)
    if isinstance(root, ModuleNotFoundError):
        return MissingDependency(message, hint=hint)
    return EngineError(message, hint=hint or "`openllm doctor` checks this machine; --debug shows the traceback.")


def _as_data(error: OpenLLMError) -> dict[str, Any]:
    """For a frame, which is UTF-8: what a path that is no text brought into a message is escaped."""
    data = error.as_dict()
    return {k: v.encode(errors="backslashreplace").decode() if isinstance(v, str) else v for k, v in data.items()}


async def _serve(descriptor: int, preloading: threading.Thread | None) -> int:
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[int] = loop.create_future()
    session = HostSession(lambda status: None if ended.done() else ended.set_result(status), preloading)
    sock = socket.socket(fileno=descriptor)
    sock.set_inheritable(False)  # a child that outlives us must not keep the server's end of file from coming
    session.channel = await SocketChannel.connect(sock, "host", session.on_frame, session.on_close)
    status = await ended
    await asyncio.sleep(0)  # let a last frame leave
    return status


def preload(backend: str) -> None:
    """Import a backend's framework before the options are here.

    Imports make no garbage, and modules live as long as the process: collecting waits until they are done, and then leaves
    them alone. An import that fails is told by `load`, which tries it again.
    """
    gc.disable()
    try:
        with contextlib.suppress(Exception):
            registry.get(backend).preload()
    finally:
        gc.freeze()
        gc.enable()


def main(arguments: list[str]) -> int:
    """Run until the server is gone, says so, or the backend fails."""
    die_with_parent(int(arguments[1]) if len(arguments) > 1 else None)
    if len(arguments) > 2:
        watchdog.start(int(arguments[2]))
    preloading = None
    if len(arguments) > 3:
        preloading = threading.Thread(target=preload, args=(arguments[3],), name="preload", daemon=True)
        preloading.start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    faulthandler.enable()  # a crash in native code says where it was
    return asyncio.run(_serve(int(arguments[0]), preloading))


if __name__ == "__main__":
    status = main(sys.argv[1:])
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # threads of a framework must not keep a finished host alive
