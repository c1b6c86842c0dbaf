"""A process that must not outlive the one that started it: asked of the kernel, at the top of its `main`.

Called by the engine host and by the process that makes GPTQ checkpoints. Knows nothing of what they do.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def die_with_parent(parent_pid: int | None) -> None:
    """Ask the kernel to kill this process when the one that started it ends (Linux); checked for the race.

    Args:
        parent_pid: of the one that started it; None leaves the check out.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if parent_pid is not None and os.getppid() != parent_pid:
        os._exit(0)
