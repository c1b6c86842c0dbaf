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
