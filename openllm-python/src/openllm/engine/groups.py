"""Process groups of engine hosts: who is in one, whether any of it lives, and what it leaves behind.

Called by whoever ends a host. Reads /proc where there is one; without it only the group's existence can be told.
It must not know of channels or of what a host does.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import time
from collections.abc import Collection
from pathlib import Path

from openllm import lifetime

POLL_S = 0.005
MAX_GENERATIONS = 16
MARK = "OPENLLM_STARTED_BY"
"""Variable in the environment of a host and all that it starts: process id of its server."""
_SHARED_MEMORY = Path("/dev/shm")
_OPENMP_REGISTRATION = re.compile(r"__KMP_REGISTERED_LIB_(\d+)_(\d+)$")
"""Intel's OpenMP notes each process (id, user) that uses it here; the note goes only when that process ends by itself."""


def members(group: int, proc: Path = Path("/proc")) -> list[int]:
    """Processes of a group that live (no zombies); empty where the system does not tell."""
    found: list[int] = []
    for entry in proc.glob("[0-9]*"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            state, _, of_group = (entry / "stat").read_text().rpartition(")")[2].split()[:3]
            if int(of_group) == group and state not in ("Z", "X"):
                found.append(int(entry.name))
    return found


def resident_bytes(pid: int | None, proc: Path = Path("/proc")) -> int:
    """Resident memory of a process; 0 where there is none or the system does not tell."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        return int((proc / str(pid) / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return 0


def reap(group: int) -> None:
    """Take the exit status of those of a group that became our children because their own parent is gone."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-group, os.WNOHANG)[0]:
            pass


def strays(keep: Collection[int], proc: Path = Path("/proc")) -> list[int]:
    """Children of this process that it did not start: orphans of a host's family that had left the host's group, known by
    the variable that hosts are started with; and whatever ended here without being reaped.

    Args:
        keep: groups whose processes are none, besides this process's own.
    """
    found: list[int] = []
    me, mine = os.getpid(), os.getpgrp()
    mark = f"{MARK}={me}".encode()
    for entry in proc.glob("[0-9]*"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            state, parent, group = (entry / "stat").read_text().rpartition(")")[2].split()[:3]
            if int(parent) != me or int(group) == mine or int(group) in keep:
                continue
            if state == "Z" or mark in (entry / "environ").read_bytes().split(b"\0"):
                found.append(int(entry.name))
    return found


def end_strays(keep: Collection[int]) -> None:
    """Kill and reap them; only in a process that asked to have orphans."""
    if not lifetime.adopts_orphans():
        return
    for _ in range(MAX_GENERATIONS):  # what they had started comes here next
        found = strays(keep)
        for pid in found:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
        if not found:
            return


def exists(group: int) -> bool:
    """Whether the group has any process, a zombie included."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


async def wait_gone(group: int, limit_s: float) -> bool:
    """Wait until no process of a killed group lives, so that its memory is free before anything new starts.

    Args:
        group: id of a group whose leader was reaped.

    Returns:
        False when some still live after `limit_s`.
    """
    end = time.monotonic() + limit_s
    while True:
        reap(group)
        if not exists(group) or not members(group):
            return True
        if time.monotonic() > end:
            return False
        await asyncio.sleep(POLL_S)


def remove_leftovers(folder: Path = _SHARED_MEMORY, proc: Path = Path("/proc")) -> int:
    """Remove the notes that this user's killed processes left in shared memory; a later process of the same id trips
    over them. Returns how many."""
    removed = 0
    for note in folder.glob("__KMP_REGISTERED_LIB_*"):
        match = _OPENMP_REGISTRATION.match(note.name)
        if match is None or int(match[2]) != os.getuid() or (proc / match[1]).exists():
            continue
        with contextlib.suppress(OSError):
            note.unlink()
            removed += 1
    return removed


def oom_kills(root: Path = Path("/")) -> int:
    """Processes the kernel has killed for want of memory in this process's control group; 0 where it does not count."""
    try:
        own = (root / "proc/self/cgroup").read_text()
    except OSError:
        return 0
    path = next((line.partition("::")[2] for line in own.splitlines() if line.startswith("0::")), "")
    try:
        lines = (root / "sys/fs/cgroup" / path.strip().lstrip("/") / "memory.events").read_text().splitlines()
    except OSError:
        return 0
    counts = dict(line.split() for line in lines if len(line.split()) == 2)
    return int(counts.get("oom_kill", 0))
