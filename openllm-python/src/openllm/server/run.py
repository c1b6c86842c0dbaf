"""Serves what was composed in this process until told to stop: ports, event loop, signals, drain, exit code.

Called by `openllm start` and `start-grpc`. Ports are bound before anything is loaded; the order of stopping is: not ready,
refuse new, wait, tell the rest, stop the engine, close the listeners. Of gRPC it knows that it starts, drains and ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import signal
import socket
from collections.abc import Callable
from email.utils import formatdate
from importlib.util import find_spec
from typing import TYPE_CHECKING, Protocol

import attrs

from openllm.access import check_access
from openllm.lifetime import adopt_orphans
from openllm.open_files import connections_within
from openllm_core.errors import InvalidSetting, MissingDependency, OpenLLMError, PortInUse, ResourceError
from openllm_core.options import ServerOptions

from .metrics_port import HOST, MetricsPort
from .tls import context_of

if TYPE_CHECKING:
    from starlette.types import ASGIApp

    from openllm.service import Service

    from .middleware import Application

BACKLOG = 1024
FLUSH_S = 1.0  # for the last bytes of told streams to leave
EXIT_FORCED = {signal.SIGINT: 130, signal.SIGTERM: 143}
EXIT_ENGINE_FAILED = 69
GRPC_PACKAGES = ("grpc", "grpc_health", "grpc_reflection", "grpc_status")


class Composed(Protocol):
    """What `openllm.compose.build` made."""

    @property
    def service(self) -> Service:
        """The use cases."""
        ...

    @property
    def app(self) -> Application:
        """The application."""
        ...

    @property
    def metrics_app(self) -> ASGIApp:
        """`/metrics` alone."""
        ...

    @property
    def rpc(self) -> Rpc | None:
        """The gRPC server, where there is one."""
        ...

    @property
    def telemetry(self) -> Telemetry | None:
        """What sends traces and metrics, where it is wanted."""
        ...


class Telemetry(Protocol):
    """What sends traces and metrics; `openllm.telemetry.otel.Telemetry` is one."""

    def close(self) -> None:
        """Send what is left, within a few seconds. Blocks."""
        ...


class Rpc(Protocol):
    """A gRPC server; `openllm.rpc.server.RpcServer` is one."""

    async def start(self) -> int:
        """Listen; gives the port."""
        ...

    async def drain(self) -> None:
        """Say that the end is near."""
        ...

    async def aclose(self, grace_s: float) -> None:
        """Stop listening, and end what runs after the grace."""
        ...


def check_port(options: ServerOptions) -> None:
    """Fail early: before a model is looked for, fetched or loaded.

    Raises:
        PortInUse: another process listens there.
        ResourceError: the address is not one of this machine, or too few files may be open.
        UnsafeConfiguration: a public address without a key.
        InvalidSetting: both servers are to listen on one port, or the files of TLS do not fit.
        MissingDependency: gRPC was asked for, and its extra is not installed.
    """
    connections_within(options, listeners_of(options))
    check_access(options)
    context_of(options)
    if options.http:
        bind(options).close()
    if options.metrics_port is not None:
        if options.metrics_port and options.metrics_port in (options.port if options.http else 0, options.grpc_port):
            raise InvalidSetting(f"Port {options.metrics_port} is the server's own.", param="--metrics-port")
        bind_metrics(options.metrics_port).close()
    if options.grpc_port is None:
        return
    missing = [name for name in GRPC_PACKAGES if find_spec(name) is None]
    if missing:
        raise MissingDependency(f"gRPC needs {', '.join(missing)}.", hint="pip install 'openllm[grpc]'")
    if options.http and options.grpc_port == options.port != 0:
        raise InvalidSetting(f"HTTP and gRPC cannot both listen on port {options.port}.", param="--grpc-port")
    bind(options, options.grpc_port, "--grpc-port").close()


def listeners_of(options: ServerOptions) -> int:
    """How many servers share this process's files."""
    return max(1, int(options.http) + int(options.grpc_port is not None))


def bind(options: ServerOptions, port: int | None = None, flag: str = "--port") -> socket.socket:
    """A bound socket, not listening yet.

    Args:
        port: default: that of HTTP.
        flag: which names it, for the errors.

    Raises:
        PortInUse, ResourceError: see `check_port`.
    """
    port = options.port if port is None else port
    where = f"{options.host}:{port}"
    try:
        family, _, _, _, address = socket.getaddrinfo(options.host, port, type=socket.SOCK_STREAM)[0]
    except OSError as error:
        raise ResourceError(f"{options.host!r} is no address: {error.strerror}.", param="--host") from None
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # Connections inherit it. Else the kernel keeps the second write of an answer until the first one was
        # acknowledged, which a client does after 40 ms; asyncio sets it on sockets that it opened itself alone.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.bind(address)
        sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        if error.errno == errno.EADDRINUSE:
            raise PortInUse(
                f"Another process listens on {where}.",
                hint=f"Stop it, or choose another port: {flag} N (0 takes a free one).",
                param=flag,
            ) from None
        if error.errno == errno.EACCES:
            raise ResourceError(
                f"Not allowed to listen on {where}.", hint="Choose a port above 1023.", param=flag
            ) from None
        raise ResourceError(f"Cannot listen on {where}: {error.strerror}.", param="--host") from None
    return sock


def bind_metrics(port: int) -> socket.socket:
    """The same for `/metrics` alone: on this machine's own address, whatever the server's is."""
    return bind(ServerOptions(host=HOST), port, "--metrics-port")


def serve(
    composed: Composed,
    options: ServerOptions,
    *,
    on_listening: Callable[[str, int], object] | None = None,
    on_ready: Callable[[], object] | None = None,
    on_grpc: Callable[[str, int], object] | None = None,
    on_metrics: Callable[[str, int], object] | None = None,
) -> int:
    """Serve until SIGTERM, SIGINT or the end of the engine.

    Args:
        on_listening: called with host and port once HTTP takes connections; the model loads from then on.
        on_grpc: the same of gRPC, a moment earlier.
        on_metrics: the same of `/metrics` alone.
        on_ready: called once a real token was generated.

    Returns:
        0 after a clean stop, 130 or 143 after a second signal, the exit code of the engine's error when it is gone for
        good (`engine.failure` says why).

    Raises:
        PortInUse, ResourceError, UnsafeConfiguration: before anything is loaded.
    """
    check_access(options)
    adopt_orphans()
    sock = bind(options) if options.http else None
    try:
        code = asyncio.run(_Server(composed, options, sock, on_listening, on_ready, on_grpc, on_metrics).run())
        if composed.telemetry is not None and code not in EXIT_FORCED.values():
            composed.telemetry.close()
        return code
    finally:
        if sock is not None:
            sock.close()


class _Server:
    """One run of the server."""

    def __init__(
        self,
        composed: Composed,
        options: ServerOptions,
        sock: socket.socket | None,
        on_listening: Callable[[str, int], object] | None,
        on_ready: Callable[[], object] | None,
        on_grpc: Callable[[str, int], object] | None,
        on_metrics: Callable[[str, int], object] | None = None,
    ) -> None:
        self._service = composed.service
        self._app = composed.app
        self._rpc = composed.rpc
        self._options = options
        self._sock = sock
        self._on_listening = on_listening
        self._on_ready = on_ready
        self._on_grpc = on_grpc
        self._on_metrics = on_metrics
        self._metrics: MetricsPort | None = None
        if options.metrics_port is not None:
            self._metrics = MetricsPort(composed.metrics_app, options, bind_metrics(options.metrics_port))
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
        most = connections_within(self._options, listeners_of(self._options))
        limits = attrs.evolve(self._options, max_connections=most)
        state, config = ServerState(), configure(self._app, limits, self._app.refused)
        listener = None
        if self._sock is not None:
            tls = context_of(self._options)
            make = functools.partial(LimitedProtocol, config, state, {}, loop)
            handshake_s = self._options.header_timeout if tls is not None else None
            listener = await loop.create_server(make, sock=self._sock, ssl=tls, ssl_handshake_timeout=handshake_s)
            self._sock.listen(BACKLOG)  # the loop has made it as short as the number of those it takes at a time
        clock = asyncio.create_task(_keep_date(state.default_headers))
        engine = self._service.engine
        failed = asyncio.create_task(engine.wait_failed())
        ready = asyncio.create_task(self._announce_ready())
        stop = asyncio.create_task(self._stop.wait())
        force = asyncio.create_task(self._force.wait())
        try:
            await self._announce_listening()
            await self._service.start()
            await asyncio.wait((stop, force, failed), return_when=asyncio.FIRST_COMPLETED)
            ready.cancel()
            drained = asyncio.create_task(self._drain(state.tasks))
            await asyncio.wait((drained, force), return_when=asyncio.FIRST_COMPLETED)
            drained.cancel()
        finally:
            for task in (clock, ready, stop, force, failed):
                task.cancel()
            if listener is not None:
                listener.close()
            if self._metrics is not None:
                self._metrics.close()
            for connection in list(state.connections):
                connection.shutdown()
            await self._service.aclose()
            if self._rpc is not None:
                await self._rpc.aclose(0 if self._force.is_set() else FLUSH_S)
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

    async def _announce_listening(self) -> None:
        host = self._options.host
        if self._metrics is not None:
            port = await self._metrics.start()
            if self._on_metrics is not None:
                self._on_metrics(HOST, port)
        if self._rpc is not None:
            port = await self._rpc.start()
            if self._on_grpc is not None:
                self._on_grpc(host, port)
        if self._sock is not None and self._on_listening is not None:
            self._on_listening(host, self._sock.getsockname()[1])

    async def _announce_ready(self) -> None:
        try:
            await self._service.engine.wait_ready()
        except OpenLLMError:  # a failure to load ends the server; `failed` tells it
            return
        if self._on_ready is not None:
            self._on_ready()

    async def _drain(self, tasks: set[asyncio.Task[None]]) -> None:
        """Let streams finish within the grace; the engine tells the rest, whose last bytes then leave."""
        if self._rpc is not None:
            await self._rpc.drain()
        await self._service.drain(self._options.drain_grace)
        if tasks:
            await asyncio.wait(tasks, timeout=FLUSH_S)


async def _keep_date(headers: list[tuple[bytes, bytes]]) -> None:
    """The date header of every answer, made once a second."""
    while True:
        headers[:] = [(b"date", formatdate(usegmt=True).encode())]
        await asyncio.sleep(1)
