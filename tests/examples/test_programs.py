"""The programs of examples/, run as their pages say."""

from __future__ import annotations

import os
import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from tests.docs.snippets import Snippet
from tests.e2e.conftest import ServerProcess, openllm_start
from tests.examples.conftest import (
    BEFORE,
    EXAMPLES,
    INSTALLED,
    PACKAGE,
    PROGRAMS,
    SERVER,
    example_of,
    parts,
    run,
    started,
)
from tests.examples.test_deployments import CHECKED


def name_of(snippet: Snippet) -> str:
    return f"{example_of(snippet)}:{snippet.line}"


@pytest.mark.timeout(150)
@pytest.mark.parametrize("program", [block for name in PROGRAMS for block in parts(name)], ids=name_of)
def test_program(program: Snippet, shelf: Path, server: ServerProcess):
    """Against a server started as its page says, it ends well and prints what the page says."""
    name = example_of(program)
    assert program.detail.removeprefix("prints ") in run(program, shelf / name, {"OPENLLM_ENDPOINT": server.url})


@pytest.mark.timeout(200)
def test_a_package_brings_a_backend(shelf: Path, tmp_path: Path):
    """Installed, it is found by its entry point, serves a model that it made, and passes the suite for backends."""
    folder, site = shelf / PACKAGE, tmp_path / "site"
    uv = f"uv pip install --quiet --no-build-isolation --python {sys.executable} --target {site}"
    environ = {
        "PYTHONPATH": str(site),
        "PATH": f"{site / 'bin'}{os.pathsep}{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    (install,) = parts(PACKAGE, INSTALLED)
    assert "pip install" in install.code
    run(replace(install, code=install.code.replace("pip install", uv)), folder, environ)
    (start,) = parts(PACKAGE, SERVER)
    asked, suite = parts(PACKAGE)
    with openllm_start(
        tmp_path / "log.txt", *started(start), environ=environ | {"OPENLLM_HOME": str(tmp_path)}, cwd=folder
    ) as server:
        code = asked.code.replace("http://localhost:3000", server.url)
        said = run(replace(asked, code=code), folder, environ)
        assert asked.detail.removeprefix("prints ") in said
        assert re.search(r'"text": ?"[a-z ]+', said), said
    assert suite.detail.removeprefix("prints ") in run(suite, folder, environ)


def test_every_example_is_listed_and_tried():
    """The list names every folder; each has a program that is run here or a configuration that is checked."""
    listed = set(re.findall(r"\(([\w-]+)/README\.md\)", (EXAMPLES / "README.md").read_text(encoding="utf-8")))
    assert listed == {path.parent.name for path in EXAMPLES.glob("*/README.md")}
    assert listed == {*PROGRAMS, PACKAGE, *CHECKED}
    for name in PROGRAMS:
        shown = " ".join(block.code for block in (*parts(name), *parts(name, BEFORE)))
        assert {path.name for path in (EXAMPLES / name).glob("*.py")} <= set(shown.split())
