"""The vocabulary of OpenLLM: values, settings and model facts. Runs nothing; importable by any tool.

Names below load on first use, so that importing the package alone costs next to nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from . import config, errors, exceptions, families, fields, options, prompts, resources, schema, serde, settings
    from .config.env import EnvVarMixin
    from .config.generation import GenerationConfig, SamplingConfig
    from .config.llm import LLMConfig
    from .config.sampling import SamplingParams
    from .errors import OpenLLMError
    from .families.spec import FamilySpec
    from .schema import GenerateRequest, GenerateResponse, Metadata

__all__ = [
    "EnvVarMixin",
    "FamilySpec",
    "GenerateRequest",
    "GenerateResponse",
    "GenerationConfig",
    "LLMConfig",
    "Metadata",
    "OpenLLMError",
    "SamplingConfig",
    "SamplingParams",
    "config",
    "errors",
    "exceptions",
    "families",
    "fields",
    "options",
    "prompts",
    "resources",
    "schema",
    "serde",
    "settings",
]

_HOME = {
    "EnvVarMixin": "config.env",
    "FamilySpec": "families.spec",
    "GenerateRequest": "schema",
    "GenerateResponse": "schema",
    "GenerationConfig": "config.generation",
    "LLMConfig": "config.llm",
    "Metadata": "schema",
    "OpenLLMError": "errors",
    "SamplingConfig": "config.generation",
    "SamplingParams": "config.sampling",
}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f".{_HOME[name]}", __name__), name)
    if name in __all__:
        return import_module(f".{name}", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
