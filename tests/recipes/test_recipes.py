"""The recipes of the documentation, run as they stand against a server with a scripted model."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.docs.snippets import Snippet, snippets_of
from tests.e2e.conftest import ServerProcess

HOW_TO = Path(__file__).resolve().parents[2] / "docs" / "how-to"
OURS = Path(sys.executable).parent
RECIPES = [s for page in ("recipes.md", "agents.md") for s in snippets_of(HOW_TO / page) if s.verb.startswith("recipe")]
PACKAGES = {"openai", "langchain_openai", "llama_index", "smolagents", "pydantic_ai", "instructor", "curl", "llm -m"}


def name_of(recipe: Snippet) -> str:
    return f"{recipe.page.name}:{recipe.line}"


def followed(recipe: Snippet, server: ServerProcess, folder: Path, programs: Path) -> str:
    """What a recipe prints, with the server's address in place of the page's."""
    code = recipe.code.replace("localhost:3000", server.url.removeprefix("http://"))
    file = folder / ("recipe.py" if recipe.language == "python" else "recipe.sh")
    file.write_text(code, encoding="utf-8")
    command = [str(programs / "python"), str(file)] if file.suffix == ".py" else ["bash", "-euo", "pipefail", str(file)]
    environ = {
        "HOME": str(folder),
        "LLM_USER_PATH": str(folder),
        "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
        "LANG": "C.UTF-8",
    }
    done = subprocess.run(
        command, cwd=folder, env=environ, capture_output=True, text=True, encoding="utf-8", timeout=60, check=False
    )
    assert done.returncode == 0, f"{code}\n--- stdout\n{done.stdout}\n--- stderr\n{done.stderr}"
    return done.stdout


@pytest.mark.timeout(90)
@pytest.mark.parametrize("recipe", [r for r in RECIPES if r.verb == "recipe"], ids=name_of)
def test_recipe(recipe: Snippet, scripted: ServerProcess, recipes_bin: Path, tmp_path: Path) -> None:
    """With the real package it ends well and prints what the page says."""
    assert recipe.detail.removeprefix("prints ") in followed(recipe, scripted, tmp_path, recipes_bin)


@pytest.mark.timeout(90)
@pytest.mark.parametrize("recipe", [r for r in RECIPES if r.verb == "recipe of ours"], ids=name_of)
def test_recipe_of_ours(recipe: Snippet, scripted: ServerProcess, tmp_path: Path) -> None:
    """With our own client and command line, the same."""
    assert recipe.detail.removeprefix("prints ") in followed(recipe, scripted, tmp_path, OURS)


def test_every_package_has_a_recipe() -> None:
    """Each library that is promised is used by a recipe that says what it prints."""
    assert all(recipe.detail.startswith("prints ") for recipe in RECIPES)
    assert {package for package in PACKAGES if not any(package in recipe.code for recipe in RECIPES)} == set()
