"""One engine host process: spawned in its own session, watched by pidfd and end of file, killed as a group, reaped.

Only the supervisor uses it. What the host prints is kept (the last lines) and logged, so that the root cause of a failed
start can be told in one line. Must be called on the event loop's thread: the parent-death signal follows the thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections import deque

from openllm_core.errors import EngineError, EngineUnavailable
from openllm_core.options import EngineOptions, as_data

from ..backends import registry
from .channel import OnFrame, Shutdown, SocketChannel, Start
from .supervisor import Life, OnLost

log = logging.getLogger("openllm.engine.host")

KEPT_LINES = 200
MAX_LINE_BYTES = 4096
EXIT_WAIT_S = 2.0
"""How long the process may live on after it closed its channel before it is killed."""
KILL_WAIT_S = 10.0
"""How long the kernel may take over a SIGKILL; past it the process is left behind rather than everything held up."""

_EXCEPTION_LINE = re.compile(
    r"^(?:[A-Za-z_]\w*\.)*[A-Za-z_]*(?:Error|Exception|Failure|Interrupt|Exit)\b(?::\s*\S.*)?$"
)
_CHAINED = ("The above exception was", "During handling of the above exception")
_FATAL_LINE = re.compile(
    r"Fatal Python error|Segmentation fault|Illegal instruction|Killed|CUDA error|out of memory", re.I
)


class HostProcess:
    """A running host; made by `launch_process`."""

    def __init__(self, process: subprocess.Popen[bytes], on_lost: OnLost) -> None:
        self.pid: int | None = process.pid
        self._process = process
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
        self._channel = await SocketChannel.connect(sock, "server", on_frame, self._on_channel_closed)
        self._channel.send(Start(as_data(options)))

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
        if self._exited.done():
            self._process.wait()  # reaps

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
        how = "ended"
        if ended is not None:
            how = f"ended with status {ended.si_status}"
            if ended.si_code != os.CLD_EXITED:
                how = f"was killed by {_signal_name(ended.si_status)}"
                if ended.si_status == signal.SIGKILL:
                    how += " (the kernel does so when memory runs out)"
        root = root_cause(list(self._lines))
        return EngineUnavailable(f"The engine host {how}" + (f": {root}" if root else "."))

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
                log.debug("%s", text)

    def _close_output(self) -> None:
        if self._output is not None:
            self._loop.remove_reader(self._output)
            self._output = None
            assert self._process.stdout is not None
            self._process.stdout.close()


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def root_cause(lines: list[str]) -> str | None:
    """The line that says why: the first exception line of the last traceback chain, else the last fatal one."""
    start = 0
    for index, line in enumerate(lines):
        if line.lstrip().startswith("Traceback (most recent call last)"):
            chained = any(before.strip().startswith(_CHAINED) for before in lines[max(0, index - 3) : index])
            if not chained:
                start = index
    for line in lines[start:]:
        if _EXCEPTION_LINE.match(line.strip()):
            return line.strip()[:500]
    for line in reversed(lines):
        if _FATAL_LINE.search(line):
            return line.strip()[:500]
    return next((line.strip()[:500] for line in reversed(lines) if line.strip()), None)


async def launch_process(options: EngineOptions, on_frame: OnFrame, on_lost: OnLost) -> Life:
    """Start `python -m openllm.engine.host` with the backend's environment and hand it the options."""
    environment = os.environ | registry.get(options.backend).environment(options)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with theirs:
        process = subprocess.Popen(
            # -P: the folder the user happens to be in must not shadow an installed package.
            [sys.executable, "-P", "-m", "openllm.engine.host", str(theirs.fileno()), str(os.getpid())],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            pass_fds=(theirs.fileno(),),
            start_new_session=True,
            env=environment,
        )
    host = HostProcess(process, on_lost)
    try:
        await host.connect(ours, options, on_frame)
    except BaseException:
        await host.stop(0)
        raise
    return host
