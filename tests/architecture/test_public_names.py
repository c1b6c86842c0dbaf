"""Public names are a promise (.github/SECURITY.md): what stands here stays importable. Adding a name adds a line."""

from __future__ import annotations

import importlib
import inspect

import pytest

PROMISED = {
    "openllm": {
        "LLM",
        "AsyncHTTPClient",
        "AutoLLM",
        "AutoModel",
        "AutoVLLM",
        "Choice",
        "EmbeddingsOutput",
        "Generation",
        "HTTPClient",
        "OpenLLMError",
        "Runner",
        "SamplingParams",
        "__version__",
        "client",
        "errors",
    },
    "openllm.client": {"AsyncHTTPClient", "HTTPClient"},
    "openllm.backends.base": {
        "Backend",
        "BackendInfo",
        "BackendRequest",
        "Capabilities",
        "SequenceDelta",
        "StepOutput",
    },
    "openllm.testing": {"BackendConformance"},
    "openllm_client": {
        "AsyncHTTPClient",
        "AsyncStream",
        "EmbeddingsOutput",
        "GenerationOutput",
        "HTTPClient",
        "Stream",
    },
    "openllm_core": {
        "EmbeddingsOutput",
        "EnvVarMixin",
        "GenerateRequest",
        "GenerateResponse",
        "GenerationConfig",
        "LLMConfig",
        "Metadata",
        "OpenLLMError",
        "SamplingParams",
        "config",
        "errors",
        "exceptions",
        "options",
        "schema",
        "settings",
    },
}
NAMES = [(module, name) for module, names in PROMISED.items() for name in sorted(names)]


@pytest.mark.parametrize(("module", "name"), NAMES)
def test_promised_name_is_there(module: str, name: str):
    """Each promised name imports from where users take it."""
    assert getattr(importlib.import_module(module), name) is not None


@pytest.mark.parametrize("module", [name for name in PROMISED if "." not in name])
def test_all_lists_only_what_is_there(module: str):
    """`__all__` and `dir()` name nothing that fails, and every public class or function has a docstring."""
    package = importlib.import_module(module)
    assert set(package.__all__) <= set(dir(package))
    values = {name: getattr(package, name) for name in package.__all__}
    described = {name: value for name, value in values.items() if inspect.isclass(value) or inspect.isfunction(value)}
    assert [name for name, value in described.items() if not value.__doc__] == []


@pytest.mark.parametrize("module", [name for name in PROMISED if "." not in name])
def test_an_unknown_name_is_an_attribute_error(module: str):
    """Lazy loading does not swallow typing slips."""
    package = importlib.import_module(module)
    with pytest.raises(AttributeError, match="no_such_name"):
        package.no_such_name  # noqa: B018
