"""Builds the wheels and sdists of the three packages with `hatch build --all`, twice, and refuses them if a byte differs.

    python tools/reproducible.py [--output dist]

The second build is of a clone in another folder, with other file times, another umask and another time zone. Run by the
nightly and release workflows, and by `hatch run reproducible`; needs hatch. Must not publish anything.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PINS = ROOT / "constraints" / "release.txt"  # hatchling writes its version into each wheel


def main(arguments: list[str] | None = None) -> int:
    """Build into a folder; returns the exit code: 1 where two builds differ."""
    parser = argparse.ArgumentParser(description="Build wheels and sdists twice; they must be the same.")
    parser.add_argument("--output", type=Path, default=ROOT / "dist")
    output = parser.parse_args(arguments).output.resolve()
    with tempfile.TemporaryDirectory(prefix="openllm-build-") as scratch:
        clone, again = Path(scratch) / "another" / "folder", Path(scratch) / "again"
        subprocess.run(["git", "clone", "--quiet", "--local", "--no-hardlinks", ROOT, clone], check=True)
        once, first = Path(scratch) / "tree", Path(scratch) / "first"
        subprocess.run(["git", "clone", "--quiet", "--local", ROOT, once], check=True)
        build(once, first, umask=0o022, zone="UTC")
        build(clone, again, umask=0o077, zone="Asia/Kathmandu")
        wrong = differences(hashes(first), hashes(again))
        for line in wrong:
            print(f"error: {line}", file=sys.stderr)
        if wrong:
            return 1
        output.mkdir(parents=True, exist_ok=True)
        for name, digest in sorted(hashes(first).items()):
            shutil.copyfile(first / name, output / name)
            print(f"{digest}  {name}")
    return 0


def build(tree: Path, output: Path, *, umask: int, zone: str) -> None:
    """`hatch build --all` in a source tree."""
    output.mkdir()
    for path in tree.rglob("*"):
        if path.is_file() and ".git" not in path.parts:
            path.chmod(0o666 & ~umask | (0o111 & ~umask if path.stat().st_mode & 0o100 else 0))
    subprocess.run(
        [shutil.which("hatch") or "hatch", "--quiet", "build", "--all", str(output)],
        cwd=tree,
        env={**os.environ, "TZ": zone, "PIP_CONSTRAINT": str(PINS), "UV_CONSTRAINT": str(PINS)},
        umask=umask,
        check=True,
    )


def hashes(folder: Path) -> dict[str, str]:
    """File name -> SHA-256, for the files that hatch made."""
    files = (path for path in folder.iterdir() if path.suffix in (".whl", ".gz"))
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def differences(one: dict[str, str], other: dict[str, str]) -> list[str]:
    """What two builds do not share, a line each; a build of nothing is one as well."""
    if not one:
        return ["hatch built nothing."]
    lines = [f"only one of two builds has {name}." for name in sorted(one.keys() ^ other.keys())]
    return lines + [
        f"{name}: two builds differ." for name in sorted(one.keys() & other.keys()) if one[name] != other[name]
    ]


if __name__ == "__main__":
    sys.exit(main())
