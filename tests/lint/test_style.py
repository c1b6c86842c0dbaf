"""Style and format are part of the tests: ruff, with the settings of the root pyproject.toml."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CODE = ["openllm-core", "openllm-client", "openllm-python", "tests", "tools", "examples", "typings"]


def ruff(*arguments: str) -> subprocess.CompletedProcess[str]:
    folders = [folder for folder in CODE if (ROOT / folder).is_dir()]
    command = [sys.executable, "-m", "ruff", *arguments, "--no-cache", *folders]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_lint():
    """`ruff check` finds nothing."""
    done = ruff("check", "--output-format=concise")
    assert done.returncode == 0, done.stdout + done.stderr


def test_format():
    """`ruff format` would change nothing."""
    done = ruff("format", "--check")
    assert done.returncode == 0, done.stdout + done.stderr
