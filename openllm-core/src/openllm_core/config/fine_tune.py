"""FineTuneConfig and PeftType: how a family's models are fine-tuned with adapters, as data.

Read from a family's `fine_tune` table or a config class's `fine_tune_strategies`; `openllm.finetune` makes a peft
configuration of it. Knows nothing of torch or peft (`to_peft_config` goes through `_bridges.py`).
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Any, cast

import attrs

from ..errors import FineTuneStrategyNotSupportedError, ForbiddenAttributeError


class PeftType(enum.StrEnum):
    """Kinds of adapter. Looked up in any spelling: `PeftType("prefix-tuning")`."""

    LORA = "LORA"
    ADALORA = "ADALORA"
    ADAPTION_PROMPT = "ADAPTION_PROMPT"
    PREFIX_TUNING = "PREFIX_TUNING"
    P_TUNING = "P_TUNING"
    PROMPT_TUNING = "PROMPT_TUNING"
    IA3 = "IA3"

    @classmethod
    def _missing_(cls, value: object) -> PeftType | None:
        if isinstance(value, str):
            return cls.__members__.get(value.strip().replace("-", "_").upper())
        return None

    @classmethod
    def supported(cls) -> frozenset[str]:
        """Names of all kinds, as written in settings."""
        return frozenset(kind.to_str() for kind in cls)

    @classmethod
    def get(cls, value: str | PeftType) -> PeftType:
        """As `PeftType(value)`.

        Raises:
            ValueError: no such kind.
        """
        return cls(value)

    def to_str(self) -> str:
        """The kind as written in settings (`lora`)."""
        return self.value.lower()


def _settings(given: Mapping[str, Any] | None) -> dict[str, Any]:
    return dict(given or {})


@attrs.define(kw_only=True)
class FineTuneConfig:
    """Settings of one kind of adapter.

    Attributes:
        adapter_type: the kind; any spelling is taken.
        adapter_config: arguments of peft's configuration class of that kind.
        inference_mode: whether the adapter is frozen.
        model_type: `causal_lm` or `seq2seq_lm`; decides peft's task type.

    Raises:
        ValueError: no such kind.
    """

    adapter_type: PeftType = attrs.field(default=PeftType.LORA, converter=PeftType)
    adapter_config: dict[str, Any] = attrs.field(factory=dict[str, Any], converter=_settings)
    inference_mode: bool = False
    model_type: str = "causal_lm"

    def __getitem__(self, name: str) -> Any:
        """One setting of the adapter."""
        return self.adapter_config[name]

    def train(self) -> FineTuneConfig:
        """Make the adapter trainable, in place."""
        self.inference_mode = False
        return self

    def eval(self) -> FineTuneConfig:
        """Freeze the adapter, in place."""
        self.inference_mode = True
        return self

    def with_config(self, **settings: Any) -> FineTuneConfig:
        """A copy with other adapter settings; mappings inside are merged.

        Raises:
            ForbiddenAttributeError: `llm_config_class` cannot be changed.
        """
        if "llm_config_class" in settings:
            raise ForbiddenAttributeError("llm_config_class cannot be changed.", param="llm_config_class")
        known = {name: settings.pop(name) for name in ("adapter_type", "inference_mode") if name in settings}
        return attrs.evolve(self, adapter_config=_merged(self.adapter_config, settings), **known)

    def peft_arguments(self) -> dict[str, Any]:
        """Keyword arguments of peft's configuration class: settings of the user win, `peft_type` is dropped."""
        given = {name: value for name, value in self.adapter_config.items() if name != "peft_type"}
        return {"task_type": peft_task_type(self.model_type), "inference_mode": self.inference_mode} | given

    def to_peft_config(self) -> Any:
        """The `peft` configuration object.

        Raises:
            MissingDependency: peft is not installed.
        """
        from .. import _bridges

        return _bridges.peft_config(self)


def peft_task_type(model_type: str) -> str:
    """peft's name of the task a kind of model is trained for."""
    return "SEQ_2_SEQ_LM" if model_type == "seq2seq_lm" else "CAUSAL_LM"


def strategies(table: Mapping[str, Mapping[str, Any]], model_type: str) -> dict[str, FineTuneConfig]:
    """Fine-tune strategies of a family: adapter type -> FineTuneConfig.

    Raises:
        FineTuneStrategyNotSupportedError: a kind of adapter nobody knows.
    """
    found: dict[str, FineTuneConfig] = {}
    for name, settings in table.items():
        try:
            kind = PeftType(name)
        except ValueError:
            known = ", ".join(sorted(PeftType.supported()))
            raise FineTuneStrategyNotSupportedError(f"{name[:80]!r} is no adapter type; there are: {known}.") from None
        found[kind.to_str()] = FineTuneConfig(adapter_type=kind, adapter_config=dict(settings), model_type=model_type)
    return found


def _merged(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(first)
    for name, value in second.items():
        before = merged.get(name)
        if isinstance(before, Mapping) and isinstance(value, Mapping):
            value = _merged(cast("Mapping[str, Any]", before), cast("Mapping[str, Any]", value))
        merged[name] = value
    return merged
