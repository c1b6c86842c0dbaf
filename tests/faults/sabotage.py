"""Takes one guard out of a copy of the source and runs the tests that must then fail.

`sabotage.toml` lists the guards; `test_sabotage.py` runs a few with every run of the suite and all of them in the other lanes. The copy
comes before the installed package on PYTHONPATH of a pytest of its own, and of whatever that starts. The tree itself is never
touched.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from functools import cache
from pathlib import Path

import attrs
import cattrs

from .rounds import inside_vllm

ROOT = Path(__file__).resolve().parents[2]
FILE = Path(__file__).with_name("sabotage.toml")
LIMIT_S, VLLM_LIMIT_S = 60, 240
"""Seconds one test may take without its guard: what waits for something that no longer comes has failed. vLLM loads in them, too."""


@attrs.frozen(kw_only=True)
class Guard:
    """A piece of source that some fault is survived by.

    Attributes:
        name: what it does.
        rows: faults of faults.yaml that need it.
        file: where it stands.
        old, new: its text, which stands there once, and what takes its place.
        tests: node ids of tests, each of which must fail then.
        quick: whether every run of the suite shows it.
        vllm: whether its tests run inside vLLM: with the Python that has it, in the environment of an engine host.
    """

    name: str
    rows: tuple[str, ...]
    file: str
    old: str
    new: str
    tests: tuple[str, ...]
    quick: bool = False
    vllm: bool = False


@cache
def read(file: Path = FILE) -> tuple[Guard, ...]:
    """All guards.

    Raises:
        cattrs.BaseValidationError: a key or a type that `Guard` does not have.
    """
    made = cattrs.Converter(forbid_extra_keys=True)
    return tuple(made.structure(tomllib.loads(file.read_text(encoding="utf-8"))["guard"], list[Guard]))


def unguarded(file: Path = FILE) -> dict[str, str]:
    """Faults that no single piece of our source stands against, and what they are survived by instead."""
    return tomllib.loads(file.read_text(encoding="utf-8"))["unguarded"]


def without(guard: Guard, folder: Path) -> Path:
    """A copy of the guard's package in `folder` that lacks it; the folder belongs on PYTHONPATH."""
    package, source = Path(guard.file).parts[2], ROOT.joinpath(*Path(guard.file).parts[:2])
    shutil.copytree(source / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    target = folder / Path(*Path(guard.file).parts[2:])
    text = target.read_text(encoding="utf-8")
    if text.count(guard.old) != 1:
        raise ValueError(f"{guard.name}: its text stands {text.count(guard.old)} times in {guard.file}")
    target.write_text(text.replace(guard.old, guard.new), encoding="utf-8")
    return folder


def still_passing(guard: Guard, folder: Path) -> list[str]:
    """Run its tests without the guard; those that did not fail, which should be none.

    Raises:
        RuntimeError: pytest ran something else than these tests without that guard.
    """
    path = os.pathsep.join(filter(None, [str(without(guard, folder)), os.environ.get("PYTHONPATH", "")]))
    environment = os.environ | {"PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"}
    python, limit_s = sys.executable, LIMIT_S
    if guard.vllm:
        (python, more), limit_s = inside_vllm(), VLLM_LIMIT_S
        environment |= more
    package = Path(guard.file).parts[2]
    where = run([python, "-c", f"import {package}; print({package}.__file__)"], environment).stdout
    if not Path(where.strip()).is_relative_to(folder):
        raise RuntimeError(f"{package} comes from {where}")
    plain = ["-q", "-rfE", "-p", "no:cacheprovider", f"--timeout={limit_s}"]
    done = run([python, "-m", "pytest", *plain, *guard.tests], environment)
    told = done.stdout.rpartition("short test summary info")[2].splitlines()
    if done.returncode not in (0, 1) or any(line.startswith("ERROR ") for line in told):
        raise RuntimeError(f"{guard.name}: pytest ended with {done.returncode}:\n{(done.stdout + done.stderr)[-2000:]}")
    failed = {line.split()[1].partition("[")[0] for line in told if line.startswith("FAILED ")}
    return [node for node in guard.tests if node.partition("[")[0] not in failed]


def run(command: list[str], environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run a command in the repository's root."""
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
