"""How many connections the limit on open files allows, so that a server never runs out of them.

Asked by the HTTP and gRPC servers as they start. A server that has no file left cannot accept, log, or start its engine again,
so it keeps some back and refuses connections before they are gone.
"""

from __future__ import annotations

import os
import resource

from openllm_core.errors import ResourceError
from openllm_core.limits import Limits

RESERVED = 24
"""Files kept back: sockets and pipes of an engine that is started again, logs, locks, the answer to one connection too many."""
LEAST = 4
"""A server that could take fewer connections does not start."""


def connections_within(limits: Limits, listeners: int = 1) -> int:
    """Connections that a listener may take, having raised this process's own limit as far as is needed and allowed.

    Args:
        limits: `max_connections` is wanted.
        listeners: that share the files.

    Raises:
        ResourceError: too few files may be open to serve at all.
    """
    used = _open_now() + RESERVED
    wanted = used + listeners * limits.max_connections
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if resource.RLIM_INFINITY not in (soft, hard) and soft < wanted:
        soft = min(hard, wanted)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return limits.max_connections
    found = (soft - used) // listeners
    if found < LEAST:
        raise ResourceError(
            f"Only {soft} files may be open at once, and the server itself needs {used}.",
            hint=f"Raise the limit: ulimit -n {wanted}",
        )
    return found


def _open_now() -> int:
    try:
        return len(os.listdir("/proc/self/fd"))
    except OSError:  # not on every system
        return 64
