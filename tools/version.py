"""The one version of the three packages, worked out from where the source stands.

Hatchling loads this file while it builds any of them (`[tool.hatch.version]`); an sdist carries the answer in its
PKG-INFO and needs this file no more. Must import nothing outside the standard library.

    archive made by `git archive`     the describe line in .git_archival.txt
    clone                             `git describe`
    neither, or no release tag yet    FALLBACK
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FALLBACK = "0.4.0.dev0"
TAG = re.compile(r"v(?P<release>\d+\.\d+\.\d+)(?P<pre>(?:a|b|rc)\d+)?(?:-(?P<distance>\d+)-g[0-9a-f]+)?")


def version(root: Path = ROOT) -> str:
    """Version of the source under `root`, in PEP 440 form."""
    return from_describe(_archived(root) or _described(root))


def from_describe(text: str) -> str:
    """Turn the answer of `git describe --tags` into a version.

    `v0.4.1` -> `0.4.1`; `v0.4.1-3-gabc1234` -> `0.4.2.dev3`; `v0.5.0rc1-2-gabc1234` -> `0.5.0rc1.post2`;
    anything else -> FALLBACK.
    """
    found = TAG.fullmatch(text)
    if found is None:
        return FALLBACK
    release, pre, distance = found["release"], found["pre"] or "", int(found["distance"] or 0)
    if distance == 0:
        return release + pre
    if pre:
        return f"{release}{pre}.post{distance}"
    head, patch = release.rsplit(".", 1)
    return f"{head}.{int(patch) + 1}.dev{distance}"


def _archived(root: Path) -> str:
    """The describe line that `git archive` wrote; empty in a clone, where the placeholder still stands."""
    try:
        text = (root / ".git_archival.txt").read_text(encoding="utf-8")
    except OSError:
        return ""
    line = next((line for line in text.splitlines() if line.startswith("describe-name:")), "")
    name = line.partition(":")[2].strip()
    return "" if "$Format" in name else name


def _described(root: Path) -> str:
    if not (root / ".git").exists():  # a copy inside some other repository must not take that one's tags
        return ""
    command = ["git", "-C", str(root), "describe", "--tags", "--match", "v[0-9]*"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:  # no git on this machine
        return ""
    return answer.stdout.strip() if answer.returncode == 0 else ""


if __name__ == "__main__":
    print(version())
