"""Who ends with whom, asked of the kernel: a process that must not outlive its parent, and one that orphans come to.

The first is for the engine host and the process that makes GPTQ checkpoints, at the top of their `main`; the second for the
server. Knows nothing of what they do.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER, PR_GET_CHILD_SUBREAPER = 36, 37


def die_with_parent(parent_pid: int | None) -> None:
    """Ask the kernel to kill this process when the one that started it ends (Linux); checked for the race.

    Args:
        parent_pid: of the one that started it; None leaves the check out.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if parent_pid is not None and os.getppid() != parent_pid:
        os._exit(0)


def adopt_orphans() -> None:
    """Make this process the parent of whatever its descendants leave behind (Linux), so that it can end and reap it."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def adopts_orphans() -> bool:
    """Whether this process asked for that."""
    if sys.platform != "linux":
        return False
    answer = ctypes.c_int(0)
    ctypes.CDLL(None).prctl(PR_GET_CHILD_SUBREAPER, ctypes.byref(answer), 0, 0, 0)
    return bool(answer.value)
