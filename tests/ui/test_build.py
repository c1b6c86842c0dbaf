"""The files that a server shows are those that the source gives, and its own tests pass."""

from __future__ import annotations

import gzip
import hashlib
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tests import npm
from tools import build_ui

NODE_CLIENT = build_ui.ROOT / "openllm-node"
MAX_BYTES_PACKED = 200_000


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of openllm-ui/ beside what it takes from openllm-node/, with the packages of its lock file, fetched once."""
    lock = (build_ui.SOURCE / "package-lock.json").read_bytes()
    tools = Path(sys.prefix) / f"openllm-ui-{hashlib.sha256(lock).hexdigest()[:12]}"
    tools.mkdir(exist_ok=True)
    for name in ("package.json", "package-lock.json", ".npmrc"):
        shutil.copy(build_ui.SOURCE / name, tools)
    npm.install(tools, "ci")
    root = tmp_path_factory.mktemp("ui")
    shutil.copytree(NODE_CLIENT / "src", root / "openllm-node" / "src")
    shutil.copytree(build_ui.SOURCE, root / "openllm-ui", ignore=shutil.ignore_patterns("node_modules", "build"))
    (root / "openllm-ui" / "node_modules").symlink_to(tools / "node_modules")
    return root / "openllm-ui"


def node(source: Path, *words: str) -> str:
    """Run node there; what it printed."""
    done = subprocess.run([npm.NODE, *words], cwd=source, capture_output=True, text=True, check=False, timeout=100)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_what_is_committed_is_what_the_source_gives(source: Path, tmp_path: Path) -> None:
    """`tools/build_ui.py` gives the same bytes anywhere; whoever changes the source commits them."""
    build_ui.build(source, tmp_path)
    made = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    kept = {path.name: path.read_bytes() for path in build_ui.BUILT.iterdir()}
    assert made.keys() == kept.keys()
    assert [name for name in made if made[name] != kept[name]] == [], "run tools/build_ui.py"


def test_types_and_unit_tests(source: Path) -> None:
    """The compiler finds no fault, and node runs every test."""
    node(source, "node_modules/typescript/bin/tsc", "--project", "tsconfig.json")
    node(source, "build.mjs", "--tests")
    tests = sorted(str(path) for path in (source / "build" / "tests").glob("*.mjs"))
    assert len(tests) == len(list((source / "tests").glob("*.test.ts*")))
    said = node(source, "--test", "--test-timeout=20000", "--test-reporter=tap", *tests)
    assert re.search(r"^# skipped 0$", said, re.MULTILINE) and not re.search(r"^# pass 0$", said, re.MULTILINE)


def test_it_is_small_and_its_licences_are_told() -> None:
    """Packed as for a slow line it stays small; each package in it is named with its licence."""
    packed = sum(len(gzip.compress(path.read_bytes(), 9)) for path in build_ui.BUILT.iterdir())
    assert packed < MAX_BYTES_PACKED
    licences = (build_ui.BUILT / "licences.txt").read_text("utf-8")
    for name in json.loads((build_ui.SOURCE / "package.json").read_bytes())["dependencies"]:
        assert re.search(rf"^{re.escape(name)} \d", licences, re.MULTILINE), name
    assert "Permission is hereby granted" in licences and "Redistribution and use" in licences


def test_the_source_never_reads_text_as_markup() -> None:
    """No way by which a text becomes HTML or code is used anywhere."""
    for path in (build_ui.SOURCE / "src").rglob("*.ts*"):
        found = re.search(
            r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|new Function|DOMParser|srcdoc",
            path.read_text("utf-8"),
        )
        assert not found, (path, found)


def test_the_lock_files_name_no_registry_and_exact_versions() -> None:
    """What is fetched is told by name, version and hash alone."""
    for folder in (build_ui.SOURCE, Path(__file__).parent):
        facts = json.loads((folder / "package.json").read_bytes())
        for name, wanted in (facts.get("dependencies", {}) | facts.get("devDependencies", {})).items():
            assert re.fullmatch(r"\d+\.\d+\.\d+", wanted), name
        locked = json.loads((folder / "package-lock.json").read_bytes())["packages"]
        assert all("resolved" not in package for package in locked.values())
        assert all("integrity" in package for path, package in locked.items() if path)
