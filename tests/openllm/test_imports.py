"""`import openllm` is light, and its names are there."""

from __future__ import annotations

import subprocess
import sys

import pytest

import openllm

HEAVY = {"torch", "transformers", "bentoml", "vllm", "httpx", "starlette", "uvicorn", "tokenizers", "prometheus_client"}


def loaded_by(code: str) -> set[str]:
    """Top-level modules in a fresh interpreter after running `code`."""
    script = f"{code}\nimport sys\nprint(*{{name.partition('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    return set(done.stdout.split())


def test_importing_loads_next_to_nothing() -> None:
    """The package alone brings none of the frameworks."""
    assert not loaded_by("import openllm") & HEAVY


def test_the_version_needs_no_parts() -> None:
    """__version__ is known without loading anything else."""
    assert not loaded_by("import openllm; openllm.__version__") & HEAVY
    assert openllm.__version__


def test_the_client_comes_without_the_runtime() -> None:
    """openllm.client.HTTPClient works from a plain import and brings httpx but no model code."""
    loaded = loaded_by("import openllm; openllm.client.HTTPClient")
    assert "httpx" in loaded
    assert not loaded & {"torch", "transformers", "bentoml", "tokenizers", "starlette"}


def test_the_engine_needs_no_framework() -> None:
    """LLM, engine and tokenizer, and a running echo model, load neither torch nor transformers."""
    code = "import openllm; openllm.LLM(backend='echo', embedded=True).generate('x')"
    assert not loaded_by(code) & {"torch", "transformers", "bentoml", "vllm", "starlette"}


@pytest.mark.parametrize("name", openllm.__all__)
def test_every_public_name_is_there(name: str) -> None:
    """What __all__ promises can be had."""
    assert getattr(openllm, name) is not None


def test_unknown_names_are_refused() -> None:
    """A name that is not there is an AttributeError, as for any module."""
    with pytest.raises(AttributeError, match="nonsense"):
        _ = openllm.nonsense
    assert set(dir(openllm)) == set(openllm.__all__)
