"""What the recipes are run with: packages of other projects in an environment of their own, and one scripted server."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.e2e.conftest import ServerProcess, openllm_start

ROOT = Path(__file__).resolve().parents[2]
REPLY = "It is sunny in Paris."
CALL = 'weather({"city": "Paris"})'


@pytest.fixture(scope="session")
def recipes_bin() -> Path:
    """Programs of `.venv-recipes`, which `python3 tools/dev.py test` makes where a package index can be reached.

    Without it the recipes are skipped, and fail where CI is set.
    """
    folder = ROOT / ".venv-recipes"
    if not (folder / ".installed").exists():
        message = "there is no .venv-recipes; python3 tools/dev.py test makes it"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    return folder / "bin"


@pytest.fixture(scope="module")
def scripted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server for all recipes: it calls a tool where there is one, and says what the weather is."""
    folder = tmp_path_factory.mktemp("scripted")
    said = (f"reply={REPLY}", f"call={CALL}", "max_model_len=65536")  # agents tell a model much before the task
    script = [word for one in said for word in ("--engine-arg", one)]
    environ = {"BENTOML_HOME": str(folder / "bentoml")}
    words = ("--backend", "echo", "--served-model-name", "my-model", *script)
    with openllm_start(folder / "log.txt", *words, environ=environ) as running:
        yield running
