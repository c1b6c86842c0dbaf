"""A release, as far as this machine goes: the next number, the changelog, one commit and one tag; and the text of the release.

    python tools/release.py draft                       what the coming release would say
    python tools/release.py check [LEVEL|VERSION]       whether it could be prepared now, and as what
    python tools/release.py prepare LEVEL|VERSION       CHANGELOG.md, the next development version, a commit, a tag; nothing is sent
    python tools/release.py notes VERSION               that release's part of CHANGELOG.md
    python tools/release.py sums FOLDER                 SHA256SUMS of the files in a folder

LEVEL is major, minor or patch. A tag is the version of all three packages (tools/version.py), so there is no number to
raise in any of them. Pushing the tag is what releases: .github/workflows/release.yml does the rest (docs/releasing.md).
"""

from __future__ import annotations

import argparse
import hashlib
import re
import subprocess
import sys
from pathlib import Path

from packaging.version import InvalidVersion, Version

ROOT = Path(__file__).resolve().parent.parent
CHANGELOG = "CHANGELOG.md"
BRANCH = "main"
LEVELS = ("major", "minor", "patch")
SUMS = "SHA256SUMS"
FALLBACK = re.compile(r'^FALLBACK = "(.+)"$', re.M)
TAGGED = re.compile(r"v(\d+\.\d+\.\d+(?:rc\d+)?)")


class Refused(Exception):
    """Something has to change before this can be released; the text says what."""


def main(arguments: list[str] | None = None, root: Path = ROOT) -> int:
    """Run one verb; returns the exit code."""
    parser = argparse.ArgumentParser(description="Prepare a release; nothing is ever sent from here.")
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("draft", help="print what the coming release would say")
    checking = verbs.add_parser("check", help="say whether it could be prepared now")
    checking.add_argument("version", nargs="?", default="patch", metavar="LEVEL|VERSION")
    preparing = verbs.add_parser("prepare", help="write the changelog, commit, tag")
    preparing.add_argument("version", metavar="LEVEL|VERSION")
    verbs.add_parser("notes", help="print a release's part of the changelog").add_argument("version")
    verbs.add_parser("sums", help="write SHA256SUMS into a folder").add_argument("folder", type=Path)
    asked = parser.parse_args(arguments)
    try:
        match asked.verb:
            case "draft":
                print(towncrier(root, "--draft", "--version", "main").rstrip())
            case "check":
                print(f"{check(root, asked.version)} can be prepared.")
            case "prepare":
                prepare(root, asked.version)
            case "notes":
                print(notes(root, asked.version))
            case _:
                print(write_sums(asked.folder))
    except Refused as refused:
        print(f"error: {refused}", file=sys.stderr)
        return 1
    return 0


def released(root: Path) -> list[Version]:
    """Versions of the tags that this commit comes from, oldest first."""
    tags = git(root, "tag", "--list", "v*", "--merged", "HEAD").split()
    return sorted(Version(found[1]) for tag in tags if (found := TAGGED.fullmatch(tag)))


def wanted(root: Path, text: str) -> Version:
    """The version that a level or a number means.

    Raises:
        Refused: it is neither, or no later than what there is.
    """
    before = released(root)
    if text in LEVELS:
        return following(root, before, text)
    try:
        version = Version(text)
    except InvalidVersion:
        raise Refused(f"{text!r} is neither a version nor one of {', '.join(LEVELS)}.") from None
    if not TAGGED.fullmatch(f"v{version}") or str(version) != text:
        raise Refused(f"{text!r} is no version of a release: they look like 1.2.3 or 1.2.3rc1.")
    if before and version <= before[-1]:
        raise Refused(f"{version} is not later than {before[-1]}, which is released.")
    return version


def following(root: Path, before: list[Version], level: str) -> Version:
    """The number that follows the last release; without any, the one that is being worked on."""
    finals = [version for version in before if not version.is_prerelease]
    if not finals:
        return Version(development_version(root).base_version)
    major, minor, patch = finals[-1].release
    numbers = {"major": (major + 1, 0, 0), "minor": (major, minor + 1, 0), "patch": (major, minor, patch + 1)}[level]
    return Version(".".join(map(str, numbers)))


def development_version(root: Path) -> Version:
    """What a source tree without tags calls itself."""
    found = FALLBACK.search((root / "tools" / "version.py").read_text(encoding="utf-8"))
    assert found is not None, "tools/version.py has a FALLBACK"
    return Version(found[1])


def check(root: Path, text: str) -> Version:
    """The version that would be released.

    Raises:
        Refused: the tree or the number is not fit for it.
    """
    version = wanted(root, text)
    if changed := git(root, "status", "--porcelain").splitlines():
        raise Refused("commit or remove these first:\n" + "\n".join(f"  {line}" for line in changed[:20]))
    if (branch := git(root, "branch", "--show-current").strip()) != BRANCH:
        raise Refused(f"releases are made on {BRANCH}; this is {branch or 'no branch'}.")
    if git(root, "tag", "--list", f"v{version}").strip():
        raise Refused(f"there is a tag v{version} already, on another line of commits.")
    if here := [tag for tag in git(root, "tag", "--points-at", "HEAD").split() if TAGGED.fullmatch(tag)]:
        raise Refused(f"nothing changed since {here[0]}: this commit is that release.")
    if not list((root / "changelog.d").glob("[0-9]*.*.md")):
        print("changelog.d/ has no fragment; the changelog will say: No significant changes.", file=sys.stderr)
    return version


def prepare(root: Path, text: str) -> None:
    """Write the changelog and the next development version, commit both and tag the commit."""
    version = check(root, text)
    towncrier(root, "--yes", "--version", str(version))
    tidy(root / CHANGELOG)
    file = root / "tools" / "version.py"
    major, minor, patch = version.release
    coming = f"{major}.{minor}.{patch if version.is_prerelease else patch + 1}.dev0"
    file.write_text(FALLBACK.sub(f'FALLBACK = "{coming}"', file.read_text(encoding="utf-8")), encoding="utf-8")
    git(root, "add", "--", CHANGELOG, "changelog.d", "tools/version.py")
    git(root, "commit", "--quiet", "--message", f"Release {version}")
    git(root, "tag", "--annotate", f"v{version}", "--message", f"OpenLLM {version}")
    print(f"Prepared {version}. Read it: git show v{version}")
    print(f"Release it: git push --atomic origin {BRANCH} v{version}")
    print(f"Take it back: git tag --delete v{version} && git reset --hard HEAD~1")


def notes(root: Path, text: str) -> str:
    """What CHANGELOG.md says of one release, without its heading; headings in it are as they stand there.

    Raises:
        Refused: it says nothing of it.
    """
    version = text.removeprefix("v")
    changelog = (root / CHANGELOG).read_text(encoding="utf-8")
    found = re.search(rf"^## \[{re.escape(version)}\]\([^)\n]*\)\n(.*?)(?=^## |\Z)", changelog, re.M | re.S)
    if found is None:
        raise Refused(f"{CHANGELOG} has no release {version}.")
    return found[1].strip()


def tidy(changelog: Path) -> None:
    """One blank line between things, and one line end at the end."""
    text = re.sub(r"\n{3,}", "\n\n", changelog.read_text(encoding="utf-8"))
    changelog.write_text(text.rstrip("\n") + "\n", encoding="utf-8")


def write_sums(folder: Path) -> Path:
    """Write the hashes of a folder's files as `sha256sum --check` reads them."""
    files = sorted(path for path in folder.iterdir() if path.is_file() and path.name != SUMS)
    if not files:
        raise Refused(f"{folder} has no files.")
    lines = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in files]
    (folder / SUMS).write_text("".join(lines), encoding="utf-8")
    return folder / SUMS


def towncrier(root: Path, *words: str) -> str:
    """Run `towncrier build`; its stdout."""
    return run(root, sys.executable, "-m", "towncrier", "build", *words)


def git(root: Path, *words: str) -> str:
    """Run git; its stdout."""
    return run(root, "git", *words)


def run(root: Path, *command: str) -> str:
    """Run a command in the repository.

    Raises:
        Refused: it failed, and why.
    """
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise Refused(f"`{' '.join(command)}` failed:\n{(done.stderr or done.stdout).strip()}")
    return done.stdout


if __name__ == "__main__":
    sys.exit(main())
