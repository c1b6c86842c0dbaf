"""The packages install from a source archive of the repository, and the client brings no framework with it."""

from __future__ import annotations

import json
import subprocess
import venv
from pathlib import Path

import pytest

UNWANTED = {"torch", "transformers", "bentoml", "openllm", "starlette", "numpy", "click"}


@pytest.fixture(scope="module")
def client_python(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Python of a fresh environment after `pip install ./openllm-core ./openllm-client` in the unpacked archive."""
    folder = tmp_path_factory.mktemp("client") / "venv"
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    command = [str(python), "-m", "pip", "install", "--quiet", "./openllm-core", "./openllm-client"]
    done = subprocess.run(command, cwd=archive, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return python


def ask(python: Path, program: str) -> str:
    return subprocess.run([str(python), "-c", program], capture_output=True, text=True, check=True).stdout.strip()


@pytest.mark.timeout(180)
def test_the_client_brings_no_framework(client_python: Path):
    """Neither torch nor transformers nor bentoml is installed with core and client."""
    listed = subprocess.run(
        [str(client_python), "-m", "pip", "list", "--format=json"], capture_output=True, text=True, check=True
    )
    names = {entry["name"].lower() for entry in json.loads(listed.stdout)}
    assert {"openllm-core", "openllm-client"} <= names
    assert not names & UNWANTED
    assert len(names) < 20


@pytest.mark.timeout(180)
def test_the_client_works_there(client_python: Path):
    """It imports and can be made without a server."""
    assert ask(
        client_python, "import openllm_client as c; print(c.HTTPClient('http://127.0.0.1:9').__class__.__name__)"
    ) == ("HTTPClient")


@pytest.mark.timeout(180)
def test_the_version_is_the_archives(client_python: Path, archive: Path):
    """What is installed has the version that the archive's own .git_archival.txt gives."""
    expected = ask(
        client_python,
        f"import sys; sys.path.insert(0, {str(archive / 'tools')!r}); import version; print(version.version())",
    )
    for name in ("openllm-core", "openllm-client"):
        assert ask(client_python, f"from importlib.metadata import version; print(version({name!r}))") == expected
    assert "$Format" not in (archive / ".git_archival.txt").read_text(encoding="utf-8")
