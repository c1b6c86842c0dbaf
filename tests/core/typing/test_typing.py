"""Types are public API: what users write checks under pyright (strict) and mypy, and their mistakes are found."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
MISTAKES = HERE / "mistakes.py"
WRONG = [n for n, line in enumerate(MISTAKES.read_text(encoding="utf-8").splitlines(), 1) if line.endswith("# WRONG")]


@pytest.fixture(scope="module")
def pyright(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What pyright says of both files, in strict mode."""
    home = tmp_path_factory.mktemp("pyright")
    settings = f'{{"typeCheckingMode": "strict", "reportUnusedExpression": false, "include": ["{HERE}"]}}'
    (home / "pyrightconfig.json").write_text(settings, encoding="utf-8")
    command = ["basedpyright", "--project", str(home), "--pythonpath", sys.executable]
    return checked([*command], home)


@pytest.fixture(scope="module")
def mypy(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What mypy says of both files, in strict mode."""
    home = tmp_path_factory.mktemp("mypy")
    command = ["mypy", "--strict", "--cache-dir", str(home), "--config-file", os.devnull, "--follow-imports", "silent"]
    return checked([*command, str(HERE / "config_api.py"), str(MISTAKES)], home)


def checked(command: list[str], home: Path) -> str:
    environ = {**os.environ, "HOME": str(home), "XDG_CACHE_HOME": str(home)}
    done = subprocess.run(
        [sys.executable, "-m", *command], capture_output=True, text=True, cwd=home, env=environ, check=False
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done.stdout + done.stderr


def errors(output: str, file: str) -> list[int]:
    """Lines of one file that have errors."""
    found = re.findall(rf"{re.escape(file)}:(\d+)(?::\d+)*\s*[:-] error", output)
    return sorted({int(line) for line in found})


@pytest.mark.timeout(300)
def test_pyright_understands_what_users_write(pyright: str) -> None:
    """No error in the good file; every mistake and nothing else in the other."""
    assert errors(pyright, "config_api.py") == [], pyright
    assert errors(pyright, "mistakes.py") == WRONG, pyright


@pytest.mark.timeout(300)
def test_mypy_understands_what_users_write(mypy: str) -> None:
    """The same."""
    assert errors(mypy, "config_api.py") == [], mypy
    assert errors(mypy, "mistakes.py") == WRONG, mypy
