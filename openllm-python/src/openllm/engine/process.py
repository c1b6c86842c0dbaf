"""One engine host process: spawned in its own session, watched by pidfd and end of file, killed as a group, reaped.

The supervisor uses it; `openllm start` starts the first one early. What the host prints is kept (the last lines) and logged, so that the root cause of a failed
start can be told in one line. Must be called on the event loop's thread: the parent-death signal follows the thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
from collections import deque
from typing import Any

from openllm_core.errors import EngineError
from openllm_core.options import EngineOptions, as_data

from ..backends import registry
from . import groups
from .cause import LOOK, childs_cause, explain, fix_for
from .channel import Failed, OnFrame, Shutdown, SocketChannel, Start
from .printed import read_line
from .starvation import Starvation
from .supervisor import Life, OnLost

log = logging.getLogger("openllm.engine.host")
printed = logging.getLogger("openllm.engine.host.output")
printed.addHandler(logging.NullHandler())  # a program that sets up no log is not told what a framework warns of

KEPT_LINES = 200
MAX_LINE_BYTES = 4096
EXIT_WAIT_S = 2.0
"""How long the process may live on after it closed its channel before it is killed."""
KILL_WAIT_S = 10.0
"""How long the kernel may take over a SIGKILL; past it the process is left behind rather than everything held up."""

_living: set[int] = set()
"""Process groups of the hosts that this process has started and not yet reaped."""


class HostProcess:
    """A running host; made by `Spawned.adopt`."""

    cause: BaseException | None = None  # it is raised over there

    def __init__(self, process: subprocess.Popen[bytes], lifeline: int, on_lost: OnLost) -> None:
        """Args:
        process: just started, leader of its own session.
        lifeline: write end of the pipe by whose end the host's watchdog knows that this process is gone.
        on_lost: see `Launcher`.
        """
        self.pid: int | None = process.pid
        self._process = process
        self._lifeline: int | None = lifeline
        self._starvation = Starvation(process.pid)
        self._oom_kills_before = groups.oom_kills()
        self._on_lost: OnLost | None = on_lost
        self._channel: SocketChannel | None = None
        self._loop = asyncio.get_running_loop()
        self._exited: asyncio.Future[None] = self._loop.create_future()
        self._pidfd: int | None = None
        self._lines: deque[str] = deque(maxlen=KEPT_LINES)
        self._partial = b""
        self._lose_task: asyncio.Task[None] | None = None
        assert process.stdout is not None
        self._output: int | None = process.stdout.fileno()
        os.set_blocking(self._output, False)
        self._loop.add_reader(self._output, self._read_output)
        self._watch_exit()

    @property
    def channel(self) -> SocketChannel:
        """The server's end."""
        assert self._channel is not None
        return self._channel

    async def connect(self, sock: socket.socket, options: EngineOptions, on_frame: OnFrame) -> None:
        """Take over the socket and send the options."""

        def deliver(frame: Any) -> None:
            on_frame(self._with_childs_cause(frame) if isinstance(frame, Failed) else frame)

        self._channel = await SocketChannel.connect(sock, "server", deliver, self._on_channel_closed)
        self._channel.send(Start(as_data(options)))

    def _with_childs_cause(self, frame: Failed) -> Failed:
        """A framework that starts processes of its own reports that one failed; what that one printed says why."""
        self._read_output()
        cause = childs_cause(str(frame.error.get("message", "")), list(self._lines))
        if cause is None:
            return frame
        return Failed(frame.error | {"message": cause, "hint": fix_for(cause) or frame.error.get("hint") or LOOK})

    def starved_s(self) -> float:
        """See `Life`."""
        return self._starvation.since_last()

    async def stop(self, grace_s: float) -> None:
        """Ask the host to end; whatever of its group is left after `grace_s` is killed."""
        self._on_lost = None
        if grace_s > 0 and self._channel is not None:
            self._channel.send(Shutdown())
            await self._wait_exited(grace_s)
        self._kill()
        await self._wait_exited(KILL_WAIT_S)
        if self._channel is not None:
            self._channel.close()
        self._close_output()
        if self._lifeline is not None:
            os.close(self._lifeline)
            self._lifeline = None
        if self._exited.done():
            self._process.wait()  # reaps
            await groups.wait_gone(self._process.pid, KILL_WAIT_S)
            _living.discard(self._process.pid)
            groups.end_strays(_living)
        groups.remove_leftovers()

    async def _wait_exited(self, limit_s: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.shield(self._exited), limit_s)

    def _kill(self) -> None:
        """SIGKILL to the whole group; safe until the leader is reaped, which only `stop` does."""
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)

    # watching

    def _watch_exit(self) -> None:
        if hasattr(os, "pidfd_open"):
            self._pidfd = os.pidfd_open(self._process.pid)
            self._loop.add_reader(self._pidfd, self._on_exit)
        else:  # no pidfd outside Linux: a thread waits without reaping
            threading.Thread(target=self._wait_exit, name="host-exit", daemon=True).start()

    def _wait_exit(self) -> None:
        os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOWAIT)
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
            self._loop.call_soon_threadsafe(self._on_exit)

    def _on_exit(self) -> None:
        if self._pidfd is not None:
            self._loop.remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = None
        if not self._exited.done():
            self._exited.set_result(None)
            # Frames already in the socket are read first: the end of file behind them is what tells the supervisor.
            self._loop.call_later(0.05, self._begin_losing)

    def _on_channel_closed(self, error: Exception | None) -> None:
        if error is not None:
            log.error("the channel to the engine host broke: %s", error)
        self._begin_losing()

    def _begin_losing(self) -> None:
        if self._on_lost is not None and self._lose_task is None:
            self._lose_task = self._loop.create_task(self._lose())

    async def _lose(self) -> None:
        await self._wait_exited(EXIT_WAIT_S)
        self._kill()
        await self._wait_exited(KILL_WAIT_S)
        self._read_output()
        on_lost, self._on_lost = self._on_lost, None
        if on_lost is not None:
            on_lost(self._cause())

    def _cause(self) -> EngineError:
        """Why it ended: signal or status, with the root cause lifted from what it printed."""
        ended = os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG)
        return explain(ended, list(self._lines), groups.oom_kills() - self._oom_kills_before)

    def _read_output(self) -> None:
        while self._output is not None:
            try:
                data = os.read(self._output, 65536)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if not data:
                self._close_output()
                return
            *lines, self._partial = (self._partial + data).split(b"\n")
            if len(self._partial) > MAX_LINE_BYTES:
                lines, self._partial = [*lines, self._partial], b""
            for line in lines:
                text = line[:MAX_LINE_BYTES].decode("utf-8", "replace").rstrip()
                self._lines.append(text)
                said = read_line(text)
                printed.log(said.level, "%s", said.text, extra={"fields": said.fields | {"pid": self.pid}})

    def _close_output(self) -> None:
        if self._output is not None:
            self._loop.remove_reader(self._output)
            self._output = None
            assert self._process.stdout is not None
            self._process.stdout.close()


class Spawned:
    """A host that runs and waits for its options; what it needs from outside is done while it imports.

    Attributes:
        environment: it was started with.
    """

    def __init__(self, options: EngineOptions) -> None:
        """Start `python -m openllm.engine.host` with the backend's environment.

        Raises:
            UnknownBackend: no such backend.
            OSError: the system refuses another process.
        """
        self.environment = registry.get(options.backend).environment(options)
        groups.remove_leftovers()  # of a host whose server was killed and could not
        self._sock, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        watched, self._lifeline = os.pipe()
        arguments = [str(theirs.fileno()), str(os.getpid()), str(watched), options.backend]
        try:
            self._process = subprocess.Popen(
                # -P: the folder the user happens to be in must not shadow an installed package.
                [sys.executable, "-P", "-m", "openllm.engine.host", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                pass_fds=(theirs.fileno(), watched),
                start_new_session=True,
                env=os.environ | self.environment | {groups.MARK: str(os.getpid())},
            )
            _living.add(self._process.pid)
        except BaseException:
            self._sock.close()
            os.close(self._lifeline)
            raise
        finally:
            theirs.close()
            os.close(watched)

    async def adopt(self, options: EngineOptions, on_frame: OnFrame, on_lost: OnLost) -> Life:
        """Hand it its options; from here on it is watched."""
        host = HostProcess(self._process, self._lifeline, on_lost)
        try:
            await host.connect(self._sock, options, on_frame)
        except BaseException:
            await host.stop(0)
            raise
        return host

    def discard(self) -> None:
        """End it: nobody will adopt it."""
        self._sock.close()
        os.close(self._lifeline)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        _living.discard(self._process.pid)
        assert self._process.stdout is not None
        self._process.stdout.close()


async def launch_process(options: EngineOptions, on_frame: OnFrame, on_lost: OnLost) -> Life:
    """Start a host process and hand it the options."""
    return await Spawned(options).adopt(options, on_frame, on_lost)


class EarlyHost:
    """A launcher whose first host starts now, so that its framework is imported while the server puts itself together.

    Used by `openllm start` between finding the model and composing. Must be made on the thread that later runs the event
    loop: the parent-death signal follows the thread.
    """

    def __init__(self, options: EngineOptions) -> None:
        """Args:
        options: `backend` is a name, not `auto`; what decides the host's environment is settled.
        """
        self._backend = options.backend
        self._spawned: Spawned | None = Spawned(options)

    async def launch(self, options: EngineOptions, on_frame: OnFrame, on_lost: OnLost) -> Life:
        """A `Launcher`: the first life takes the host that is there, unless it needs another one; later lives are new."""
        spawned, self._spawned = self._spawned, None
        if spawned is not None:
            environment = registry.get(options.backend).environment(options)
            if (options.backend, environment) == (self._backend, spawned.environment):
                return await spawned.adopt(options, on_frame, on_lost)
            spawned.discard()
        return await launch_process(options, on_frame, on_lost)

    def close(self) -> None:
        """End the host if nobody took it."""
        spawned, self._spawned = self._spawned, None
        if spawned is not None:
            spawned.discard()
