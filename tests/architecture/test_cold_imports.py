"""Light things stay light: what each import and `--help` loads, read from sys.modules of a fresh interpreter."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

HEAVY = {
    "torch",
    "transformers",
    "bentoml",
    "vllm",
    "grpc",
    "starlette",
    "uvicorn",
    "granian",
    "numpy",
    "tokenizers",
    "jinja2",
}
PROBE = "\nimport json, sys; print('\\n' + json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"


def loaded_by(statement: str) -> set[str]:
    """Top-level names of the modules that a fresh interpreter holds after running `statement`."""
    done = subprocess.run([sys.executable, "-c", statement + PROBE], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize(
    "statement",
    [
        "import openllm",
        "import openllm_core",
        "import openllm_client",
        "import openllm.client; openllm.client.HTTPClient",
        "import openllm.cli",
        "from openllm.cli import main\ntry: main(['--help'])\nexcept SystemExit: pass",
        "from openllm.cli import main\ntry: main(['--version'])\nexcept SystemExit: pass",
    ],
)
def test_imports_no_framework(statement: str):
    """No model framework, web framework or store is loaded before something needs it."""
    assert not loaded_by(statement) & HEAVY


@pytest.mark.parametrize("statement", ["import openllm; openllm.LLM", "import openllm.llm, openllm.testing"])
def test_running_a_model_in_process_needs_no_framework_here(statement: str):
    """`openllm.LLM` talks to an engine host: the caller's process loads no model framework, web server or store."""
    assert not loaded_by(statement) & (HEAVY - {"numpy", "tokenizers", "jinja2"})


def test_import_openllm_loads_no_third_party_package():
    """`import openllm` alone costs its own file: names load on use."""
    bare, ours = loaded_by("pass"), loaded_by("import openllm")
    assert {name for name in ours - bare if name not in sys.stdlib_module_names} == {"openllm"}


def test_core_loads_only_its_dependencies():
    """`import openllm_core` brings attrs, cattrs and orjson at most."""
    bare, ours = loaded_by("pass"), loaded_by("import openllm_core, openllm_core.schema, openllm_core.options")
    third_party = {name for name in ours - bare if name not in sys.stdlib_module_names}
    assert third_party <= {"openllm_core", "attr", "attrs", "cattr", "cattrs", "orjson", "typing_extensions"}


def test_server_process_needs_no_model_framework():
    """Everything the server process imports to serve comes without torch, transformers and bentoml."""
    modules = (
        "openllm.compose, openllm.service, openllm.server.app, openllm.server.run, openllm.engine.engine, openllm.chat"
    )
    assert not loaded_by(f"import {modules}") & {"torch", "transformers", "bentoml", "vllm", "accelerate"}


def test_launch_modules_need_no_framework():
    """A backend's `launch.py` answers in the server process, which has not its framework."""
    modules = "openllm.backends.torch.launch, openllm.backends.echo.launch"
    assert not loaded_by(f"import {modules}") & {"torch", "transformers", "vllm", "accelerate"}
