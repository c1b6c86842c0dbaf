"""Process groups: who lives in one, waiting for its end, and what its processes leave in shared memory."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from openllm.engine import groups

SLEEP = [sys.executable, "-I", "-S", "-c", "import time; time.sleep(60)"]


async def test_a_group_lives_until_its_last_member_is_gone() -> None:
    """Members are found by group, zombies do not count, and waiting ends when all are dead."""
    with subprocess.Popen(SLEEP, start_new_session=True) as leader:
        group = leader.pid
        assert groups.members(group) == [group]
        assert groups.exists(group)
        assert not await groups.wait_gone(group, 0.02)
        os.killpg(group, signal.SIGKILL)
        os.waitid(os.P_PID, group, os.WEXITED | os.WNOWAIT)
        assert groups.members(group) == []
        assert groups.exists(group)
        leader.wait()
    assert not groups.exists(group)
    assert await groups.wait_gone(group, 1)


def test_notes_of_killed_processes_are_removed(tmp_path: Path) -> None:
    """The OpenMP note of a dead process goes; those of living ones, of other users, and other files stay."""
    dead, user = 2**22 + 1, os.getuid()
    kept = {f"__KMP_REGISTERED_LIB_{os.getpid()}_{user}", f"__KMP_REGISTERED_LIB_{dead}_{user + 1}", f"psm_{dead}"}
    for name in (*kept, f"__KMP_REGISTERED_LIB_{dead}_{user}"):
        (tmp_path / name).touch()
    assert groups.remove_leftovers(tmp_path) == 1
    assert {file.name for file in tmp_path.iterdir()} == kept


def test_out_of_memory_kills_are_counted(tmp_path: Path) -> None:
    """The kernel's count of the control group is read; a system without one counts nothing."""
    assert groups.oom_kills(tmp_path) == 0
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text("1:memory:/old\n0::/a/b\n")
    assert groups.oom_kills(tmp_path) == 0
    (tmp_path / "sys/fs/cgroup/a/b").mkdir(parents=True)
    (tmp_path / "sys/fs/cgroup/a/b/memory.events").write_text("low 0\noom 3\noom_kill 2\n")
    assert groups.oom_kills(tmp_path) == 2


STRAYS = """
import asyncio, os, signal, sys, time
from openllm.engine import groups
from openllm.engine.engine import Engine
from openllm.lifetime import adopt_orphans
from openllm.tokenizer import byte_tokenizer
from openllm_core.options import EngineOptions

def family(pid):
    seen = [int(e) for e in os.listdir("/proc") if e.isdigit()]
    parents = {}
    for one in seen:
        try: parents[one] = int(open(f"/proc/{one}/stat").read().rpartition(")")[2].split()[1])
        except OSError: pass
    found, more = set(), {pid}
    while more:
        found |= more
        more = {one for one, parent in parents.items() if parent in more} - found
    return found - {pid}

def states(pids):
    found = []
    for pid in pids:
        try: found.append(open(f"/proc/{pid}/stat").read().rpartition(")")[2].split()[0])
        except OSError: pass
    return found

async def main():
    adopt_orphans()
    engine = Engine(EngineOptions(backend="echo", engine_arg={"family": 3, "stray": True}), byte_tokenizer())
    await engine.start()
    await engine.wait_ready(60)
    host = engine.host_pid
    while len(family(host)) < 4: await asyncio.sleep(0.02)  # the watchdog and three generations
    before = family(host) | {host}
    os.kill(host, signal.SIGKILL)
    while engine.host_pid in (host, None): await asyncio.sleep(0.02)
    print(states(before), groups.strays({engine.host_pid}))
    await engine.aclose()
    print(states(family(os.getpid())))

asyncio.run(main())
"""


def test_what_left_the_group_comes_to_the_server_and_is_ended() -> None:
    """A host's descendants in sessions of their own: once the host is killed none is left, not even as a zombie, before the
    next host starts; and nothing is left at the end."""
    done = subprocess.run([sys.executable, "-c", STRAYS], capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout.splitlines() == ["[] []", "[]"], done.stderr


def test_who_is_a_stray(tmp_path: Path) -> None:
    """A child in another group that bears the mark of a host, or that nobody has reaped; not what somebody else left here."""
    me, mine, other, mark = os.getpid(), os.getpgrp(), 4_000_001, f"{groups.MARK}={os.getpid()}"
    known = {
        11: (f"(a b) S {me} {other}", f"PATH=/bin\0{mark}\0"),
        12: (f"(x) S {me} {other}", "PATH=/bin\0"),  # an operator's, come here from a shell that ended
        13: (f"(x) Z {me} {other}", ""),
        14: (f"(x) S {me} {mine}", f"{mark}\0"),  # started by this process itself
        15: (f"(x) S {me} {other + 1}", f"{mark}\0"),  # of a host that lives
        16: (f"(x) S {me + 1} {other}", f"{mark}\0"),
        17: (f"(x) S {me} {other}", f"{mark}0\0"),  # of another server
    }
    for pid, (stat, environ) in known.items():
        (tmp_path / str(pid)).mkdir()
        (tmp_path / str(pid) / "stat").write_text(f"{pid} {stat} 0 0")
        (tmp_path / str(pid) / "environ").write_text(environ)
    assert sorted(groups.strays({other + 1}, tmp_path)) == [11, 13]
