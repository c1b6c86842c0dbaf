"""How long a host waited for a processor: what tells a starved process from one that stands still.

The supervisor asks when a host is silent. On a busy machine a healthy host may be silent for long, since the kernel does
not let it run; killing it would only add work. A stopped, blocked or looping process waits for no processor. Linux counts
this per thread (`/proc/PID/task/TID/schedstat`, second number, nanoseconds; Documentation/scheduler/sched-stats.rst).
"""

from __future__ import annotations

import contextlib
import time
from pathlib import Path


class Starvation:
    """Tells how long one process could not run because others did."""

    def __init__(self, pid: int, proc: Path = Path("/proc")) -> None:
        self._tasks = proc / str(pid) / "task"
        self._waited = self._read()
        self._at = time.monotonic()

    def since_last(self) -> float:
        """Seconds since the last call (or the beginning) in which it stood in the queue for a processor.

        The waits of its threads are added up, to no more than the time that passed: they wait for one another, so what
        one answers may have to wait for each in turn. 0.0 where the system does not tell.
        """
        now, waited = time.monotonic(), self._read()
        added = sum(max(0, ns - self._waited.get(task, ns)) for task, ns in waited.items()) / 1e9
        passed, self._waited, self._at = now - self._at, waited, now
        return min(added, passed)

    def _read(self) -> dict[str, int]:
        """Thread id -> nanoseconds it has waited."""
        waited: dict[str, int] = {}
        with contextlib.suppress(OSError):
            for task in self._tasks.iterdir():
                with contextlib.suppress(OSError, ValueError, IndexError):
                    waited[task.name] = int((task / "schedstat").read_text().split()[1])
        return waited
