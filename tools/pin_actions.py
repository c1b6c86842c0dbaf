"""Pins the actions of the workflows: `uses: owner/name@v1` becomes the commit that v1 is now, with the tag behind it.

    python tools/pin_actions.py [--check]      --check changes nothing and fails where one is not pinned

A tag can be moved by whoever holds its repository, a commit cannot. Needs git and the network; dependabot keeps pinned
actions up to date afterwards. Must change nothing else in a workflow.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
HOST = "https://github.com"
USES = re.compile(r"(?P<head>\buses: )(?P<action>[\w.-]+/[\w.-]+)(?P<path>[\w./-]*)@(?P<ref>\S+)(?P<tail>[^\n]*)")
COMMIT = re.compile(r"[0-9a-f]{40}")


def main(arguments: list[str] | None = None) -> int:
    """Pin, or check; returns the exit code."""
    parser = argparse.ArgumentParser(description="Pin the actions of the workflows to commits.")
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--folder", type=Path, default=ROOT / ".github" / "workflows")
    parser.add_argument("--host", default=HOST)
    asked = parser.parse_args(arguments)
    known: dict[tuple[str, str], str] = {}
    loose = 0
    for file in sorted(asked.folder.glob("*.yml")):
        text = file.read_text(encoding="utf-8")
        for found in [match for match in USES.finditer(text) if not COMMIT.fullmatch(match["ref"])]:
            loose += 1
            action, ref = found["action"], found["ref"]
            if asked.check:
                print(f"{file.name}: {action}{found['path']}@{ref}")
                continue
            commit = known.get((action, ref)) or commit_of(f"{asked.host}/{action}", ref)
            if commit is None:
                print(f"error: {asked.host}/{action} has no {ref}", file=sys.stderr)
                return 1
            known[action, ref] = commit
            text = text.replace(found[0], f"{found['head']}{action}{found['path']}@{commit} # {ref}")
        if not asked.check:
            file.write_text(text, encoding="utf-8")
    return 1 if asked.check and loose else 0


def commit_of(repository: str, ref: str) -> str | None:
    """The commit that a tag (an annotated one too) or else a branch of a repository is now; None where there is neither."""
    names = [f"refs/tags/{ref}^{{}}", f"refs/tags/{ref}", f"refs/heads/{ref}"]
    done = subprocess.run(["git", "ls-remote", repository, *names], capture_output=True, text=True, check=False)
    listed = {name: commit for commit, _, name in (line.partition("\t") for line in done.stdout.splitlines())}
    return next((listed[name] for name in names if name in listed), None)


if __name__ == "__main__":
    sys.exit(main())
