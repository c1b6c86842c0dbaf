"""Every branch of openllm-core is taken by its own tests; the vocabulary runs nothing, so there is no reason for less."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# They run core in other processes, where nothing is measured.
ELSEWHERE = ("core/typing", "core/test_speed.py", "core/test_reference.py", "core/families/test_adding.py")


@pytest.mark.timeout(600)
def test_every_branch_of_core_is_tested(tmp_path: Path):
    """100 % of lines and branches, with the exclusions of pyproject.toml and no others."""
    report = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["coverage"]["report"]
    excluded = "".join(f"\n    {pattern}" for pattern in report["exclude_also"])
    settings = tmp_path / "coveragerc"
    settings.write_text(
        f"[run]\nbranch = true\nsource_pkgs = openllm_core\nomit = */openllm_core/proto/*\ndata_file = {tmp_path}/data\n"
        f"[report]\nshow_missing = true\nskip_covered = true\nexclude_also = {excluded}\n",
        encoding="utf-8",
    )
    ignored = [f"--ignore=tests/{name}" for name in ELSEWHERE]
    suite = ["-m", "pytest", "-q", "-p", "no:cacheprovider", *ignored, "tests/core"]
    command = [sys.executable, "-m", "coverage"]
    ran = subprocess.run(
        [*command, "run", f"--rcfile={settings}", *suite], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, (ran.stdout + ran.stderr)[-4000:]
    shown = subprocess.run(
        [*command, "report", f"--rcfile={settings}", "--fail-under=100"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert shown.returncode == 0, shown.stdout + shown.stderr
    assert "100%" in shown.stdout, shown.stdout
