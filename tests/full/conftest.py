"""Tests that take minutes or an environment of their own: they run where they are named, and with no other.

`hatch run full` runs them all; `python3 tools/dev.py gptq` those of gptqmodel. Must not be needed by any test outside.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Left unread unless this folder, or a file of it, stands on the command line."""
    named = ((config.invocation_params.dir / word.partition("::")[0]).resolve() for word in config.args)
    return None if any(path.is_relative_to(Path(__file__).parent) for path in named) else True


@pytest.fixture(scope="session")
def gptq_python() -> str:
    """The Python of the environment that has gptqmodel.

    OPENLLM_TEST_GPTQ names another than the one that `python3 tools/dev.py gptq` makes.
    """
    python = Path(os.environ.get("OPENLLM_TEST_GPTQ") or ROOT / ".venv-gptq" / "bin" / "python")
    assert python.exists(), "python3 tools/dev.py gptq makes the environment of these tests"
    return str(python)
