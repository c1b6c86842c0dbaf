"""tools/release.py and tools/formula.py: the number, the changelog in its own layout, the tag, the formula; nothing is sent anywhere."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
from tests.packaging.conftest import ROOT, in_node
from tests.packaging.test_version import load

RELEASE, FORMULA = load(ROOT / "tools" / "release.py"), load(ROOT / "tools" / "formula.py")
FRAGMENTS = {
    "9.feature.md": "`openllm release` does one thing,\nand says so on two lines.\n",
    "10.feature.1.md": "Another thing.\n",
    "10.fix.md": "What was broken is not.\n",
    "3.breaking.md": "`--old` is gone; `--new` takes its place.\n",
}
PARSE = """
import { loadPrism } from "@ruby/prism";
import { readFileSync } from "node:fs";
const parse = await loadPrism();
console.log(JSON.stringify(process.argv.slice(2).map((file) => parse(readFileSync(file, "utf8")).errors.length === 0)));
"""
RENDERED = """\
## [1.3.0](https://github.com/bentoml/openllm/tree/v1.3.0)

### Backwards-incompatible Changes

- `--old` is gone; `--new` takes its place.
  [#3](https://github.com/bentoml/openllm/issues/3)

### Features

- `openllm release` does one thing,
  and says so on two lines.
  [#9](https://github.com/bentoml/openllm/issues/9)

- Another thing.
  [#10](https://github.com/bentoml/openllm/issues/10)

### Bug fix

- What was broken is not.
  [#10](https://github.com/bentoml/openllm/issues/10)
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small repository with our settings, released once as 1.2.3, with changes since."""
    for role in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{role}_NAME", "t")
        monkeypatch.setenv(f"GIT_{role}_EMAIL", "t@example.org")
    for scope in ("GLOBAL", "SYSTEM"):
        monkeypatch.setenv(f"GIT_CONFIG_{scope}", os.devnull)
    folder = tmp_path / "project"
    copied = ("tools/version.py", "changelog.d/README.md", "changelog.d/template.md.jinja", ".git_archival.txt")
    for name in copied:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes((ROOT / name).read_bytes())
    settings = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    towncrier = re.search(r"^\[tool\.towncrier\]\n.*?^\]\n", settings, re.M | re.S)
    assert towncrier is not None
    (folder / "pyproject.toml").write_text(towncrier[0], encoding="utf-8")
    head = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8").partition("<!-- towncrier")[0]
    old = "## [1.2.3](https://github.com/bentoml/openllm/tree/v1.2.3)\n\nNo significant changes.\n"
    start = "<!-- towncrier release notes start -->\n\n"
    (folder / "CHANGELOG.md").write_text(head + start + old, encoding="utf-8")
    git(folder, "init", "--quiet", "--initial-branch", "main")
    commit(folder, "one")
    git(folder, "tag", "v1.2.3")
    for name, text in FRAGMENTS.items():
        (folder / "changelog.d" / name).write_text(text, encoding="utf-8")
    commit(folder, "two")
    return folder


def git(folder: Path, *words: str) -> str:
    return subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True, check=True).stdout


def commit(folder: Path, message: str) -> None:
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", message)


def release(project: Path, *words: str) -> int:
    return RELEASE.main(list(words), project)


def test_prepare_makes_one_commit_and_one_tag(project: Path, capsys: pytest.CaptureFixture[str]):
    """The changelog gets the release at its top, fragments go, the commit is tagged, and source without tags moves on."""
    assert release(project, "prepare", "minor") == 0
    assert "git push --atomic origin main v1.3.0" in capsys.readouterr().out
    text = (project / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f"notes start -->\n\n{RENDERED}\n## [1.2.3](" in text
    assert not re.search(r"\n{3}", text)
    assert {path.name for path in (project / "changelog.d").iterdir()} == {"README.md", "template.md.jinja"}
    assert git(project, "status", "--porcelain") == ""
    assert git(project, "log", "--format=%s", "v1.2.3..v1.3.0").splitlines() == ["Release 1.3.0", "two"]
    versions = load(project / "tools" / "version.py")
    assert versions.version() == "1.3.0"
    assert versions.FALLBACK == "1.3.1.dev0"
    git(project, "commit", "--quiet", "--allow-empty", "--message", "three")
    assert versions.version() == "1.3.1.dev1"


def test_notes_are_that_releases_part(project: Path, capsys: pytest.CaptureFixture[str]):
    """The text of the release on GitHub is its own part of the changelog, by the tag's name too."""
    assert release(project, "prepare", "1.3.0") == 0
    capsys.readouterr()
    assert release(project, "notes", "v1.3.0") == 0
    assert capsys.readouterr().out.strip() == RENDERED.partition("\n")[2].strip()
    assert release(project, "notes", "1.2.3") == 0
    assert capsys.readouterr().out.strip() == "No significant changes."
    assert release(project, "notes", "9.9.9") == 1
    assert "no release 9.9.9" in capsys.readouterr().err


def test_a_draft_changes_nothing(project: Path, capsys: pytest.CaptureFixture[str]):
    """What is coming is shown under a heading of its own, with a warning, and no file is touched."""
    assert release(project, "draft") == 0
    shown = capsys.readouterr().out
    assert shown.startswith("## Changes for the upcoming release\n\n> [!WARNING]\n")
    assert shown.strip().endswith(RENDERED[RENDERED.index("### Backwards") :].strip())
    assert git(project, "status", "--porcelain") == ""


@pytest.mark.parametrize(
    ("asked", "version"),
    [("patch", "1.2.4"), ("minor", "1.3.0"), ("major", "2.0.0"), ("1.2.4rc1", "1.2.4rc1"), ("3.0.0", "3.0.0")],
)
def test_the_number(project: Path, capsys: pytest.CaptureFixture[str], asked: str, version: str):
    """A level counts from the last release; a number is taken as it is."""
    assert release(project, "check", asked) == 0
    assert capsys.readouterr().out == f"{version} can be prepared.\n"


@pytest.mark.parametrize("asked", ["1.2.3", "1.2.2", "1.3", "1.3.0.dev1", "v1.3.0", "01.3.0", "next"])
def test_a_number_that_is_none(project: Path, capsys: pytest.CaptureFixture[str], asked: str):
    """What is released already, or is no release's number, is refused in one sentence."""
    assert release(project, "check", asked) == 1
    assert capsys.readouterr().err.startswith("error: ")


def test_what_stands_in_the_way(project: Path, capsys: pytest.CaptureFixture[str]):
    """Uncommitted work, another branch, and a commit that is a release already are refused, each by its name."""
    (project / "new.txt").write_text("new", encoding="utf-8")
    assert release(project, "prepare", "patch") == 1
    assert "new.txt" in capsys.readouterr().err
    (project / "new.txt").unlink()
    git(project, "switch", "--quiet", "--create", "other")
    assert release(project, "prepare", "patch") == 1
    assert "this is other" in capsys.readouterr().err
    git(project, "switch", "--quiet", "main")
    assert release(project, "prepare", "patch") == 0
    capsys.readouterr()
    assert release(project, "prepare", "patch") == 1
    assert "nothing changed since v1.2.4" in capsys.readouterr().err


def test_a_release_without_visible_changes(project: Path, capsys: pytest.CaptureFixture[str]):
    """As a final one after its candidate: it is made, and the changelog says that nothing significant changed."""
    assert release(project, "prepare", "1.3.0rc1") == 0
    git(project, "commit", "--quiet", "--allow-empty", "--message", "three")
    capsys.readouterr()
    assert release(project, "prepare", "minor") == 0
    assert "has no fragment" in capsys.readouterr().err
    text = (project / "CHANGELOG.md").read_text(encoding="utf-8")
    heading = "## [1.3.0](https://github.com/bentoml/openllm/tree/v1.3.0)"
    assert f"notes start -->\n\n{heading}\n\nNo significant changes.\n\n## [1.3.0rc1](" in text
    assert load(project / "tools" / "version.py").version() == "1.3.0"


def test_the_first_release_is_the_number_being_worked_on(project: Path, capsys: pytest.CaptureFixture[str]):
    """Without any tag it is what tools/version.py names, whatever the level."""
    git(project, "tag", "--delete", "v1.2.3")
    assert release(project, "check", "minor") == 0
    expected = load(ROOT / "tools" / "version.py").FALLBACK.partition(".dev")[0]
    assert capsys.readouterr().out == f"{expected} can be prepared.\n"


# -- hashes and the formula


@pytest.fixture
def archives(tmp_path: Path) -> Path:
    """Stand-ins for the archives of a release, for every target."""
    folder = tmp_path / "archives"
    folder.mkdir()
    for target in tomllib.loads((ROOT / "tools/standalone/targets.toml").read_text(encoding="utf-8")):
        (folder / f"openllm-1.3.0-{target}.tar.gz").write_text(target, encoding="utf-8")
    return folder


def test_sums_are_as_sha256sum_checks_them(archives: Path, capsys: pytest.CaptureFixture[str]):
    """Every file stands in SHA256SUMS, but not that file itself, also when it is made twice."""
    assert RELEASE.main(["sums", str(archives)]) == RELEASE.main(["sums", str(archives)]) == 0
    lines = (archives / "SHA256SUMS").read_text(encoding="utf-8").splitlines()
    assert len(lines) == 7
    for line in lines:
        digest, name = line.split("  ")
        assert digest == hashlib.sha256((archives / name).read_bytes()).hexdigest()


def test_the_formula_is_rendered_from_the_archives(archives: Path, tmp_path: Path):
    """Each machine that Homebrew knows gets the address of its archive with that file's hash; no field stays open."""
    output = tmp_path / "Formula" / "openllm.rb"
    assert FORMULA.main(["v1.3.0", str(archives), "--output", str(output)]) == 0
    text = output.read_text(encoding="utf-8")
    found = re.findall(r'on_(macos|linux) do|on_(arm|intel) do\n +url "(.+)"\n +sha256 "([0-9a-f]{64})"', text)
    assert [system or cpu for system, cpu, _, _ in found] == ["macos", "arm", "intel", "linux", "arm", "intel"]
    for target in (
        "aarch64-apple-darwin",
        "x86_64-apple-darwin",
        "aarch64-unknown-linux-gnu",
        "x86_64-unknown-linux-gnu",
    ):
        address = f"https://github.com/bentoml/OpenLLM/releases/download/v1.3.0/openllm-1.3.0-{target}.tar.gz"
        assert f'url "{address}"\n      sha256 "{hashlib.sha256(target.encode()).hexdigest()}"' in text
    assert 'version "1.3.0"' in text
    assert not re.search(r"@\w+@", text)


def test_the_formula_is_ruby(archives: Path, linters: Path, tmp_path: Path):
    """Ruby's own parser finds no fault in what is rendered, and does in the half of it."""
    whole, half = tmp_path / "whole.rb", tmp_path / "half.rb"
    assert FORMULA.main(["1.3.0", str(archives), "--output", str(whole)]) == 0
    text = whole.read_text(encoding="utf-8")
    half.write_text(text[: len(text) // 2], encoding="utf-8")
    assert json.loads(in_node(linters, PARSE, whole, half)) == [True, False]


def test_a_missing_archive_is_named(archives: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """No formula is written with a hash that is not there."""
    (archives / "openllm-1.3.0-x86_64-apple-darwin.tar.gz").unlink()
    assert FORMULA.main(["1.3.0", str(archives), "--output", str(tmp_path / "F.rb")]) == 1
    assert "lacks openllm-1.3.0-x86_64-apple-darwin.tar.gz" in capsys.readouterr().err
    assert not (tmp_path / "F.rb").exists()
