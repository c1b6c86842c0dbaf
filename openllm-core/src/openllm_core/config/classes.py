"""The config class of each model family.

Written by tools/gen_family_exports.py from families/data; change those files, not this one.
"""

from __future__ import annotations

from .llm import LLMConfig


class ChatGLMConfig(LLMConfig, family="chatglm"):
    """Configuration of chatglm models such as thudm/chatglm-6b."""

    retain_history: bool
    use_half_precision: bool


class DollyV2Config(LLMConfig, family="dolly-v2"):
    """Configuration of dolly-v2 models such as databricks/dolly-v2-3b."""

    return_full_text: bool


class FalconConfig(LLMConfig, family="falcon"):
    """Configuration of falcon models such as tiiuae/falcon-7b."""


class FlanT5Config(LLMConfig, family="flan-t5"):
    """Configuration of flan-t5 models such as google/flan-t5-large."""


class GPTNeoXConfig(LLMConfig, family="gpt-neox"):
    """Configuration of gpt-neox models such as eleutherai/gpt-neox-20b."""

    use_half_precision: bool


class LlamaConfig(LLMConfig, family="llama"):
    """Configuration of llama models such as NousResearch/llama-2-7b-hf."""

    use_llama2_prompt: bool


class MPTConfig(LLMConfig, family="mpt"):
    """Configuration of mpt models such as mosaicml/mpt-7b-instruct."""

    prompt_type: str
    max_sequence_length: int


class OPTConfig(LLMConfig, family="opt"):
    """Configuration of opt models such as facebook/opt-1.3b."""

    format_outputs: bool


class StableLMConfig(LLMConfig, family="stablelm"):
    """Configuration of stablelm models such as stabilityai/stablelm-tuned-alpha-3b."""


class StarCoderConfig(LLMConfig, family="starcoder"):
    """Configuration of starcoder models such as bigcode/starcoder."""


class BaichuanConfig(LLMConfig, family="baichuan"):
    """Configuration of baichuan models such as baichuan-inc/baichuan-7b."""


class DeepSeekConfig(LLMConfig, family="deepseek"):
    """Configuration of deepseek models such as deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B."""

    use_llama2_prompt: bool


class GemmaConfig(LLMConfig, family="gemma"):
    """Configuration of gemma models such as google/gemma-3-1b-it."""

    use_llama2_prompt: bool


class GptOssConfig(LLMConfig, family="gpt-oss"):
    """Configuration of gpt-oss models such as openai/gpt-oss-20b."""

    use_llama2_prompt: bool


class LlamaChatConfig(LLMConfig, family="llama-chat"):
    """Configuration of llama-chat models such as meta-llama/Llama-3.2-1B-Instruct."""

    use_llama2_prompt: bool


class MistralConfig(LLMConfig, family="mistral"):
    """Configuration of mistral models such as mistralai/Mistral-7B-Instruct-v0.3."""

    use_llama2_prompt: bool


class MixtralConfig(LLMConfig, family="mixtral"):
    """Configuration of mixtral models such as mistralai/Mixtral-8x7B-Instruct-v0.1."""

    use_llama2_prompt: bool


class OlmoConfig(LLMConfig, family="olmo"):
    """Configuration of olmo models such as allenai/OLMo-2-0425-1B-Instruct."""

    use_llama2_prompt: bool


class PhiConfig(LLMConfig, family="phi"):
    """Configuration of phi models such as microsoft/Phi-4-mini-instruct."""

    use_llama2_prompt: bool


class QwenConfig(LLMConfig, family="qwen"):
    """Configuration of qwen models such as Qwen/Qwen2.5-0.5B-Instruct."""

    use_llama2_prompt: bool


class SmolLMConfig(LLMConfig, family="smollm"):
    """Configuration of smollm models such as HuggingFaceTB/SmolLM2-135M-Instruct."""

    use_llama2_prompt: bool
