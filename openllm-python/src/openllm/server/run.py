"""Serves a composed app in this process until told to stop: port, event loop, signals, drain, exit code.

Called by `openllm start`. The port is bound before anything is loaded; the order of stopping is: not ready, refuse new,
wait, tell the rest, stop the engine, close the listener.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import signal
import socket
from collections.abc import Callable
from email.utils import formatdate
from typing import TYPE_CHECKING, Protocol

from openllm_core.errors import OpenLLMError, PortInUse, ResourceError
from openllm_core.options import ServerOptions

from .access import check_access

if TYPE_CHECKING:
    from starlette.types import ASGIApp

    from openllm.service import Service

BACKLOG = 1024
FLUSH_S = 1.0  # for the last bytes of told streams to leave
EXIT_FORCED = {signal.SIGINT: 130, signal.SIGTERM: 143}
EXIT_ENGINE_FAILED = 69


class Composed(Protocol):
    """What `openllm.compose.build` made."""

    @property
    def service(self) -> Service:
        """The use cases."""
        ...

    @property
    def app(self) -> ASGIApp:
        """The application."""
        ...


def check_port(options: ServerOptions) -> None:
    """Fail early: before a model is looked for, fetched or loaded.

    Raises:
        PortInUse: another process listens there.
        ResourceError: the address is not one of this machine.
        UnsafeConfiguration: a public address without a key.
    """
    check_access(options)
    bind(options).close()


def bind(options: ServerOptions) -> socket.socket:
    """A bound socket, not listening yet.

    Raises:
        PortInUse, ResourceError: see `check_port`.
    """
    where = f"{options.host}:{options.port}"
    try:
        family, _, _, _, address = socket.getaddrinfo(options.host, options.port, type=socket.SOCK_STREAM)[0]
    except OSError as error:
        raise ResourceError(f"{options.host!r} is no address: {error.strerror}.", param="--host") from None
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
        sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        if error.errno == errno.EADDRINUSE:
            raise PortInUse(
                f"Another process listens on {where}.",
                hint="Stop it, or choose another port: --port N (0 takes a free one).",
                param="--port",
            ) from None
        if error.errno == errno.EACCES:
            raise ResourceError(
                f"Not allowed to listen on {where}.", hint="Choose a port above 1023.", param="--port"
            ) from None
        raise ResourceError(f"Cannot listen on {where}: {error.strerror}.", param="--host") from None
    return sock


def serve(
    composed: Composed,
    options: ServerOptions,
    *,
    on_listening: Callable[[str, int], object] | None = None,
    on_ready: Callable[[], object] | None = None,
) -> int:
    """Serve until SIGTERM, SIGINT or the end of the engine.

    Args:
        on_listening: called with host and port once connections are taken; the model loads from then on.
        on_ready: called once a real token was generated.

    Returns:
        0 after a clean stop, 130 or 143 after a second signal, the exit code of the engine's error when it is gone for
        good (`engine.failure` says why).

    Raises:
        PortInUse, ResourceError, UnsafeConfiguration: before anything is loaded.
    """
    check_access(options)
    sock = bind(options)
    try:
        return asyncio.run(_Server(composed, options, sock, on_listening, on_ready).run())
    finally:
        sock.close()


class _Server:
    """One run of the server."""

    def __init__(
        self,
        composed: Composed,
        options: ServerOptions,
        sock: socket.socket,
        on_listening: Callable[[str, int], object] | None,
        on_ready: Callable[[], object] | None,
    ) -> None:
        self._service = composed.service
        self._app = composed.app
        self._options = options
        self._sock = sock
        self._on_listening = on_listening
        self._on_ready = on_ready
        self._signals = 0
        self._stop = asyncio.Event()
        self._force = asyncio.Event()
        self._forced_by = signal.SIGTERM

    async def run(self) -> int:
        from uvicorn.server import ServerState

        from .protocol import LimitedProtocol, configure

        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal, number)
        state, config = ServerState(), configure(self._app)
        listener = await loop.create_server(lambda: LimitedProtocol(config, state, {}, loop), sock=self._sock)
        clock = asyncio.create_task(_keep_date(state.default_headers))
        engine = self._service.engine
        failed = asyncio.create_task(engine.wait_failed())
        ready = asyncio.create_task(self._announce_ready())
        stop = asyncio.create_task(self._stop.wait())
        force = asyncio.create_task(self._force.wait())
        try:
            if self._on_listening is not None:
                self._on_listening(self._options.host, self._sock.getsockname()[1])
            await self._service.start()
            await asyncio.wait((stop, force, failed), return_when=asyncio.FIRST_COMPLETED)
            ready.cancel()
            drained = asyncio.create_task(self._drain(state.tasks))
            await asyncio.wait((drained, force), return_when=asyncio.FIRST_COMPLETED)
            drained.cancel()
        finally:
            for task in (clock, ready, stop, force, failed):
                task.cancel()
            listener.close()
            for connection in list(state.connections):
                connection.shutdown()
            await self._service.aclose()
            for task in list(state.tasks):
                task.cancel()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(FLUSH_S):
                    await asyncio.gather(*state.tasks, return_exceptions=True)
        if self._force.is_set():
            return EXIT_FORCED[self._forced_by]
        if failed.done() and not failed.cancelled() and not self._stop.is_set():
            return failed.result().exit_code or EXIT_ENGINE_FAILED
        return 0

    def _on_signal(self, number: signal.Signals) -> None:
        self._signals += 1
        if self._signals == 1:
            self._stop.set()
        else:
            self._forced_by = number
            self._force.set()

    async def _announce_ready(self) -> None:
        try:
            await self._service.engine.wait_ready()
        except OpenLLMError:  # a failure to load ends the server; `failed` tells it
            return
        if self._on_ready is not None:
            self._on_ready()

    async def _drain(self, tasks: set[asyncio.Task[None]]) -> None:
        """Let streams finish within the grace; the engine tells the rest, whose last bytes then leave."""
        await self._service.drain(self._options.drain_grace)
        if tasks:
            await asyncio.wait(tasks, timeout=FLUSH_S)


async def _keep_date(headers: list[tuple[bytes, bytes]]) -> None:
    """The date header of every answer, made once a second."""
    while True:
        headers[:] = [(b"date", formatdate(usegmt=True).encode())]
        await asyncio.sleep(1)
