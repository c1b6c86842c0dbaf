"""What the examples are run with: a copy of their folder, and one echo server for all programs."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.docs.snippets import Snippet, snippets_of
from tests.e2e.conftest import ServerProcess, openllm_start

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"
PACKAGE = "custom-backend"  # starts a server of its own, with what it installs
SERVER, BEFORE, INSTALLED = "server", "before the server", "installed first"


def parts(folder: str, detail: str | None = None) -> list[Snippet]:
    """Blocks of an example's page that are run; those of one kind, or those that print something."""
    found = [snippet for snippet in snippets_of(EXAMPLES / folder / "README.md") if snippet.verb == "example"]
    return [s for s in found if s.detail == detail or (detail is None and s.detail.startswith("prints "))]


def example_of(snippet: Snippet) -> str:
    """Name of the folder that a block stands in."""
    return snippet.page.parent.name


PROGRAMS = sorted({path.parent.name for path in EXAMPLES.glob("*/README.md") if parts(path.parent.name)} - {PACKAGE})


def run(snippet: Snippet, folder: Path, environ: dict[str, str]) -> str:
    """What a block prints, run in the folder of its example; it must end well."""
    environ = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}", **environ}
    command = ["bash", "-euo", "pipefail", "-c", snippet.code]
    done = subprocess.run(command, cwd=folder, env=environ, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, f"{snippet.code}\n--- stdout\n{done.stdout}\n--- stderr\n{done.stderr}"
    return done.stdout


def started(snippet: Snippet) -> list[str]:
    """Words behind `openllm start` of a block."""
    words = shlex.split(snippet.code.replace("\\\n", ""))
    assert words[:2] == ["openllm", "start"], snippet.code
    return words[2:]


@pytest.fixture(scope="session")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The examples, and the page that one of them reads, where programs may write."""
    folder = tmp_path_factory.mktemp("shelf")
    shutil.copytree(EXAMPLES, folder / "examples", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "docs").mkdir()
    shutil.copy(ROOT / "docs" / "tutorial.md", folder / "docs")
    return folder / "examples"


@pytest.fixture(scope="session")
def server(shelf: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """One server for all programs: it has every flag that one of their pages starts it with."""
    flags: dict[tuple[str, str], None] = {}
    for name in PROGRAMS:
        for before in parts(name, BEFORE):
            run(before, shelf / name, {})
        words = [word.replace("./", f"{shelf / name}/") for block in parts(name, SERVER) for word in started(block)]
        flags |= dict.fromkeys(zip(words[::2], words[1::2], strict=True))
    log = tmp_path_factory.mktemp("server") / "log.txt"
    environ = {"BENTOML_HOME": str(log.parent / "bentoml")}
    with openllm_start(log, *(word for flag in flags for word in flag), environ=environ) as running:
        yield running
