"""Tests that take minutes or an environment of their own: they run where they are named, and with no other.

`hatch run full` runs them all; `python3 tools/dev.py gptq` those of gptqmodel. Must not be needed by any test outside.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pexpect
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


@pytest.fixture
def terminal() -> Iterator[Callable[..., pexpect.spawn[str]]]:
    """Starts a program on a terminal, with just the given environment; what still runs is ended afterwards."""
    started: list[pexpect.spawn[str]] = []

    def start(program: Path, *words: str, env: dict[str, str], timeout_s: float = 90) -> pexpect.spawn[str]:
        started.append(
            pexpect.spawn(str(program), list(words), env=env, cwd=env["HOME"], timeout=timeout_s, encoding="utf-8")
        )
        return started[-1]

    yield start
    for child in started:
        child.close(force=True)
