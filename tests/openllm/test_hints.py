"""What hints tell the user to set exists: a variable that nothing reads sends people the wrong way."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import openllm
import openllm_client
import openllm_core
from openllm_core.config.variables import GONE, known

VARIABLE = re.compile(r"\bOPENLLM_[A-Z0-9_]*[A-Z0-9]\b")


def texts() -> Iterator[tuple[Path, str]]:
    """Every string in the files that name a variable, docstrings left out."""
    for package in (openllm, openllm_client, openllm_core):
        for file in sorted(Path(str(package.__file__)).parent.rglob("*.py")):
            content = file.read_text(encoding="utf-8")
            if "OPENLLM_" not in content:
                continue
            tree = ast.parse(content)
            alone = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
            for node in ast.walk(tree):
                if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in alone:
                    yield file, node.value


@pytest.fixture(scope="module")
def strings() -> list[tuple[Path, str]]:
    """Read once."""
    return list(texts())


def test_every_variable_that_is_named_is_read(strings: list[tuple[Path, str]]) -> None:
    """A name inside a sentence is one of a setting, or stands somewhere by itself, where it is read."""
    read = known() | {text for _, text in strings if VARIABLE.fullmatch(text)} - set(GONE)
    named = {(name, file.name) for file, text in strings for name in VARIABLE.findall(text) if text != name}
    assert len(named) > 5
    assert sorted((name, file) for name, file in named if name not in read) == []
