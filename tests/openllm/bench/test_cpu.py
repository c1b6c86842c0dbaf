"""CPU of a server and of what it started, as the operating system counts it."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator

import attrs
import pytest

from openllm.bench import cpu

BUSY_S = 0.3
CLOSE_S = 0.05  # the operating system counts in hundredths, and the program goes on for a moment after it has looked
SERVER = """
import subprocess, sys
subprocess.run([sys.executable, "-c", *sys.argv[1:]])
"""
CHILD = f"""
import json, os, sys, threading, time
def spin():
    end = time.thread_time() + {BUSY_S}
    while time.thread_time() < end: pass
spin()
thread = threading.Thread(target=spin); thread.start(); thread.join()
main_thread, whole = time.thread_time(), time.process_time()
print(json.dumps(dict(pid=os.getpid(), main_thread=main_thread, whole=whole)), flush=True)
sys.stdin.read()
"""


@attrs.frozen
class Server:
    """A process that does nothing but wait for its one child, which has burnt its CPU and waits too.

    Attributes:
        pid: of the server.
        child: pid of the child.
        main_thread: CPU seconds of the child's main thread, by its own clock.
        whole: CPU seconds of all of the child's threads.
    """

    pid: int
    child: int
    main_thread: float
    whole: float


def started(*words: str) -> Iterator[Server]:
    """A server of our own: this process has other children, which other tests in it left running."""
    command = [sys.executable, "-c", SERVER, CHILD, *words]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as server:
        assert server.stdout is not None
        told = json.loads(server.stdout.readline())
        yield Server(server.pid, told["pid"], told["main_thread"], told["whole"])


@pytest.fixture(scope="module", autouse=True)
def host() -> Iterator[Server]:
    """A server whose child is an engine host by its command line; it is a neighbour of the other server in every test."""
    yield from started(cpu.HOST_MODULE)


@pytest.fixture(scope="module", autouse=True)
def plain() -> Iterator[Server]:
    """A server whose child is no engine host."""
    yield from started()


def test_the_server_and_its_descendants_are_told_apart(plain: Server):
    """What a child burnt is the rest's; read as the server itself, it is the server's. Who is no descendant does not count."""
    here, there = cpu.read(plain.pid), cpu.read(plain.child)
    assert here is not None and there is not None
    assert here.server < 2 * BUSY_S <= plain.whole
    assert here.rest == pytest.approx(plain.whole, abs=CLOSE_S)
    assert there.server == pytest.approx(plain.whole, abs=CLOSE_S)
    assert here.host_main == there.rest == there.host_main == 0.0
    assert there.memory_bytes > 1_000_000


def test_an_engine_hosts_main_thread_is_told_from_its_compute(host: Server):
    """Half of it ran on the main thread, half on another: each part is what the host's own clocks say of it."""
    here = cpu.read(host.pid)
    assert here is not None
    assert host.main_thread >= BUSY_S and host.whole - host.main_thread >= BUSY_S
    assert here.host_main == pytest.approx(host.main_thread, abs=CLOSE_S)
    assert here.rest == pytest.approx(host.whole - host.main_thread, abs=CLOSE_S)


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
