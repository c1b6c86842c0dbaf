"""What the workflows run besides: images, the pull request of the formula, the pinning of actions, the two builds. With stand-ins for
the programs that reach a service, which note what they were asked.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from tests.packaging.conftest import PACKAGES, ROOT, build
from tests.packaging.test_version import git, load

IMAGES, PIN, TWICE = (load(ROOT / "tools" / f"{name}.py") for name in ("images", "pin_actions", "reproducible"))


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that gets a line for each call of docker, trivy, cosign and gh, which answer as if all went well."""
    notes, programs = tmp_path / "asked.txt", tmp_path / "programs"
    programs.mkdir()
    for name in ("docker", "trivy", "cosign", "gh"):
        answer = 'case "$*" in *inspect*) echo ghcr.io/bentoml/openllm@sha256:0123;; esac\n'
        answer += 'case "$*" in *${FAIL_ON:-nothing}*) exit 1;; esac\n'
        (programs / name).write_text(f'#!/bin/sh\necho {name} "$@" >> {notes}\n{answer}', encoding="utf-8")
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    return notes


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """A folder as `images.py make` leaves it."""
    folder = tmp_path / "images"
    folder.mkdir()
    listed = ["ghcr.io/bentoml/openllm:1.2.3-cpu", "ghcr.io/bentoml/openllm:1.2.3-cpu-base"]
    (folder / "images.json").write_text(json.dumps(listed), encoding="utf-8")
    return folder


def test_images_are_made_by_our_own_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """One `openllm build-base-container` for each strategy, pushing nothing; what it made is kept as a list."""
    calls: list[tuple[str, ...]] = []

    def run(*command: str, capture: bool = False) -> str:
        calls.append(command[3:])
        return json.dumps({"gh": [f"ghcr.io/bentoml/openllm:{command[7]}"], "image_sha": "abc"})

    monkeypatch.setattr(IMAGES, "run", run)
    folder = tmp_path / "images"
    assert IMAGES.main(["--folder", str(folder), "make", "--device", "cpu", "--strategy", "release", "latest"]) == 0
    assert [call[:5] for call in calls] == [
        ("build-base-container", "--device", "cpu", "--version-strategy", strategy)
        for strategy in ("release", "latest")
    ]
    assert all("--no-push" in call for call in calls)
    assert IMAGES.images(folder) == ["ghcr.io/bentoml/openllm:release", "ghcr.io/bentoml/openllm:latest"]


def test_the_command_has_the_flags_it_is_given():
    """`openllm build-base-container` takes what images.py hands it."""
    from click.testing import CliRunner

    from openllm.cli import cli

    page = CliRunner().invoke(cli, ["build-base-container", "--help"]).output
    assert all(flag in page for flag in ("--device", "--version-strategy", "--container-registry", "--no-push", "-o"))


def test_every_image_is_scanned(asked: Path, made: Path):
    """Each gets a bill of materials and a report of critical holes that have a fix."""
    assert IMAGES.main(["--folder", str(made), "scan"]) == 0
    lines = asked.read_text(encoding="utf-8").splitlines()
    assert [line.split()[0] for line in lines] == ["trivy"] * 4
    for image in IMAGES.images(made):
        bill, report = (line for line in lines if line.endswith(image))
        assert "--format cyclonedx" in bill
        assert "--severity CRITICAL --ignore-unfixed" in report
        assert "--format sarif" in report


def test_a_hole_fails_the_scan_after_every_image(
    asked: Path, made: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """All reports are written, then it fails, so that nothing is pushed."""
    monkeypatch.setenv("FAIL_ON", "CRITICAL")
    assert IMAGES.main(["--folder", str(made), "scan"]) == 1
    assert len(asked.read_text(encoding="utf-8").splitlines()) == 4
    assert "openllm-1.2.3-cpu.sarif" in capsys.readouterr().out


def test_what_is_published_is_signed_by_its_digest(asked: Path, made: Path):
    """A tag can be moved, so the digest is signed, and the bill of materials is attached to it."""
    assert IMAGES.main(["--folder", str(made), "publish"]) == 0
    lines = asked.read_text(encoding="utf-8").splitlines()
    digest = "ghcr.io/bentoml/openllm@sha256:0123"
    assert lines[0] == "docker push --quiet ghcr.io/bentoml/openllm:1.2.3-cpu"
    assert lines[2] == f"cosign sign --yes {digest}"
    assert lines[3] == f"cosign attest --yes --type cyclonedx --predicate {made}/openllm-1.2.3-cpu.cdx.json {digest}"
    assert len(lines) == 8


def test_a_failed_push_signs_nothing(
    asked: Path, made: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """It ends at once, in one line."""
    monkeypatch.setenv("FAIL_ON", "push")
    assert IMAGES.main(["--folder", str(made), "publish"]) == 1
    assert "cosign" not in asked.read_text(encoding="utf-8")
    assert capsys.readouterr().err == "error: `docker push --quiet ghcr.io/bentoml/openllm:1.2.3-cpu` ended with 1\n"


# -- the formula's pull request


@pytest.fixture
def tap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A clone of a repository on this disk, with a formula that is not committed."""
    for name in ("GIT_CONFIG_GLOBAL", "GIT_CONFIG_SYSTEM"):
        monkeypatch.setenv(name, os.devnull)
    origin, clone = tmp_path / "origin.git", tmp_path / "tap"
    git(tmp_path, "init", "--quiet", "--bare", "--initial-branch", "main", str(origin))
    git(tmp_path, "init", "--quiet", "--initial-branch", "main", str(clone))
    git(clone, "remote", "add", "origin", str(origin))
    git(clone, "commit", "--quiet", "--allow-empty", "--message", "one")
    git(clone, "push", "--quiet", "origin", "main")
    (clone / "Formula").mkdir()
    (clone / "Formula" / "openllm.rb").write_text("class Openllm\nend\n", encoding="utf-8")
    return clone


def test_the_formula_is_proposed(asked: Path, tap: Path):
    """A branch with the one file is pushed, and a pull request asked for; main is left as it is."""
    script = ROOT / "tools" / "propose_formula.sh"
    assert os.access(script, os.X_OK)
    subprocess.run([script, "1.2.3"], cwd=tap, check=True)
    assert git(tap, "ls-tree", "-r", "--name-only", "origin/formula-1.2.3").decode().split() == ["Formula/openllm.rb"]
    assert git(tap, "log", "--format=%s", "origin/main").decode().split() == ["one"]
    lines = asked.read_text(encoding="utf-8").splitlines()
    assert lines[0] == "gh auth setup-git"
    assert lines[1].startswith("gh pr create --base main --head formula-1.2.3 --title Homebrew formula of 1.2.3")


def test_an_unchanged_formula_is_not_proposed(asked: Path, tap: Path):
    """A workflow that runs again asks for nothing twice."""
    git(tap, "add", "--all")
    git(tap, "commit", "--quiet", "--message", "formula")
    done = subprocess.run(
        [ROOT / "tools" / "propose_formula.sh", "1.2.3"], cwd=tap, check=True, capture_output=True, text=True
    )
    assert "is that of 1.2.3 already" in done.stdout
    assert "gh pr" not in asked.read_text(encoding="utf-8")


# -- pinning


def test_actions_are_pinned_to_what_their_tags_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """A tag becomes its commit, an annotated one that which it names, a branch its newest; the tag stays readable."""
    host, flows = tmp_path / "host", tmp_path / "workflows"
    action = host / "actions" / "checkout"
    action.mkdir(parents=True)
    flows.mkdir()
    git(action, "init", "--quiet", "--initial-branch", "main")
    git(action, "commit", "--quiet", "--allow-empty", "--message", "one")
    git(action, "tag", "--annotate", "v5", "--message", "five")
    first = git(action, "rev-parse", "HEAD").decode().strip()
    git(action, "commit", "--quiet", "--allow-empty", "--message", "two")
    second = git(action, "rev-parse", "HEAD").decode().strip()
    text = "      - uses: actions/checkout@v5\n      - uses: actions/checkout/sub@main # why\n    uses: ./.github/workflows/ci.yml\n"
    (flows / "ci.yml").write_text(text, encoding="utf-8")
    where = ["--folder", str(flows), "--host", host.as_uri()]
    assert PIN.main([*where, "--check"]) == 1
    assert (flows / "ci.yml").read_text(encoding="utf-8") == text
    assert capsys.readouterr().out == "ci.yml: actions/checkout@v5\nci.yml: actions/checkout/sub@main\n"
    assert PIN.main(where) == 0
    assert (flows / "ci.yml").read_text(encoding="utf-8") == (
        f"      - uses: actions/checkout@{first} # v5\n"
        f"      - uses: actions/checkout/sub@{second} # main\n"
        "    uses: ./.github/workflows/ci.yml\n"
    )
    assert PIN.main([*where, "--check"]) == 0
    (flows / "ci.yml").write_text("- uses: actions/checkout@v9\n", encoding="utf-8")
    assert PIN.main(where) == 1
    assert "has no v9" in capsys.readouterr().err


def test_it_finds_every_action_of_ours():
    """Each `uses:` of the workflows is one that pinning would see."""
    flows = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
    text = "".join(path.read_text(encoding="utf-8") for path in flows)
    others = [name for name in re.findall(r"uses: (\S+)", text) if not name.startswith("./")]
    assert others == [found["action"] + found["path"] + "@" + found["ref"] for found in PIN.USES.finditer(text)]


# -- the same bytes


def test_two_builds_give_the_same_bytes(
    archive: Path, wheels: dict[str, Path], sdists: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Wheels and sdists do not know where, when, as whom and in which order their files were laid down."""
    elsewhere = tmp_path / "elsewhere"
    for folder in [*PACKAGES, "tools"]:
        shutil.copytree(archive / folder, elsewhere / folder, copy_function=shutil.copyfile)
    for name in (".git_archival.txt", ".gitignore"):  # an sdist carries the latter
        shutil.copyfile(archive / name, elsewhere / name)
    for path in elsewhere.rglob("*"):
        path.chmod(0o700 if path.is_dir() else 0o600)
    monkeypatch.setenv("TZ", "Asia/Kathmandu")
    monkeypatch.setenv("LC_ALL", "C")
    for folder, name in PACKAGES.items():
        for target, once in (("wheel", wheels[name]), ("sdist", sdists[name])):
            again = build(elsewhere / folder, tmp_path / "again", target=target)
            assert again.name == once.name
            assert again.read_bytes() == once.read_bytes(), f"{again.name} differs"


def test_what_differs_is_named():
    """The tool that builds twice says which file differs, which is missing, and that nothing was built."""
    assert TWICE.differences({"a": "1", "b": "2"}, {"a": "1", "b": "2"}) == []
    assert TWICE.differences({"a": "1", "b": "2"}, {"a": "3"}) == [
        "only one of two builds has b.",
        "a: two builds differ.",
    ]
    assert TWICE.differences({}, {}) == ["hatch built nothing."]
