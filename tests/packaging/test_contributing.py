"""What greets a contributor is true: the verbs that CONTRIBUTING.md lists, the hooks of a commit, the forms, the container."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import jsonschema
import pytest
import yaml
from tests.packaging.conftest import ROOT

from openllm.cli import COMMANDS

FORMS = sorted(path for path in (ROOT / ".github/ISSUE_TEMPLATE").glob("*.yml") if path.name != "config.yml")
TEXT = {"type": "string", "minLength": 1}
CONTAINER = {  # the properties of containers.dev's reference that ours uses
    "type": "object",
    "additionalProperties": False,
    "required": ["name", "image", "postCreateCommand"],
    "properties": {
        "name": TEXT,
        "image": {"type": "string", "pattern": r"^[a-z0-9.-]+(/[a-z0-9._-]+)+:[\w.-]+$"},
        "hostRequirements": {
            "type": "object",
            "additionalProperties": False,
            "properties": {
                "cpus": {"type": "integer", "minimum": 1},
                "memory": {"type": "string", "pattern": r"^\d+[tgmk]b$"},
                "storage": {"type": "string", "pattern": r"^\d+[tgmk]b$"},
            },
        },
        "postCreateCommand": TEXT,
        "forwardPorts": {"type": "array", "items": {"type": "integer", "minimum": 1, "maximum": 65535}},
        "portsAttributes": {
            "type": "object",
            "additionalProperties": {
                "type": "object",
                "additionalProperties": False,
                "properties": {
                    "label": TEXT,
                    "onAutoForward": {"enum": ["notify", "openBrowser", "openPreview", "silent", "ignore"]},
                },
            },
        },
        "customizations": {"type": "object"},
    },
}


def verbs() -> set[str]:
    """What can stand behind `hatch run`; of another environment than the default with its name before it."""
    found = set[str]()
    for name, made in tomllib.loads((ROOT / "hatch.toml").read_text(encoding="utf-8"))["envs"].items():
        found |= {verb if name == "default" else f"{name}:{verb}" for verb in made.get("scripts", {})}
    return found


def test_every_verb_is_listed():
    """The table of CONTRIBUTING.md has each verb of hatch.toml, and no other."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\| `hatch run ([\w:.-]+)` \|", text, re.M)
    assert sorted(listed) == sorted({*verbs(), "matrix:test"})


def test_what_dev_py_does_alone_is_listed_with_it():
    """The table names the verb of tools/dev.py that does the same, where there is one."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    named = set(re.findall(r"^\| `hatch run [\w:.-]+` \| `tools/dev\.py (\w+)` \|", text, re.M))
    tree = ast.parse((ROOT / "tools/dev.py").read_bytes())
    functions = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    assert named == verbs() & functions


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A repository with our hooks, their settings and the programs they call."""
    for name in (".pre-commit-config.yaml", "pyproject.toml"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    (tmp_path / ".venv-test").symlink_to(sys.prefix)
    (tmp_path / ".gitignore").write_text(".venv-test\n.cache\n")
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    return tmp_path


def look(clone: Path, **files: str) -> subprocess.CompletedProcess[str]:
    """Run the hooks of a commit over some files; keywords are paths, with two underscores for a slash."""
    for name, text in files.items():
        file = clone / name.replace("__", "/").replace("_md", ".md").replace("_py", ".py")
        file.parent.mkdir(exist_ok=True)
        file.write_text(text, encoding="utf-8")
    subprocess.run(["git", "add", "."], cwd=clone, check=True)
    environ = os.environ | {"PRE_COMMIT_HOME": str(clone / ".cache"), "PRE_COMMIT_COLOR": "never"}
    command = [sys.executable, "-m", "pre_commit", "run"]
    return subprocess.run(command, cwd=clone, env=environ, capture_output=True, text=True, check=False)


def test_a_commit_is_looked_at(clone: Path):
    """Style that can be mended is, and the commit waits; a fragment that towncrier would drop is refused, with the page to read."""
    done = look(clone, tool_py="import os\nx = {  'a':1 }\n", changelog_d__7_misc="Nothing.\n")
    assert done.returncode == 1
    ended = dict(re.findall(r"^([\w' ]+?)\.{3,}.*?(Passed|Failed|Skipped)$", done.stdout, re.M))
    assert ended["ruff check"] == ended["ruff format"] == "Failed"
    assert ended["figures on the pages"] == "Skipped"
    assert (clone / "tool.py").read_text() == 'x = {"a": 1}\n'
    assert "strict types" not in ended


def test_every_hook_has_its_program():
    """Its files match something that is here, and what it runs is here: nothing is fetched from another repository."""
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    assert [repo["repo"] for repo in config["repos"]] == ["local"]
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    paths = listed.stdout.splitlines()
    for hook in config["repos"][0]["hooks"]:
        if hook["language"] == "fail":
            continue
        assert any(re.search(hook.get("files", ""), path) for path in paths), hook["id"]
        program, *words = hook["entry"].split()
        assert (Path(sys.prefix) / program.removeprefix(".venv-test/")).exists(), hook["id"]
        assert [word for word in words if word.startswith("tools/") and not (ROOT / word).is_file()] == []


def test_a_fragments_name_is_the_one_that_towncrier_reads():
    """The hook lets pass what stands in changelog.d, and knows each type that pyproject.toml names."""
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    (hook,) = [hook for hook in config["repos"][0]["hooks"] if hook["id"] == "changelog"]
    types = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["towncrier"]["type"]
    names = [f"changelog.d/{path.name}" for path in (ROOT / "changelog.d").iterdir()]
    names += [f"changelog.d/12.{kind['directory']}.3.md" for kind in types]
    assert [name for name in names if not re.search(hook["exclude"], name)] == []
    wrong = ("changelog.d/12.misc.md", "changelog.d/12.md", "changelog.d/a.fix.md", "changelog.d/12.fix.txt")
    assert [name for name in wrong if re.search(hook["exclude"], name)] == []
    assert all(re.search(hook["files"], name) for name in (*names, *wrong))


@pytest.mark.parametrize("schema", ["github-issue-forms", "github-issue-config"])
def test_the_forms_of_issues_are_forms(schema: str):
    """They fit the shape that the service publishes, which ships with check-jsonschema."""
    files = FORMS if schema == "github-issue-forms" else [ROOT / ".github/ISSUE_TEMPLATE/config.yml"]
    assert files
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", f"vendor.{schema}", *map(str, files)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_what_a_bug_report_asks_for_can_be_had():
    """Each command that the form asks the output of is one of ours, and a report without it is not taken."""
    (bug,) = [yaml.safe_load(path.read_text(encoding="utf-8")) for path in FORMS if path.stem == "bug"]
    asked = {field["id"]: field for field in bug["body"] if field["type"] == "textarea"}
    named = {
        words for field in asked.values() for words in re.findall(r"`openllm ([\w-]+)`", field["attributes"]["label"])
    }
    assert {"env", "doctor"} <= named and named - {"--version"} <= set(COMMANDS)
    assert all(field["validations"]["required"] for field in asked.values())


def test_the_container_is_one():
    """devcontainer.json has the shape of one, and the command that fills it begins with ours."""
    container = json.loads((ROOT / ".devcontainer/devcontainer.json").read_text(encoding="utf-8"))
    jsonschema.validate(container, CONTAINER)
    assert container["postCreateCommand"].startswith("python3 tools/dev.py lint && .venv-test/bin/")
    interpreter = container["customizations"]["vscode"]["settings"]["python.defaultInterpreterPath"]
    assert interpreter == "${containerWorkspaceFolder}/.venv-test/bin/python"
    python = re.search(r"python:(3\.\d+)", container["image"])
    matrix = tomllib.loads((ROOT / "hatch.toml").read_text(encoding="utf-8"))["envs"]["matrix"]["matrix"]
    assert python is not None and python[1] in matrix[0]["python"]
