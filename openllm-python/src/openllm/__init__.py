"""OpenLLM: from a model id to an endpoint your client already speaks. Light to import; parts load on use."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from openllm_core import errors
    from openllm_core.config.sampling import SamplingParams
    from openllm_core.errors import OpenLLMError

    from . import client
    from .client import AsyncHTTPClient, HTTPClient
    from .llm import LLM, Choice, Generation

    __version__: str

__all__ = [
    "LLM",
    "AsyncHTTPClient",
    "Choice",
    "Generation",
    "HTTPClient",
    "OpenLLMError",
    "SamplingParams",
    "__version__",
    "client",
    "errors",
]

_HOMES = {
    "LLM": "openllm.llm",
    "AsyncHTTPClient": "openllm.client",
    "Choice": "openllm.llm",
    "Generation": "openllm.llm",
    "HTTPClient": "openllm.client",
    "OpenLLMError": "openllm_core.errors",
    "SamplingParams": "openllm_core.config.sampling",
}
_MODULES = {"client": "openllm.client", "errors": "openllm_core.errors"}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        found: Any = version("openllm")
    elif name in _HOMES:
        found = getattr(import_module(_HOMES[name]), name)
    elif name in _MODULES:
        found = import_module(_MODULES[name])
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted(__all__)
