"""Name of each model family, and of its config class.

Written by tools/gen_family_exports.py from families/data; change those files, not this one.
"""

from __future__ import annotations

CONFIG_MAPPING_NAMES: dict[str, str] = {
    "chatglm": "ChatGLMConfig",
    "dolly_v2": "DollyV2Config",
    "falcon": "FalconConfig",
    "flan_t5": "FlanT5Config",
    "gpt_neox": "GPTNeoXConfig",
    "llama": "LlamaConfig",
    "mpt": "MPTConfig",
    "opt": "OPTConfig",
    "stablelm": "StableLMConfig",
    "starcoder": "StarCoderConfig",
    "baichuan": "BaichuanConfig",
    "deepseek": "DeepSeekConfig",
    "gemma": "GemmaConfig",
    "gpt_oss": "GptOssConfig",
    "llama_chat": "LlamaChatConfig",
    "mistral": "MistralConfig",
    "mixtral": "MixtralConfig",
    "olmo": "OlmoConfig",
    "phi": "PhiConfig",
    "qwen": "QwenConfig",
    "smollm": "SmolLMConfig",
}
