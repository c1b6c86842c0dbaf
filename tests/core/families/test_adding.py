"""docs/how-to/add-a-model.md, done as it says in a copy of the repository."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
PAGE = (ROOT / "docs/how-to/add-a-model.md").read_text(encoding="utf-8")


def block(language: str) -> str:
    """The page's only block of a language."""
    (found,) = re.findall(rf"```{language}\n(.*?)```", PAGE, re.S)
    return found


def test_the_page_leads_to_a_family(tmp_path: Path) -> None:
    """One file, two commands, and the program at the end runs."""
    for path in ("openllm-core/src", "docs/reference", "tools"):
        shutil.copytree(ROOT / path, tmp_path / path, ignore=shutil.ignore_patterns("__pycache__"))
    init = "openllm-python/src/openllm/__init__.py"
    (tmp_path / init).parent.mkdir(parents=True)
    for copied in (init, "README.md"):
        shutil.copy(ROOT / copied, tmp_path / copied)
    ((folder, name),) = re.findall(r"In the folder `(.+/)` write `(.+\.toml)`", PAGE)
    file = folder + name
    (tmp_path / file).write_text(block("toml"), encoding="utf-8")
    environ = {**os.environ, "PYTHONPATH": str(tmp_path / "openllm-core/src")}

    def run(*arguments: str) -> None:
        done = subprocess.run(
            [sys.executable, *arguments], cwd=tmp_path, env=environ, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr

    commands = block("bash").split("\n")[:-1]
    assert all(command.startswith("python3 ") for command in commands)
    for command in commands:
        run(*command.split()[1:])
    run("-c", block("python"))
    assert "## tinystories" in (tmp_path / "docs/reference/models.md").read_text(encoding="utf-8")
    assert "tinystories" in (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "TinyStoriesConfig" in (tmp_path / init).read_text(encoding="utf-8")
    assert not (ROOT / file).exists()
