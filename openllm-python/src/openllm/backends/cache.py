"""Where a backend keeps what it found out or compiled on this machine, for later starts.

Called by each backend's `launch` and by what chooses settings by measurement. Losing the folder costs one slow start.
"""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """`$OPENLLM_HOME`, else `$XDG_CACHE_HOME/openllm`, else `~/.cache/openllm`; it may not exist yet."""
    home = os.environ.get("OPENLLM_HOME")
    if home:
        return Path(home).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "openllm"
