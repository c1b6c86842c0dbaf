"""OpenLLM: from a model id to an endpoint your client already speaks. Light to import; parts load on use."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from openllm_core import errors
    from openllm_core.config.auto import CONFIG_MAPPING, AutoConfig
    from openllm_core.config.family_names import CONFIG_MAPPING_NAMES
    from openllm_core.config.generation import GenerationConfig
    from openllm_core.config.llm import LLMConfig
    from openllm_core.config.sampling import SamplingParams
    from openllm_core.errors import OpenLLMError
    from openllm_core.schema import EmbeddingsOutput

    from . import client
    from .auto import AutoLLM, AutoModel, AutoVLLM
    from .client import AsyncHTTPClient, HTTPClient
    from .generation import Choice, Generation
    from .llm import LLM
    from .runner import Runner
    from .store import build, import_model, list_models

    __version__: str

__all__ = [
    "CONFIG_MAPPING",
    "CONFIG_MAPPING_NAMES",
    "LLM",
    "AsyncHTTPClient",
    "AutoConfig",
    "AutoLLM",
    "AutoModel",
    "AutoVLLM",
    "Choice",
    "EmbeddingsOutput",
    "Generation",
    "GenerationConfig",
    "HTTPClient",
    "LLMConfig",
    "OpenLLMError",
    "Runner",
    "SamplingParams",
    "__version__",
    "build",
    "client",
    "errors",
    "import_model",
    "list_models",
]

_HOMES = {
    "CONFIG_MAPPING": "openllm_core.config.auto",
    "CONFIG_MAPPING_NAMES": "openllm_core.config.family_names",
    "LLM": "openllm.llm",
    "AsyncHTTPClient": "openllm.client",
    "AutoConfig": "openllm_core.config.auto",
    "AutoLLM": "openllm.auto",
    "AutoModel": "openllm.auto",
    "AutoVLLM": "openllm.auto",
    "Choice": "openllm.generation",
    "EmbeddingsOutput": "openllm_core.schema",
    "Generation": "openllm.generation",
    "GenerationConfig": "openllm_core.config.generation",
    "HTTPClient": "openllm.client",
    "LLMConfig": "openllm_core.config.llm",
    "OpenLLMError": "openllm_core.errors",
    "Runner": "openllm.runner",
    "SamplingParams": "openllm_core.config.sampling",
    "build": "openllm.store",
    "import_model": "openllm.store",
    "list_models": "openllm.store",
}
# <families> written by tools/gen_family_exports.py
if TYPE_CHECKING:
    from openllm_core.config.classes import (
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
_HOMES.update(
    {name: "openllm_core.config.classes" for name in __all__ if name.endswith("Config") and name not in _HOMES}
)
# </families>

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
