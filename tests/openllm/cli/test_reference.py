"""The reference page of the command line follows the commands."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from openllm.cli import COMMANDS

ROOT = Path(__file__).resolve().parents[3]


def test_the_page_is_fresh() -> None:
    """`python3 tools/gen_cli_reference.py` would change nothing."""
    command = [sys.executable, str(ROOT / "tools/gen_cli_reference.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_command_is_on_the_page() -> None:
    """By name, with its usage."""
    text = (ROOT / "docs/reference/cli.md").read_text(encoding="utf-8")
    for name in COMMANDS:
        assert f"## openllm {name}\n" in text
        assert f"Usage: openllm {name}" in text
