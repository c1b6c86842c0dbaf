"""Runs the tests in `engine/` where vLLM is installed: one child pytest, in the environment an engine host would have."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

import pytest
from tests.tiny_models import tiny_checkpoint

ENGINE = Path(__file__).parent / "engine"
ENVIRONMENT = """
import json
from openllm.backends.vllm import launch
from openllm_core.options import EngineOptions
print(json.dumps(launch.environment(EngineOptions(device="cpu"))))
"""


@pytest.mark.timeout(600)
def test_engine_tests(vllm_python: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """Conformance of five tiny models, sampling, guides and refusals: all pass, and none is skipped.

    With OPENLLM_TEST_CONFORMANCE set (`hatch run full`) the default model conforms, too.
    """
    model: dict[str, str] = {}
    if os.environ.get("OPENLLM_TEST_CONFORMANCE"):
        home = Path(request.getfixturevalue("store")["BENTOML_HOME"])
        (weights,) = home.glob("models/pt-*smollm2*/*/model.safetensors")
        model["OPENLLM_TEST_MODEL"] = str(weights.parent)
    found = subprocess.run([vllm_python, "-c", ENVIRONMENT], capture_output=True, text=True, check=True, timeout=60)
    environ = os.environ | json.loads(found.stdout) | model
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


LOAD = """
import os
from openllm.backends.vllm.backend import VllmBackend
from openllm_core.options import EngineOptions
VllmBackend.load(EngineOptions(model_path=os.environ["FOLDER"], device="cpu", max_model_len=64), lambda *_: None)
os._exit(0)
"""


@pytest.mark.timeout(560)
def test_a_compiled_model_is_found_at_the_next_start(vllm_python: str, tmp_path: Path) -> None:
    """The first start fills the cache; the second adds no library to it, which is where the time of a compilation goes."""
    folder = tiny_checkpoint("llama", tmp_path, wide=True)
    variables = os.environ | {"OPENLLM_HOME": str(tmp_path / "home"), "FOLDER": str(folder)}
    for name in ("TORCHINDUCTOR_CACHE_DIR", "VLLM_CACHE_ROOT"):
        variables.pop(name, None)

    def start() -> set[str]:
        found = subprocess.run(
            [vllm_python, "-c", ENVIRONMENT], env=variables, capture_output=True, text=True, check=True
        )
        environ = variables | json.loads(found.stdout)
        subprocess.run([vllm_python, "-c", LOAD], env=environ, capture_output=True, text=True, check=True, timeout=240)
        return {str(file.relative_to(tmp_path)) for file in (tmp_path / "home").rglob("*.so")}

    first = start()
    assert first
    assert start() == first
