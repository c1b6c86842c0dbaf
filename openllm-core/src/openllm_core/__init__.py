"""The vocabulary of OpenLLM: values, settings and model facts. Runs nothing; importable by any tool.

Names below load on first use, so that importing the package alone costs next to nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from . import config, errors, exceptions, families, fields, options, prompts, resources, schema, serde, settings
    from .config.auto import CONFIG_MAPPING, AutoConfig
    from .config.env import EnvVarMixin
    from .config.family_names import CONFIG_MAPPING_NAMES
    from .config.fine_tune import FineTuneConfig, PeftType
    from .config.generation import GenerationConfig, SamplingConfig
    from .config.llm import LLMConfig
    from .config.sampling import SamplingParams
    from .errors import OpenLLMError
    from .families.spec import FamilySpec
    from .resources.gpus import AmdGpuResource, NvidiaGpuResource
    from .resources.strategy import (
        CascadingResourceStrategy,
        LiteralResourceSpec,
        available_resource_spec,
        get_resource,
    )
    from .schema import EmbeddingsOutput, GenerateRequest, GenerateResponse, Metadata

__all__ = [
    "CONFIG_MAPPING",
    "CONFIG_MAPPING_NAMES",
    "AmdGpuResource",
    "AutoConfig",
    "CascadingResourceStrategy",
    "EmbeddingsOutput",
    "EnvVarMixin",
    "FamilySpec",
    "FineTuneConfig",
    "GenerateRequest",
    "GenerateResponse",
    "GenerationConfig",
    "LLMConfig",
    "LiteralResourceSpec",
    "Metadata",
    "NvidiaGpuResource",
    "OpenLLMError",
    "PeftType",
    "SamplingConfig",
    "SamplingParams",
    "available_resource_spec",
    "config",
    "errors",
    "exceptions",
    "families",
    "fields",
    "get_resource",
    "options",
    "prompts",
    "resources",
    "schema",
    "serde",
    "settings",
]

_HOME = {
    "AmdGpuResource": "resources.gpus",
    "NvidiaGpuResource": "resources.gpus",
    "CascadingResourceStrategy": "resources.strategy",
    "LiteralResourceSpec": "resources.strategy",
    "available_resource_spec": "resources.strategy",
    "get_resource": "resources.strategy",
    "CONFIG_MAPPING": "config.auto",
    "CONFIG_MAPPING_NAMES": "config.family_names",
    "AutoConfig": "config.auto",
    "EmbeddingsOutput": "schema",
    "EnvVarMixin": "config.env",
    "FamilySpec": "families.spec",
    "FineTuneConfig": "config.fine_tune",
    "GenerateRequest": "schema",
    "GenerateResponse": "schema",
    "GenerationConfig": "config.generation",
    "LLMConfig": "config.llm",
    "Metadata": "schema",
    "OpenLLMError": "errors",
    "PeftType": "config.fine_tune",
    "SamplingConfig": "config.generation",
    "SamplingParams": "config.sampling",
}

# <families> written by tools/gen_family_exports.py
if TYPE_CHECKING:
    from .config.classes import (
        BaichuanConfig,
        ChatGLMConfig,
        DeepSeekConfig,
        DollyV2Config,
        FalconConfig,
        FlanT5Config,
        GemmaConfig,
        GPTNeoXConfig,
        GptOssConfig,
        LlamaChatConfig,
        LlamaConfig,
        MistralConfig,
        MixtralConfig,
        MPTConfig,
        OlmoConfig,
        OPTConfig,
        PhiConfig,
        QwenConfig,
        SmolLMConfig,
        StableLMConfig,
        StarCoderConfig,
    )

__all__ += [
    "BaichuanConfig",
    "ChatGLMConfig",
    "DeepSeekConfig",
    "DollyV2Config",
    "FalconConfig",
    "FlanT5Config",
    "GPTNeoXConfig",
    "GemmaConfig",
    "GptOssConfig",
    "LlamaChatConfig",
    "LlamaConfig",
    "MPTConfig",
    "MistralConfig",
    "MixtralConfig",
    "OPTConfig",
    "OlmoConfig",
    "PhiConfig",
    "QwenConfig",
    "SmolLMConfig",
    "StableLMConfig",
    "StarCoderConfig",
]
_HOME.update({name: "config.classes" for name in __all__ if name.endswith("Config") and name not in _HOME})
# </families>

# Names of 0.3.5 -> what the class of the same fields is called now.
_RENAMED = {
    "GenerationInput": "GenerateRequest",
    "GenerationOutput": "GenerateResponse",
    "MetadataOutput": "Metadata",
}


def __getattr__(name: str) -> Any:
    if name in _RENAMED:
        import warnings

        warnings.warn(f"{name} is called {_RENAMED[name]}.", DeprecationWarning, stacklevel=2)
        return __getattr__(_RENAMED[name])
    if name == "ModelEnv":  # a name of 0.3.4, which warns
        return import_module(".config.env", __name__).ModelEnv
    if name.startswith("START_") and name.endswith("_COMMAND_DOCSTRING"):
        found = import_module(".families.registry", __name__).get(name[len("START_") : -len("_COMMAND_DOCSTRING")])
        if found is not None:
            return found.start_docstring
    if name in _HOME:
        return getattr(import_module(f".{_HOME[name]}", __name__), name)
    if name in __all__:
        return import_module(f".{name}", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
