"""Names that we hold about vLLM without importing it agree with the vLLM that is installed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from vllm.config.quantization import _ONLINE_SHORTHANDS
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.model_executor.layers.quantization import QUANTIZATION_METHODS
from vllm.model_executor.models import ModelRegistry
from vllm.model_executor.models.interfaces import supports_lora

import openllm
import openllm_core
from openllm.backends.vllm import architectures, source
from openllm_core.families import registry as families
from openllm_core.families.spec import FamilySpec


@pytest.mark.parametrize("family", families.built_in(), ids=lambda family: family.name)
def test_each_familys_backends(family: FamilySpec) -> None:
    """vllm is named exactly where its registry has one of the family's architectures."""
    have = [name for name in family.architectures if name in ModelRegistry.get_supported_archs()]
    assert ("vllm" in family.backends) == bool(have), have


def test_lists_that_are_read_from_its_source() -> None:
    """Engine arguments and methods of quantisation are those that it has once it is imported."""
    assert source.engine_arguments() == set(AsyncEngineArgs.__dataclass_fields__)
    assert source.quantisation_methods() == set(QUANTIZATION_METHODS)


@pytest.mark.parametrize(
    "architecture",
    ["LlamaForCausalLM", "MistralForCausalLM", "GPTNeoXForCausalLM", "OPTForCausalLM", "FalconForCausalLM"],
)
def test_which_classes_take_adapters(architecture: str) -> None:
    """What the source tells of a class's ancestors is what the class says of itself."""
    assert architectures.takes_adapters(architecture) == supports_lora(
        ModelRegistry.models[architecture].load_model_cls()
    )


def test_methods_that_hints_name_quantise_while_loading() -> None:
    """A `--quantization X` in a hint or a help text is a method that needs nothing but the weights, and is not deprecated."""
    files = [file for package in (openllm, openllm_core) for file in Path(str(package.__file__)).parent.rglob("*.py")]
    pattern = re.compile(r"own --quantization (\w+)|of its own, as (\w+) while")
    named = [pair for file in files for pair in pattern.findall(file.read_text(encoding="utf-8"))]
    methods = {name for pair in named for name in pair if name}
    assert "fp8_per_channel" in methods
    assert methods <= set(_ONLINE_SHORTHANDS)
