"""What type checkers must understand of openllm_core: read by pyright (strict) and mypy, never run."""

from __future__ import annotations

from typing import Any, Literal, assert_type

import openllm_core
from openllm_core import (
    CONFIG_MAPPING,
    AutoConfig,
    CascadingResourceStrategy,
    DollyV2Config,
    EnvVarMixin,
    FamilySpec,
    FineTuneConfig,
    GenerationConfig,
    LLMConfig,
    MPTConfig,
    NvidiaGpuResource,
    OPTConfig,
    PeftType,
    SamplingConfig,
    SamplingParams,
    available_resource_spec,
)
from openllm_core.errors import OpenLLMError, UnknownModel
from openllm_core.families import registry
from openllm_core.options import EngineOptions, ServerOptions, as_data, from_data
from openllm_core.resources.detect import Gpu, Machine, machine, visible_gpus
from openllm_core.settings import read


class TinyConfig(LLMConfig):
    """A user's own config class."""

    __config__ = {  # noqa: RUF012
        "default_id": "me/tiny",
        "model_ids": ["me/tiny"],
        "architecture": "TinyForCausalLM",
    }

    layers: int = LLMConfig.Field(2, ge=1, description="Layers used.")
    style: Literal["plain", "rich"] = "plain"

    class GenerationConfig:
        """Defaults."""

        temperature = 0.2


tiny = TinyConfig(layers=3, temperature=0.5, anything=object())
assert_type(tiny, TinyConfig)
assert_type(tiny.layers, int)
assert_type(tiny.style, Literal["plain", "rich"])
assert_type(tiny.generation_config, GenerationConfig)
assert_type(tiny.generation_config.temperature, float)
assert_type(tiny.sampling_config, SamplingConfig)
assert_type(tiny.extras, dict[str, Any])
assert_type(tiny["layers"], Any)
assert_type(dict(tiny), dict[str, Any])
assert_type(tiny.model_dump(flatten=True), dict[str, Any])
assert_type(tiny.model_dump_json(), bytes)
assert_type(tiny.with_values({"top_k": 1}), TinyConfig)

assert_type(OPTConfig().format_outputs, bool)
assert_type(openllm_core.MPTConfig().max_sequence_length, int)
assert_type(MPTConfig.model_construct_env(top_k=1), MPTConfig)
assert_type(MPTConfig.model_construct_json("{}"), MPTConfig)
assert_type(MPTConfig.model_derivate("NewConfig", default_id="x"), MPTConfig)
assert_type(MPTConfig.model_validate_click(port=1), tuple[MPTConfig, dict[str, Any]])
assert_type(DollyV2Config().sanitize_parameters("x"), tuple[str, dict[str, Any], dict[str, Any]])

assert_type(LLMConfig.for_model("opt", top_k=1), LLMConfig)
assert_type(AutoConfig.for_model("flan-t5"), LLMConfig)
assert_type(AutoConfig.infer_class_from_name("FlanT5"), type[LLMConfig])
assert_type(CONFIG_MAPPING["opt"], type[LLMConfig])

assert_type(FineTuneConfig(adapter_type=PeftType.LORA).train(), FineTuneConfig)
assert_type(SamplingParams.from_generation_config(tiny.generation_config, n=2), SamplingParams)
assert_type(SamplingParams(temperature=0.5).max_tokens, int | None)

assert_type(read(ServerOptions).options.port, int)
assert_type(read(EngineOptions, explicit={"device": "cpu"}).options.max_model_len, int | None)
assert_type(from_data(as_data(EngineOptions())), EngineOptions)
assert_type(EnvVarMixin("opt")["model_id_value"], Any)
assert_type(registry.find("opt"), FamilySpec)
assert_type(registry.get("opt"), FamilySpec | None)
assert_type(registry.find("opt").model_ids, list[str])

assert_type(available_resource_spec(), tuple[str, ...])
assert_type(NvidiaGpuResource.from_system(), list[str])
assert_type(CascadingResourceStrategy.get_worker_env.__name__, str)
assert_type(machine(), Machine)
assert_type(visible_gpus(machine(), "0"), tuple[Gpu, ...])

try:
    registry.find("nope")
except UnknownModel as unknown:
    assert_type(unknown.hint, str | None)
    error: OpenLLMError = unknown
