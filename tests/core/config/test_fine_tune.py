"""FineTuneConfig and PeftType."""

from __future__ import annotations

import sys
import types
from typing import Any

import pytest

from openllm_core import FalconConfig, FineTuneConfig, FlanT5Config, PeftType
from openllm_core.config.fine_tune import strategies
from openllm_core.errors import FineTuneStrategyNotSupportedError, ForbiddenAttributeError


@pytest.mark.parametrize("text", ["prefix_tuning", "PREFIX-TUNING", " Prefix_Tuning "])
def test_kinds_are_found_in_any_spelling(text: str) -> None:
    """Values are upper case; settings are written in lower case."""
    assert PeftType.get(text) is PeftType.PREFIX_TUNING
    assert PeftType.PREFIX_TUNING.to_str() == "prefix_tuning"
    assert PeftType.PREFIX_TUNING.value == "PREFIX_TUNING"


def test_there_are_seven_kinds() -> None:
    """And no other."""
    kinds = {"lora", "adalora", "adaption_prompt", "prefix_tuning", "p_tuning", "prompt_tuning", "ia3"}
    assert PeftType.supported() == kinds
    for wrong in ("dora", None, 1):
        with pytest.raises(ValueError, match="not a valid"):
            FineTuneConfig(adapter_type=wrong)  # type: ignore[arg-type]


def test_defaults() -> None:
    """LoRA without settings, trainable."""
    config = FineTuneConfig(adapter_config=None)  # type: ignore[arg-type]
    assert (config.adapter_type, config.adapter_config, config.inference_mode) == (PeftType.LORA, {}, False)
    config.adapter_config["r"] = 1
    assert FineTuneConfig().adapter_config == FineTuneConfig(adapter_config=None).adapter_config == {}  # type: ignore[arg-type]


def test_train_and_eval_are_in_place() -> None:
    """And return the configuration."""
    config = FineTuneConfig()
    assert config.eval() is config
    assert config.inference_mode
    assert not config.train().inference_mode


def test_a_copy_merges_settings() -> None:
    """Mappings inside too; the first stays as it was; the class of the configuration is fixed."""
    first = FineTuneConfig(adapter_config={"r": 1, "more": {"a": 1, "b": 2}})
    second = first.with_config(r=2, more={"b": 3}, inference_mode=True, adapter_type="ia3")
    assert second.adapter_config == {"r": 2, "more": {"a": 1, "b": 3}}
    assert (second.adapter_type, second.inference_mode) == (PeftType.IA3, True)
    assert (first.adapter_config["r"], first.adapter_type) == (1, PeftType.LORA)
    with pytest.raises(ForbiddenAttributeError):
        first.with_config(llm_config_class=object)


def test_families_name_their_strategies() -> None:
    """By the kind of adapter, with the task of the family's models."""
    lora = FalconConfig()["lora"]
    assert (lora["r"], lora.adapter_type) == (64, PeftType.LORA)
    assert lora.peft_arguments()["task_type"] == "CAUSAL_LM"
    assert FlanT5Config()["fine_tune_strategies"] == {}
    with pytest.raises(FineTuneStrategyNotSupportedError, match="dora"):
        strategies({"dora": {}}, "causal_lm")


def test_peft_gets_its_own_object(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the user set wins; `peft_type` is dropped."""
    module = types.ModuleType("peft")
    vars(module)["LoraConfig"] = lambda **given: given
    monkeypatch.setitem(sys.modules, "peft", module)
    config = FineTuneConfig(adapter_config={"r": 2, "peft_type": "x", "task_type": "T"}, model_type="seq2seq_lm")
    made: dict[str, Any] = config.to_peft_config()
    assert made == {"r": 2, "task_type": "T", "inference_mode": False}
    assert FineTuneConfig(model_type="seq2seq_lm").peft_arguments()["task_type"] == "SEQ_2_SEQ_LM"
