"""Strict types are part of the tests. basedpyright is pyright's checker as one wheel: it needs no npm and no system node."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.timeout(420)
def test_types(tmp_path: Path):
    """The three source trees pass in strict mode, with an empty home folder."""
    done = subprocess.run(
        [sys.executable, "-m", "basedpyright", "--project", str(ROOT), "--pythonpath", sys.executable],
        cwd=ROOT,
        env={**os.environ, "HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-20000:] + done.stderr
