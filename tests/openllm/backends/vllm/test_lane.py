"""Runs the tests in `engine/` where vLLM is installed: one child pytest, in the environment an engine host would have."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

import pytest

ENGINE = Path(__file__).parent / "engine"
ENVIRONMENT = """
import json
from openllm.backends.vllm import launch
from openllm_core.options import EngineOptions
print(json.dumps(launch.environment(EngineOptions(device="cpu"))))
"""


@pytest.mark.timeout(600)
def test_engine_tests(vllm_python: str, store: dict[str, str], tmp_path: Path) -> None:
    """Conformance of six models, sampling, guides and refusals: all pass, and none is skipped."""
    weights = sorted(Path(store["BENTOML_HOME"]).glob("models/*/*/model.safetensors"))
    found = subprocess.run([vllm_python, "-c", ENVIRONMENT], capture_output=True, text=True, check=True, timeout=60)
    environ = os.environ | json.loads(found.stdout) | {"OPENLLM_TEST_MODEL": str(weights[0].parent)}
    done = subprocess.run(
        [vllm_python, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--basetemp={tmp_path / 'tests'}", str(ENGINE)],
        env=environ,
        capture_output=True,
        text=True,
        check=False,
        timeout=590,
    )
    summary = done.stdout.strip().splitlines()[-1] if done.stdout.strip() else done.stderr[-2000:]
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert int((re.search(r"(\d+) passed", summary) or [0, 0])[1]) >= 100, summary
    assert "skipped" not in summary, summary
