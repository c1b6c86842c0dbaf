"""Kills an engine host's whole process group once the server is gone. Started by the host as a script of its own.

The kernel's parent-death signal ends the host alone; what a framework started from there (an engine core, workers) would
live on and keep its memory. Stdin is a pipe whose other end only the server holds, so its end of file means that the
server is dead, however it died. Needs nothing but the standard library, and must not import anything of ours.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys


def start(lifeline: int) -> None:
    """Start the watchdog within the caller's process group and hand it the lifeline.

    Args:
        lifeline: read end of the server's pipe; closed here.
    """
    subprocess.Popen(
        # -I -S: no site, no environment, no folder of the user's: it is up in some 10 ms and needs 8 MB.
        [sys.executable, "-I", "-S", os.path.abspath(__file__)],
        stdin=lifeline,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(lifeline)


def main() -> None:
    """Wait for the end of the server, then kill the group, this process included."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    while os.read(0, 4096):
        pass  # nobody writes; only the end of file counts
    os.kill(0, signal.SIGKILL)


if __name__ == "__main__":
    main()
