"""`openllm playground`: notebooks in a folder, and Jupyter started there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from openllm.cli import playground

Run = Callable[..., Result]

FAKE = """
import json, os, pathlib, sys
print(json.dumps({"words": sys.argv[1:], "folder": os.getcwd(), "there": sorted(p.name for p in pathlib.Path().iterdir())}))
sys.exit(3)
"""


@pytest.fixture
def jupyter(tmp_path: Path) -> dict[str, str]:
    """An environment in which `python -m jupyterlab` says how it was called, and ends with 3."""
    package = tmp_path / "fake/jupyterlab"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "__main__.py").write_text(FAKE)
    return {**os.environ, "PYTHONPATH": str(package.parent)}


def test_jupyter_is_started_in_the_folder(tmp_path: Path, jupyter: dict[str, str]) -> None:
    """With the port asked for, after the notebooks are there; its exit code is ours."""
    done = subprocess.run(
        [sys.executable, "-m", "openllm", "playground", "mine", "--port", "9", "-q", "-o", "porcelain"],
        cwd=tmp_path,
        env=jupyter,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 3, done.stderr
    *paths, call = done.stdout.splitlines()
    seen = json.loads(call)
    assert seen["words"] == ["--no-browser", "--port", "9"]
    assert seen["folder"] == str(tmp_path / "mine")
    assert seen["there"] == sorted(Path(path).name for path in paths)


def test_without_jupyter_the_notebooks_are_there_all_the_same(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message says where they are and the hint what opens them; --write-only asks for no more."""
    monkeypatch.setattr(playground, "FRONT_ENDS", ("no_such_package",))
    done = run("playground", str(tmp_path / "a"))
    assert done.exit_code == 78
    assert str(tmp_path / "a") in done.stderr and 'pip install "openllm[playground]"' in done.stderr
    assert len(list((tmp_path / "a").glob("*.ipynb"))) == 5
    listed = run("playground", str(tmp_path / "b"), "--write-only", "-o", "json")
    assert listed.exit_code == 0
    assert [Path(row["path"]).parent for row in json.loads(listed.stdout)] == [tmp_path / "b"] * 5
    again = run("playground", str(tmp_path / "b"), "--write-only")
    assert again.exit_code == 0 and "5 were there already" in again.stderr


def test_without_a_folder_a_new_one_is_made(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under the temporary folder, named so that it is recognised."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    done = run("playground", "--write-only", "-o", "porcelain")
    folders = {Path(path).parent for path in done.stdout.split()}
    [folder] = folders
    assert folder.parent == tmp_path and folder.name.startswith("openllm-playground-")
