"""What Intel's OpenMP leaves in shared memory when a process is killed: one small file per process, never removed.

Called before an engine starts. Touches only files of this user whose process is gone.
"""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path

SHARED_MEMORY = Path("/dev/shm")
_NAME = re.compile(r"__KMP_REGISTERED_LIB_(\d+)_(\d+)$")


def remove(folder: Path = SHARED_MEMORY) -> int:
    """Remove those of dead processes; returns how many."""
    removed = 0
    for file in folder.glob("__KMP_REGISTERED_LIB_*"):
        match = _NAME.match(file.name)
        if match is None or int(match[2]) != os.getuid() or Path(f"/proc/{match[1]}").exists():
            continue
        with contextlib.suppress(OSError):
            file.unlink()
            removed += 1
    return removed
