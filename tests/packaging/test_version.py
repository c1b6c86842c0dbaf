"""The version is right in a clone, between tags, in an archive, and where there is no git at all."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import tarfile
from pathlib import Path
from types import ModuleType

import pytest
from tests.packaging.conftest import ROOT


def load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("version_under_test", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


VERSION = load(ROOT / "tools" / "version.py")


@pytest.mark.parametrize(
    ("described", "expected"),
    [
        ("v0.4.1", "0.4.1"),
        ("v0.4.1-3-gabc1234", "0.4.2.dev3"),
        ("v0.5.0rc1", "0.5.0rc1"),
        ("v0.5.0rc1-2-gabc1234", "0.5.0rc1.post2"),
        ("", VERSION.FALLBACK),
        ("nightly", VERSION.FALLBACK),
        ("abc1234", VERSION.FALLBACK),
    ],
)
def test_from_describe(described: str, expected: str):
    """Git's description of a commit becomes a version that sorts after the tag it follows."""
    assert VERSION.from_describe(described) == expected


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A small repository that holds the two files the version comes from."""
    folder = tmp_path / "clone"
    (folder / "tools").mkdir(parents=True)
    for name in ("tools/version.py", ".git_archival.txt", ".gitattributes"):
        (folder / name).write_bytes((ROOT / name).read_bytes())
    git(folder, "init", "--quiet")
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", "one")
    return folder


def git(folder: Path, *arguments: str) -> bytes:
    who = {"GIT_AUTHOR_NAME": "t", "GIT_AUTHOR_EMAIL": "t@example.org", "GIT_CONFIG_GLOBAL": os.devnull}
    who |= {"GIT_COMMITTER_NAME": "t", "GIT_COMMITTER_EMAIL": "t@example.org", "GIT_CONFIG_SYSTEM": os.devnull}
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, env={**os.environ, **who}, capture_output=True, check=True).stdout


def version_in(folder: Path) -> str:
    return load(folder / "tools" / "version.py").version()


def archived(clone: Path, output: Path) -> Path:
    tar = output.with_suffix(".tar")
    tar.write_bytes(git(clone, "archive", "HEAD"))
    with tarfile.open(tar) as file:
        file.extraction_filter = getattr(tarfile, "data_filter", None)  # Python 3.11.0 to 3.11.3 have none
        file.extractall(output)
    return output


def test_plain_clone_without_tags(clone: Path):
    """A clone that fetched no tag builds as the version being worked on."""
    assert version_in(clone) == VERSION.FALLBACK


def test_archive_without_tags(clone: Path, tmp_path: Path):
    """So does a source archive made from it."""
    assert version_in(archived(clone, tmp_path / "archive")) == VERSION.FALLBACK


def test_tag_and_after(clone: Path, tmp_path: Path):
    """On a tag it is the tag; later commits count on; clone and archive agree on both."""
    git(clone, "tag", "v1.2.3")
    assert version_in(clone) == version_in(archived(clone, tmp_path / "on")) == "1.2.3"
    git(clone, "commit", "--quiet", "--allow-empty", "--message", "two")
    assert version_in(clone) == version_in(archived(clone, tmp_path / "after")) == "1.2.4.dev1"


def test_an_archive_inside_another_repository(clone: Path, tmp_path: Path):
    """Unpacked into someone else's repository it does not take that one's tags."""
    inner = archived(clone, clone / "vendored")
    git(clone, "tag", "v9.9.9")
    assert version_in(inner) == VERSION.FALLBACK


def test_without_git(clone: Path, monkeypatch: pytest.MonkeyPatch):
    """A machine without git still builds."""
    monkeypatch.setenv("PATH", "")
    assert version_in(clone) == VERSION.FALLBACK
