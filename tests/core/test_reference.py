"""The reference pages follow the declarations."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_the_reference_is_fresh() -> None:
    """`python3 tools/gen_reference.py` would change nothing."""
    command = [sys.executable, str(ROOT / "tools/gen_reference.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_setting_and_family_is_there() -> None:
    """By name; what the program resolves itself is not."""
    settings = (ROOT / "docs/reference/settings.md").read_text(encoding="utf-8")
    models = (ROOT / "docs/reference/models.md").read_text(encoding="utf-8")
    for text in ("`--max-model-len`", "`OPENLLM_PORT`", "`OPENLLM_GENERATION_TOP_K`", "`OPENLLM_SAMPLING_STOP`"):
        assert text in settings
    assert "`model_path`" not in settings
    assert models.count("\n## ") == len(list((ROOT / "openllm-core/src/openllm_core/families/data").glob("*.toml")))
