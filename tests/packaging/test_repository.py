"""The files at the root say the same thing: hatch.toml, constraints, requirements, changelog and what CI runs."""

from __future__ import annotations

import ast
import contextlib
import json
import os
import re
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from tests.packaging.conftest import PACKAGES, ROOT

TYPES = {"breaking", "deprecation", "change", "refactor", "feature", "fix"}


def toml(name: str) -> dict[str, dict[str, object]]:
    return tomllib.loads((ROOT / name).read_text(encoding="utf-8"))


def lines(name: str) -> list[str]:
    text = (ROOT / name).read_text(encoding="utf-8")
    return [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]


def test_root_holds_tool_settings_only():
    """The root is no package."""
    assert set(toml("pyproject.toml")) == {"tool"}


def test_hatch_knows_the_three_packages_and_real_verbs():
    """Members exist, the test tools are those of the requirements file, and each verb names files that are there."""
    default = toml("hatch.toml")["envs"]["default"]
    assert isinstance(default, dict)
    assert set(default["workspace"]["members"]) == set(PACKAGES)
    assert default["dependencies"] == lines("tests/requirements.txt")
    for verb, command in default["scripts"].items():
        text = " ".join([command] if isinstance(command, str) else command)
        for path in re.findall(r"\b(?:tests|tools)/[\w/.]+", text):
            assert (ROOT / path).exists(), f"{verb}: {path}"


def test_matrix_is_what_the_classifiers_promise():
    """Python versions named to users are the ones hatch tests."""
    matrix = toml("hatch.toml")["envs"]["matrix"]
    assert isinstance(matrix, dict)
    tested = set(matrix["matrix"][0]["python"])
    for folder in PACKAGES:
        classifiers = toml(f"{folder}/pyproject.toml")["project"]["classifiers"]
        named = {c.rsplit(" ", 1)[1] for c in map(str, classifiers) if re.search(r":: 3\.\d+$", c)}
        assert named == tested


@pytest.mark.parametrize(("name", "least"), [("dev", 50), ("gptq", 50), ("binary", 20), ("release", 20)])
def test_constraints_are_exact_pins(name: str, least: int):
    """Nothing but `name==version`: no path, host or local version that one machine alone can install."""
    pins = lines(f"constraints/{name}.txt")
    assert len(pins) > least
    assert not [pin for pin in pins if not re.fullmatch(r"[a-z0-9-]+==[0-9][0-9a-z.]*", pin)]
    assert len({pin.split("==")[0] for pin in pins}) == len(pins)


def test_every_test_tool_is_pinned():
    """A tool without a pin would make the checks depend on the day."""
    pinned = {pin.split("==")[0] for pin in lines("constraints/dev.txt")}
    assert not set(lines("tests/requirements.txt")) - pinned


def test_the_tests_install_on_the_oldest_python():
    """What is pinned takes the first 3.11 that systems still ship, not only the newest patch release that we happen to run."""
    found = {canonicalize_name(one.name): one for one in metadata.distributions()}
    pinned = [found[name] for pin in lines("constraints/dev.txt") if (name := pin.split("==")[0]) in found]
    assert len(pinned) > 100
    assert not [
        one.name for one in pinned if not SpecifierSet(one.metadata["Requires-Python"] or "").contains("3.11.2")
    ]


def test_the_tests_import_what_they_name():
    """A fresh environment has what the tests import: each package is one of their tools', or of the three packages' needs."""
    wanted, installed = [*lines("tests/requirements.txt"), "openllm"], set[str]()
    while wanted:
        name = canonicalize_name(Requirement(wanted.pop()).name)
        if name not in installed:
            installed.add(name)
            with contextlib.suppress(metadata.PackageNotFoundError):  # of another platform
                wanted += [need for need in metadata.requires(name) or [] if "extra ==" not in need]
    homes = metadata.packages_distributions()
    own = {
        *sys.stdlib_module_names,
        *PACKAGES.values(),
        "tests",
        "tools",
        "xgrammar",  # tools/installing.py brings it, without what it resolves to
        *(tool.stem for tool in (ROOT / "tools").glob("*.py")),
    }
    elsewhere = {"vllm"}  # .venv-vllm has it, and the tests that run there
    unnamed = {
        f"{file.relative_to(ROOT)}: {module}"
        for file in (ROOT / "tests").rglob("*.py")
        for module in imported(file) - own - elsewhere
        if not installed & {canonicalize_name(home) for home in homes.get(module, [])}
    }
    assert not unnamed


def imported(file: Path) -> set[str]:
    """First words of the modules a file imports, wherever in it."""
    names = set[str]()
    for node in ast.walk(ast.parse(file.read_bytes())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names.add(node.module or "")
    return {name.partition(".")[0] for name in names}


def test_ci_runs_the_readme_command():
    """`.ci/run` is executable and calls exactly what the README tells a person to type."""
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert lines(".ci/run")[-1] == "exec python3 tools/dev.py test"
    assert "python3 tools/dev.py test" in (ROOT / "README.md").read_text(encoding="utf-8")


def test_changelog_fragments_have_known_types():
    """towncrier drops a fragment of an unknown type without a word. Just after a release there is none at all."""
    held = {path.name for path in (ROOT / "changelog.d").iterdir()}
    assert held >= {"README.md", "template.md.jinja"}
    names = held - {"README.md", "template.md.jinja"}
    assert not [n for n in names if not re.fullmatch(rf"\d+\.({'|'.join(TYPES)})(\.\d+)?\.md", n)]


def test_changelog_renders():
    """What the coming release would say can be printed, with every fragment in it."""
    command = [sys.executable, "-m", "towncrier", "build", "--draft", "--version", "next"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    fragments = [path for path in (ROOT / "changelog.d").glob("*.*.md")]
    assert done.stdout.count("\n- ") == len(fragments)


def test_loc_counts_lines_and_tokens(tmp_path: Path):
    """`tools/loc.py -o json` gives lines and tokens per file and folder, and the folders add up."""
    command = [sys.executable, str(ROOT / "tools" / "loc.py"), "-o", "json", str(ROOT / "openllm-core")]
    counted = json.loads(subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path).stdout)
    one = counted["files"]["openllm-core/src/openllm_core/errors.py"]
    assert one["lines"] == len(
        (ROOT / "openllm-core/src/openllm_core/errors.py").read_text(encoding="utf-8").splitlines()
    )
    assert one["tokens"] > one["code_lines"] > 0
    below = sum(c["lines"] for name, c in counted["files"].items() if name.startswith("openllm-core/src/"))
    assert counted["folders"]["openllm-core/src"]["lines"] == below
    assert counted["total"]["files"] == len(counted["files"])


@pytest.mark.parametrize("folder", PACKAGES)
def test_every_package_is_typed(folder: str):
    """`py.typed` tells a type checker to trust our annotations."""
    assert (ROOT / folder / "src" / PACKAGES[folder] / "py.typed").is_file()
