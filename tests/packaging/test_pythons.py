"""openllm-core and openllm-client on every CPython they are for that is on this machine, with the newest attrs and cattrs.

Each interpreter gets an environment of its own, kept as .venv-pyXYZ between runs, in which only these two packages and what
tests them are installed; the wheels are installed anew each time. The interpreter of the suite itself is left out: it runs
the same tests as a part of the suite.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CONSTRAINTS = ROOT / "constraints/dev.txt"
MINORS = [minor for minor in (11, 12, 13) if minor != sys.version_info.minor]
TOOLS = ["hypothesis", "psutil", "pytest", "pytest-asyncio", "pytest-timeout"]
EXTRAS = "agents,grpc"  # of the client: its tests use them
NEWEST = ("attrs", "cattrs", "orjson")  # not held at the version the rest of the suite runs with
CHECKED_ONCE = (
    "tests/core/typing",
    "tests/core/test_reference.py",
    "tests/core/test_speed.py",
)  # the same on any version


def patch_of(python: Path) -> int:
    """Last part of the version in a path of pyenv's, `3.12.1/bin/python3`; 0 for a name such as `3.13.0rc1`."""
    text = python.parts[-3].rpartition(".")[2]
    return int(text) if text.isdecimal() else 0


def interpreters() -> dict[int, Path]:
    """Minor version -> a CPython 3 of it: the first on the PATH, else pyenv's newest, that can make environments."""
    found: dict[int, Path] = {}
    for minor in MINORS:
        named = shutil.which(f"python3.{minor}")
        pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
        installed = sorted(pyenv.glob(f"3.{minor}.*/bin/python3"), key=patch_of, reverse=True)
        for python in [Path(named), *installed] if named else installed:
            code = "import sys, venv, ensurepip; print(sys.implementation.name, sys.version_info.minor)"
            asked = subprocess.run([python, "-c", code], capture_output=True, text=True, check=False)
            if asked.stdout.split() == ["cpython", str(minor)]:
                found[minor] = python
                break
    return found


FOUND = interpreters()


def run(*command: str | Path, **environ: str) -> str:
    """What a command prints; it must end well."""
    env = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "COV"))} | environ
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, (done.stdout + done.stderr)[-8000:]
    return done.stdout


def environment(minor: int, wheels: dict[str, Path]) -> Path:
    """The Python of an environment that holds the two packages; what they need is installed once."""
    venv = ROOT / f".venv-py3{minor}"
    python, stamp, constraints = venv / "bin/python", venv / ".installed", venv / "constraints.txt"
    lines = CONSTRAINTS.read_text(encoding="utf-8").splitlines(keepends=True)
    held = "".join(line for line in lines if re.split(r"[=<>]", line)[0] not in NEWEST)
    pair = [str(wheels["openllm_core"]), f"{wheels['openllm_client']}[{EXTRAS}]"]
    version = run(FOUND[minor], "-c", "import sys; print(sys.version)")
    manifests = [(ROOT / package / "pyproject.toml").read_text() for package in ("openllm-core", "openllm-client")]
    wanted = hashlib.sha256(repr((version, held, TOOLS, EXTRAS, manifests)).encode()).hexdigest()
    if not (stamp.exists() and stamp.read_text() == wanted and python.exists()):
        run(FOUND[minor], "-m", "venv", "--clear", venv)
        constraints.write_text(held, encoding="utf-8")
        run(python, "-m", "pip", "install", "--quiet", "--no-compile", "--constraint", constraints, *pair, *TOOLS)
        stamp.write_text(wanted)
    run(python, "-m", "pip", "install", "--quiet", "--no-deps", "--force-reinstall", "--no-index", *pair)
    return python


def test_some_other_python_is_looked_for():
    """Two of the three versions; which of them are here depends on the machine."""
    assert len(MINORS) == 2 and set(FOUND) <= set(MINORS)


@pytest.mark.network
@pytest.mark.timeout(600)
@pytest.mark.parametrize("minor", FOUND, ids=lambda minor: f"3.{minor}")
def test_core_and_client_pass_their_tests(wheels: dict[str, Path], minor: int):
    """The two packages alone, installed from their wheels, pass the tests in tests/core and tests/client."""
    python = environment(minor, wheels)
    installed = run(
        python, "-c", "import openllm_core, openllm_client; print(openllm_core.__file__, openllm_client.__file__)"
    )
    assert all(str(ROOT / f".venv-py3{minor}") in path for path in installed.split())
    ignored = [f"--ignore={path}" for path in CHECKED_ONCE]
    output = run(python, "-m", "pytest", "-q", "-p", "no:cacheprovider", *ignored, "tests/core", "tests/client")
    passed = re.search(r"(\d+) passed", output)
    assert passed is not None and int(passed[1]) > 1500, output[-2000:]
