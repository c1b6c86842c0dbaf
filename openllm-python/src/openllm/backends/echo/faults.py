"""How loading can go wrong beyond an error of ours, as a real framework does it; and a family of processes to leave behind.

`EchoBackend.load` calls these when its script says so. Everything here happens for real: the process crashes in native
code, is killed, or raises what Python itself raises.
"""

from __future__ import annotations

import ctypes
import importlib
import itertools
import operator
import os
import signal
import subprocess
import sys

_CHILD = """
import signal, subprocess, sys, time
for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
    signal.signal(number, signal.SIG_IGN)
left = int(sys.argv[2])
if left > 1:
    subprocess.Popen([sys.executable, "-I", "-S", "-c", sys.argv[1], sys.argv[1], str(left - 1)])
time.sleep(3600)
"""


def start_family(generations: int, *, stray: bool = False) -> None:
    """Start a child that starts a child, and so on; none of them ends when asked.

    Args:
        stray: they leave the process group of the host.
    """
    command = [sys.executable, "-I", "-S", "-c", _CHILD, _CHILD, str(generations)]
    subprocess.Popen(command, start_new_session=stray)


def crash() -> None:
    """Native code reads where it must not."""
    ctypes.string_at(8)


def spin() -> None:
    """A native function that never returns and never lets go of the interpreter: no other thread runs, no frame leaves."""
    operator.countOf(itertools.count(), -1)


def be_killed() -> None:
    """What the kernel does when memory runs out."""
    os.kill(os.getpid(), signal.SIGKILL)


def import_what_is_missing() -> None:
    """A package that is not installed."""
    importlib.import_module("no_such_framework")


def miss_a_library() -> None:
    """A shared library that the system lacks."""
    ctypes.CDLL("libnuma.so.99")


def run_out_of_memory() -> None:
    """An allocation the machine refuses."""
    raise MemoryError


def raise_through_layers() -> None:
    """A framework's error wrapped by another one that says nothing."""
    try:
        raise ValueError("head size 13 is not supported")
    except ValueError as error:
        raise RuntimeError("loading failed, see above") from error


FAULTS = {
    "crash": crash,
    "killed": be_killed,
    "import": import_what_is_missing,
    "library": miss_a_library,
    "memory": run_out_of_memory,
    "exception": raise_through_layers,
}
