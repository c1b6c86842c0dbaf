"""Fixtures of the end-to-end tests: a server process that serves the default model."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import psutil
import pytest

ANSWER_S = 60  # what a server may take to answer while all cores are busy; one that is gone is known at once


def probe() -> httpx.Client:
    """A client of a connection for each question: a server that restarts or drains leaves none of its connections behind."""
    return httpx.Client(timeout=ANSWER_S, limits=httpx.Limits(max_keepalive_connections=0))


@dataclass
class ServerProcess:
    """A running `openllm start`.

    Attributes:
        url: base address without a trailing slash.
        log: file that holds everything it printed.
        grpc: its address over gRPC; "" where it speaks HTTP alone.
        http: what asks it for its state.
    """

    process: subprocess.Popen[bytes]
    url: str
    log: Path
    grpc: str = ""
    http: httpx.Client = field(default_factory=probe, repr=False)

    def host_pids(self) -> list[int]:
        """Process ids of the engine hosts, children of the server."""
        found: list[int] = []
        for child in psutil.Process(self.process.pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                if "openllm.engine.host" in " ".join(child.cmdline()):
                    found.append(child.pid)
        return found

    def host_pid(self) -> int:
        """Process id of the engine host."""
        pids = self.host_pids()
        assert pids, "no engine host is running"
        return pids[0]

    def status(self, path: str = "/readyz") -> int:
        """HTTP status of a GET; 0 when nobody answers."""
        try:
            return self.http.get(self.url + path).status_code
        except httpx.TransportError:
            return 0

    def wait_for(self, status: int, *, path: str = "/readyz", within_s: float = 90) -> None:
        """Poll until a GET answers `status`."""
        end = time.monotonic() + within_s
        while time.monotonic() < end:
            if self.status(path) == status:
                return
            assert self.process.poll() is None, f"the server ended:\n{self.log.read_text()}"
            time.sleep(0.05)
        raise AssertionError(f"{path} did not become {status} in {within_s} s:\n{self.log.read_text()}")

    def metric(self, name: str) -> float:
        """Sum of the samples of one metric in /metrics."""
        lines = self.http.get(self.url + "/metrics").text.splitlines()
        values = [float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith((name + " ", name + "{"))]
        assert values, f"no metric {name}"
        return sum(values)


def free_port() -> int:
    """A port nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def openllm_start(
    log: Path,
    *arguments: str,
    environ: dict[str, str] | None = None,
    python: str = sys.executable,
    cwd: Path | None = None,
    grpc: bool = False,
) -> Iterator[ServerProcess]:
    """Run `openllm start` with `arguments` on a free port, in the folder `cwd`; end it and whatever it left afterwards."""
    port, grpc_port = free_port(), free_port() if grpc else 0
    command = [python, "-m", "openllm", "start", *arguments, "--port", str(port)]
    command += ["--grpc-port", str(grpc_port)] if grpc else []
    with log.open("wb") as sink:
        process = subprocess.Popen(command, stdout=sink, stderr=sink, env=os.environ | (environ or {}), cwd=cwd)
    server = ServerProcess(process, f"http://127.0.0.1:{port}", log, f"127.0.0.1:{grpc_port}" if grpc else "")
    family = [process.pid]
    try:
        server.wait_for(200, path="/livez", within_s=120)
        server.wait_for(200, within_s=180)
        family += [child.pid for child in psutil.Process(process.pid).children(recursive=True)]
        yield server
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(45)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for pid in family[1:]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


@pytest.fixture(scope="session")
def server(store: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """`openllm start` without a model: the default model on the torch backend. Tests must leave it running."""
    log = tmp_path_factory.mktemp("server") / "log.txt"
    with openllm_start(log, "--backend", "pt", environ=store, grpc=True) as running:
        yield running
