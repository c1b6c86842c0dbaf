"""Wheels that are read, not installed: of programs and schemas that a few tests need and the environment does not."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

UNREACHABLE = (
    "NewConnectionError",
    "NameResolutionError",
    "ConnectTimeoutError",
    "Temporary failure in name resolution",
)


def wheel(pinned: str) -> Path:
    """The wheel of `NAME==VERSION`, fetched once per environment.

    Where no package index can be reached, the test is skipped, and fails where CI is set.
    """
    folder = Path(sys.prefix) / "wheels" / pinned
    if not (found := list(folder.glob("*.whl"))):
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:", pinned]
        done = subprocess.run([*command, "--dest", str(folder)], capture_output=True, text=True, check=False)
        if any(sign in done.stderr for sign in UNREACHABLE):
            if os.environ.get("CI"):
                pytest.fail(f"pip reaches no package index from here: {done.stderr[-500:]}")
            pytest.skip("pip reaches no package index from here")
        assert done.returncode == 0, done.stderr
        found = list(folder.glob("*.whl"))
    return found[0]
