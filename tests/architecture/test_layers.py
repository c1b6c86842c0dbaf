"""The layers hold: the import-linter contracts of the root pyproject.toml are kept."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def lint_imports(config: Path) -> subprocess.CompletedProcess[str]:
    program = (
        "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(config_filename=sys.argv[1]))"
    )
    command = [sys.executable, "-c", program, str(config)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_contracts_are_kept():
    """No module imports upward, sideways, or a framework that is another folder's business."""
    done = lint_imports(ROOT / "pyproject.toml")
    assert done.returncode == 0, done.stdout + done.stderr


def test_contracts_can_break(tmp_path: Path):
    """The same tool with a contract that our code cannot keep reports it, so a green run means something."""
    config = tmp_path / "broken.toml"
    config.write_text(
        """
[tool.importlinter]
root_packages = ["openllm_client", "openllm_core"]

[[tool.importlinter.contracts]]
name = "upside down"
type = "layers"
layers = ["openllm_core", "openllm_client"]
""",
        encoding="utf-8",
    )
    done = lint_imports(config)
    assert done.returncode != 0
    assert "upside down BROKEN" in done.stdout
