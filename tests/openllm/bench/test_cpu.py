"""CPU of a server and of what it started, as the operating system counts it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest

from openllm.bench import cpu

BUSY_S = 0.3
SPIN = f"""
import sys, time
while time.process_time() < {BUSY_S}: pass
print("done", flush=True)
sys.stdin.read()
"""
HOST = f"""
import sys, threading, time
def spin():
    end = time.thread_time() + {BUSY_S}
    while time.thread_time() < end: pass
spin()
thread = threading.Thread(target=spin); thread.start(); thread.join()
print("done", flush=True)
sys.stdin.read()
"""


def started(program: str, *words: str) -> Iterator[subprocess.Popen[bytes]]:
    child = subprocess.Popen([sys.executable, "-c", program, *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert child.stdout is not None and child.stdin is not None
    assert child.stdout.readline() == b"done\n"
    yield child
    child.stdin.close()
    child.wait()
    child.stdout.close()


@pytest.fixture
def spinner() -> Iterator[subprocess.Popen[bytes]]:
    yield from started(SPIN)


@pytest.fixture
def host() -> Iterator[subprocess.Popen[bytes]]:
    yield from started(HOST, cpu.HOST_MODULE)


def test_the_server_and_its_descendants_are_told_apart(spinner: subprocess.Popen[bytes]):
    """What a child burnt is the rest's; read as the server itself, it is the server's."""
    here, there = cpu.read(os.getpid()), cpu.read(spinner.pid)
    assert here is not None and there is not None
    assert here.rest >= BUSY_S * 0.9
    assert there.server >= BUSY_S * 0.9
    assert there.rest == there.host_main == 0.0
    assert there.memory_bytes > 1_000_000


def test_an_engine_hosts_main_thread_is_told_from_its_compute(host: subprocess.Popen[bytes]):
    """Half of it ran on the main thread, half on another."""
    here = cpu.read(os.getpid())
    assert here is not None
    assert here.host_main == pytest.approx(BUSY_S, rel=0.5)
    assert here.rest >= BUSY_S * 0.8


def test_figures_are_per_token():
    """Differences of two readings, in microseconds per token."""
    before = cpu.CpuTimes(server=1.0, host_main=2.0, rest=3.0, memory_bytes=1)
    after = cpu.CpuTimes(server=1.5, host_main=2.1, rest=5.0, memory_bytes=7)
    assert after.since(before).per_token(1000) == pytest.approx(
        {
            "server_us_per_token": 500.0,
            "host_main_us_per_token": 100.0,
            "rest_us_per_token": 2000.0,
            "server_memory_bytes": 7.0,
        }
    )


def test_whoever_listens_is_found():
    """By port on this machine; nobody there, or another machine, is None."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        assert cpu.listener("localhost", port) == os.getpid()
    assert cpu.listener("127.0.0.1", port) is None
    assert cpu.listener("192.0.2.1", port) is None
    assert cpu.read(2**22 + 1) is None
