"""CPU seconds a server and everything it started have used, by part, as the operating system counts them.

Used by `rounds` around each level. Only servers on this machine whose process we may look at can be measured.
"""

from __future__ import annotations

import ipaddress
import socket

import attrs
import psutil

HOST_MODULE = "openllm.engine.host"


@attrs.frozen(kw_only=True)
class CpuTimes:
    """CPU seconds since their start.

    Attributes:
        server: of the process that listens, all threads.
        host_main: of the main thread of our engine hosts: what runs there beside the backend's own threads.
        rest: of every other thread and descendant: the compute.
        memory_bytes: resident memory of the process that listens.
    """

    server: float
    host_main: float
    rest: float
    memory_bytes: int

    def since(self, earlier: CpuTimes) -> CpuTimes:
        """What was used since; memory is that of now."""
        return CpuTimes(
            server=self.server - earlier.server,
            host_main=self.host_main - earlier.host_main,
            rest=self.rest - earlier.rest,
            memory_bytes=self.memory_bytes,
        )

    def per_token(self, tokens: int) -> dict[str, float]:
        """Microseconds per token by part, and the process's memory."""
        parts = {"server": self.server, "host_main": self.host_main, "rest": self.rest}
        figures = {f"{name}_us_per_token": seconds / tokens * 1e6 for name, seconds in parts.items()}
        return figures | {"server_memory_bytes": float(self.memory_bytes)}


def read(pid: int) -> CpuTimes | None:
    """CPU used so far by a server process and its descendants; None when it is gone."""
    try:
        server = psutil.Process(pid)
        host_main = rest = 0.0
        for child in server.children(recursive=True):
            try:
                used = _seconds(child)
                own = _main_thread(child) if HOST_MODULE in child.cmdline() else 0.0
            except psutil.Error:
                continue
            host_main += own
            rest += used - own
        memory = server.memory_info().rss
        return CpuTimes(server=_seconds(server), host_main=host_main, rest=rest, memory_bytes=memory)
    except psutil.Error:
        return None


def listener(host: str, port: int) -> int | None:
    """Process id of whoever listens on a port of this machine; None elsewhere, or when it may not be looked at."""
    try:
        addresses = {found[4][0] for found in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)}
        if not all(ipaddress.ip_address(address).is_loopback for address in addresses):
            return None
        for connection in psutil.net_connections(kind="tcp"):
            if connection.status == psutil.CONN_LISTEN and connection.laddr and connection.laddr.port == port:
                return connection.pid
    except (OSError, ValueError, psutil.Error):
        return None
    return None


def _seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system


def _main_thread(process: psutil.Process) -> float:
    return sum(t.user_time + t.system_time for t in process.threads() if t.id == process.pid)
