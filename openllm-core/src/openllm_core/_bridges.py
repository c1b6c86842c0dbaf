"""Objects of other libraries, made from our plain data: transformers, vLLM, peft and click.

The one module of core that reaches for packages core does not need; each is imported when an object of it is asked for.
Called by the methods of LLMConfig, SamplingParams and FineTuneConfig that 0.3.5 gave objects to.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

from .errors import MissingDependency

if TYPE_CHECKING:
    from .config.click_options import ClickOption
    from .config.fine_tune import FineTuneConfig
    from .config.llm import LLMConfig
    from .config.sampling import SamplingParams

_PEFT_CLASSES = {
    "LORA": "LoraConfig",
    "ADALORA": "AdaLoraConfig",
    "ADAPTION_PROMPT": "AdaptionPromptConfig",
    "PREFIX_TUNING": "PrefixTuningConfig",
    "P_TUNING": "PromptEncoderConfig",
    "PROMPT_TUNING": "PromptTuningConfig",
    "IA3": "IA3Config",
}


_BACKENDS = {"pt": "openllm.backends.torch", "vllm": "openllm.backends.vllm", "echo": "openllm.backends.echo"}


def _library(name: str, requirement: str) -> Any:
    try:
        return import_module(name)
    except ImportError as error:
        raise MissingDependency(f"{name} cannot be imported: {error}", hint=f"pip install {requirement}") from error


def backend_module(backend: str) -> ModuleType:
    """The package of a backend, by its name: pt, vllm, echo.

    Raises:
        MissingDependency: openllm is not installed.
        KeyError: no such backend.
    """
    return _library(_BACKENDS[backend], "openllm")


def generation_config(config: LLMConfig) -> Any:
    """`transformers.GenerationConfig` of a configuration; it samples unless the temperature is 0.

    Raises:
        MissingDependency: transformers is not installed.
    """
    fields = config.to_generation_config(return_as_dict=True)
    sampled = fields["temperature"] > 0
    if not sampled:
        del fields["temperature"]  # transformers refuses 0
    return _library("transformers", "openllm").GenerationConfig(**fields, do_sample=sampled)


def vllm_sampling_params(params: SamplingParams) -> Any:
    """`vllm.SamplingParams` that sample as ours do.

    Raises:
        MissingDependency: vllm is not installed.
    """
    fields, guide = params.as_dict(), params.guide
    bias = fields.pop("logit_bias")
    del fields["guide"]
    vllm = _library("vllm", '"openllm[vllm]"')
    if guide is not None:
        value: Any = list(guide.value) if isinstance(guide.value, tuple) else guide.value or True
        made = import_module("vllm.sampling_params").StructuredOutputsParams(**{guide.kind: value})
        fields["structured_outputs"] = made
    return vllm.SamplingParams(
        **{**fields, "stop": list(params.stop), "stop_token_ids": list(params.stop_token_ids)},
        logit_bias=bias or None,
    )


def peft_config(config: FineTuneConfig) -> Any:
    """peft's configuration object of a fine-tune strategy.

    Raises:
        MissingDependency: peft is not installed.
    """
    made = getattr(_library("peft", '"openllm[fine-tune]"'), _PEFT_CLASSES[config.adapter_type.value])
    return made(**config.peft_arguments())


def click_decorator(options: Iterable[ClickOption]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """A decorator that gives a click command these options.

    Raises:
        MissingDependency: click is not installed.
    """
    click = _library("click", "openllm")
    types: dict[str, Any] = {"int": click.INT, "float": click.FLOAT, "str": click.STRING, "bool": click.BOOL}
    made = list(options)

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(made):
            facts: dict[str, Any] = {"help": option.help, "envvar": option.env, "show_envvar": True}
            if not option.is_flag:
                plain = types.get(option.type, click.STRING)
                facts["type"] = click.Choice(option.choices) if option.choices else plain
                facts |= {"multiple": option.multiple, "nargs": option.nargs}
            default = None if option.type == "json" else option.default
            function = click.option(option.flag, option.name, default=default, **facts)(function)
        return function

    return decorate
