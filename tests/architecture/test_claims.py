"""The changelog's claims and the tests that hold them: tests/claims.toml, checked against the test files."""

from __future__ import annotations

import ast
import re
import tomllib
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
LISTED: dict[str, list[dict[str, Any]]] = tomllib.loads((ROOT / "tests/claims.toml").read_text(encoding="utf-8"))
CLAIMS, PENDING = LISTED["claim"], LISTED.get("pending", [])


@cache
def names_in(file: str) -> frozenset[str]:
    """Names of a file's tests, with their class where they have one; none where there is no such file."""
    path = ROOT / file
    if not path.is_file():
        return frozenset()
    found: set[str] = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            found.add(node.name)
        elif isinstance(node, ast.ClassDef):
            methods = (part for part in node.body if isinstance(part, (ast.FunctionDef, ast.AsyncFunctionDef)))
            found |= {f"{node.name}::{method.name}" for method in methods}
    return frozenset(name for name in found if name.rpartition("::")[2].startswith("test"))


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: f"{claim['version']} {claim['says'][:50]}")
def test_each_claim_has_tests(claim: dict[str, Any]):
    """Every test it names is there."""
    assert claim["tests"]
    missing = [node for node in claim["tests"] if node.partition("::")[2] not in names_in(node.partition("::")[0])]
    assert missing == []


def test_each_claim_stands_once_and_says_what_it_belongs_to():
    """Version, area and words; the same words do not stand twice in one version, pending or not."""
    for claim in (*CLAIMS, *PENDING):
        assert re.fullmatch(r"0\.\d+\.\d+", claim["version"])
        assert claim["area"] and claim["says"].endswith(".")
    assert [claim for claim in PENDING if "tests" in claim] == []
    counted = Counter((claim["version"], claim["says"]) for claim in (*CLAIMS, *PENDING))
    assert [claim for claim, times in counted.items() if times > 1] == []


def test_pending_claims_are_shown(capsys: pytest.CaptureFixture[str]):
    """How many wait, by area; they fail nothing, and none of them belongs to what is finished."""
    areas = Counter(claim["area"] for claim in PENDING)
    with capsys.disabled():
        print(f"\nclaims without a test yet: {areas.total()} ({', '.join(f'{n} {a}' for a, n in areas.most_common())})")
    assert set(areas).isdisjoint({"configuration", "environment", "resources", "prompts", "packages"})


def test_the_style_guide_agrees_with_the_linter():
    """STYLE.md names the line length and the oldest Python that the linter is told."""
    style = (ROOT / "STYLE.md").read_text(encoding="utf-8")
    ruff = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["ruff"]
    assert f"{ruff['line-length']} columns" in style
    assert f"Python 3.{ruff['target-version'].removeprefix('py3')}" in style
