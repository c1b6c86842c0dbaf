"""Telling a starved process from one that stands still, on real processes and on made-up counters."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from openllm.engine.starvation import Starvation

SPIN = "while True: pass"


def counters(folder: Path, **waited_ns: int) -> None:
    """Write the kernel's file of each thread."""
    for task, waited in waited_ns.items():
        (folder / "7/task" / task[1:]).mkdir(parents=True, exist_ok=True)
        (folder / "7/task" / task[1:] / "schedstat").write_text(f"999 {waited} 3\n")


def test_the_waits_of_all_threads_are_added_up(tmp_path: Path) -> None:
    """What its threads waited since the last call counts together, but no more than time passed; new threads do not."""
    counters(tmp_path, t7=1_000_000, t8=5_000_000)
    starvation = Starvation(7, tmp_path)
    time.sleep(0.05)
    counters(tmp_path, t7=11_000_000, t8=25_000_000, t9=900_000_000)
    assert starvation.since_last() == 0.03
    assert starvation.since_last() == 0.0
    counters(tmp_path, t8=10**12)
    assert 0 < starvation.since_last() < 1


def test_a_process_that_is_gone_waits_for_nothing(tmp_path: Path) -> None:
    """Without counters nothing is excused."""
    assert Starvation(1, tmp_path).since_last() == 0.0


def test_spinning_processes_that_share_a_core_starve_and_a_stopped_one_does_not() -> None:
    """Two processes on one core wait for each other half of the time; a stopped one waits for nothing."""
    core = {min(os.sched_getaffinity(0))}
    command = [sys.executable, "-I", "-S", "-c", SPIN]
    with subprocess.Popen(command) as one, subprocess.Popen(command) as other:
        try:
            for process in (one, other):
                os.sched_setaffinity(process.pid, core)
            starvation = Starvation(one.pid)
            waited, end = 0.0, time.monotonic() + 10
            while waited < 0.1 and time.monotonic() < end:
                time.sleep(0.02)
                waited += starvation.since_last()
            assert waited >= 0.1
            os.kill(one.pid, signal.SIGSTOP)
            while Path(f"/proc/{one.pid}/stat").read_text().rpartition(")")[2].split()[0] != "T":
                time.sleep(0.01)
            starvation.since_last()
            time.sleep(0.2)
            assert starvation.since_last() < 0.05
        finally:
            one.kill()
            other.kill()
