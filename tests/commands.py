"""Runs our command line for tests, as a user would: in a process of its own, with an environment of the test's."""

from __future__ import annotations

import os
import subprocess
import sys


def openllm_command(
    environ: dict[str, str], *words: str, python: str = sys.executable, timeout_s: float = 420
) -> subprocess.CompletedProcess[str]:
    """Run an `openllm` command as a user would, in a process of its own; it must end well."""
    done = subprocess.run(
        [python, "-m", "openllm", *words],
        env=os.environ | environ,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done
