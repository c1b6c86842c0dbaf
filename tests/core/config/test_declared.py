"""Config classes of one's own: what a subclass of LLMConfig declares, and what its instances do with it."""

from __future__ import annotations

import logging
from typing import Any, Literal

import attrs
import pytest

from openllm_core import LLMConfig
from openllm_core.errors import ForbiddenAttributeError, InvalidSetting, MissingAnnotationAttributeError

FACTS = {"default_id": "me/tiny-1b", "model_ids": ["me/tiny-1b"], "architecture": "TinyForCausalLM"}


class TinyModelConfig(LLMConfig):
    """A family of this test."""

    __config__ = {  # noqa: RUF012 - as users write it
        **FACTS,
        "requirements": ["tiny-kernels"],
        "workers_per_resource": 0.5,
        "fine_tune_strategies": [{"adapter_type": "lora", "r": 4}],
    }

    layers: int = LLMConfig.Field(2, ge=1, le=8, description="Layers used.")
    share: float = 0.5
    names: list[str] = LLMConfig.Field(factory=list)
    style: Literal["plain", "rich"] = "plain"
    note: str | None = None
    even: int = LLMConfig.Field(4, validator=lambda value: _even(value), env="TINY_EVEN")

    class GenerationConfig:
        """Defaults."""

        temperature = 0.2
        max_new_tokens = 7

    class SamplingParams:
        """Defaults."""

        presence_penalty = 0.5


def _even(value: int) -> None:
    if value % 2:
        raise ValueError("it must be even")


def test_defaults_come_from_the_class() -> None:
    """Own fields, generation and sampling; attributes and items agree."""
    config = TinyModelConfig()
    assert (config.layers, config["layers"], config.own["layers"]) == (2, 2, 2)
    assert (config["temperature"], config["max_new_tokens"], config["presence_penalty"]) == (0.2, 7, 0.5)
    assert (config["top_k"], config.note, config.names) == (50, None, [])
    assert (config.sources["temperature"], config.sources["top_k"]) == ("family", "default")
    assert attrs.has(TinyModelConfig)
    assert next(iter(config)) == "layers"


def test_facts_are_items_in_any_spelling() -> None:
    """Names follow the name of the class."""
    config = TinyModelConfig()
    assert (config["model_name"], config["start-name"]) == ("tiny_model", "tiny-model")
    assert (config["default_id"], config["architecture"]) == ("me/tiny-1b", "TinyForCausalLM")
    assert (config["requirements"], config["workers_per_resource"]) == (["tiny-kernels"], 0.5)
    assert config["lora"]["r"] == 4
    assert config["service_name"] == "generated_tiny_model_service.py"
    assert config["env"].model_name == "tiny_model"


def test_own_fields_are_validated() -> None:
    """Type, range, choice and the class's own check; each error names the field."""
    wrong: list[tuple[dict[str, Any], type[Exception]]] = [
        ({"layers": 0}, ValueError),
        ({"layers": 9}, ValueError),
        ({"layers": "2"}, TypeError),
        ({"style": "loud"}, ValueError),
        ({"names": [1]}, TypeError),
        ({"even": 3}, ValueError),
        ({"temperature": 3}, ValueError),
        ({"temperature": "hot"}, TypeError),
    ]
    for values, error in wrong:
        with pytest.raises(error) as caught:
            TinyModelConfig(**values)
        assert isinstance(caught.value, InvalidSetting)
        assert str(caught.value).startswith(next(iter(values)))


def test_values_beat_variables_beat_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    """Own fields too, with the variable they name; read at construction."""
    monkeypatch.setenv("OPENLLM_LAYERS", "3")
    monkeypatch.setenv("TINY_EVEN", "6")
    config = TinyModelConfig()
    assert (config.layers, config.even, config.sources["even"]) == (3, 6, "environment")
    assert TinyModelConfig(layers=4).layers == 4
    monkeypatch.setenv("TINY_EVEN", "5")
    with pytest.raises(InvalidSetting, match=r"TINY_EVEN: even is not valid: it must be even"):
        TinyModelConfig()


def test_each_instance_has_its_own_values() -> None:
    """A list made by a factory is not shared, nor is the generation config."""
    first, second = TinyModelConfig(), TinyModelConfig(temperature=0.9)
    first.names.append("a")
    assert second.names == []
    assert (first.generation_config.temperature, second.generation_config.temperature) == (0.2, 0.9)


def test_the_mapping_has_one_order() -> None:
    """Keys, values, items, dict() and ** agree; None counts as a value; extras come last."""
    config = TinyModelConfig(foo=1, generation_config={"top_k": 3})
    assert list(zip(config.keys(), config.values(), strict=True)) == list(config.items()) == list(dict(config).items())
    assert list({**config}) == list(config)
    assert len(config) == 6 + 40 + 8 + 1
    assert list(config)[-1] == "foo"


def test_the_class_of_a_family_can_be_extended() -> None:
    """A subclass without facts of its own keeps the family's, and adds fields."""
    from openllm_core import OPTConfig

    class WideOPTConfig(OPTConfig):
        width: int = 3

    config = WideOPTConfig(format_outputs=True)
    assert (config["default_id"], config.width, config.format_outputs) == ("facebook/opt-1.3b", 3, True)
    assert list(config.own) == ["format_outputs", "width"]

    class OtherConfig(OPTConfig):
        __config__ = FACTS

    assert OtherConfig()["default_id"] == "me/tiny-1b"


@pytest.mark.parametrize(
    ("body", "error", "says"),
    [
        ({}, RuntimeError, "needs a dict __config__"),
        ({"__config__": {"default_id": "x"}}, ValueError, "^Missing required fields: model_ids, architecture"),
        ({"__config__": {**FACTS, "nope": 1}}, TypeError, "nope"),
        ({"__config__": {**FACTS, "timeout": "x"}}, TypeError, "timeout"),
        ({"__config__": {**FACTS, "generation_class": 1}}, ValueError, "inner class GenerationConfig"),
        ({"__config__": {**FACTS, "fine_tune_strategies": [{"r": 1}]}}, TypeError, "adapter_type"),
        ({"__config__": FACTS, "GenerationConfig": type("G", (), {"nope": 1})}, TypeError, "nope"),
        ({"__config__": FACTS, "SamplingParams": type("S", (), {"n": 0})}, TypeError, "n must be"),
        ({"__config__": FACTS, "x": LLMConfig.Field(1)}, MissingAnnotationAttributeError, "x"),
        ({"__config__": FACTS, "__annotations__": {"top_k": int}}, TypeError, "inner class GenerationConfig"),
        ({"__config__": FACTS, "__annotations__": {"n": int}}, TypeError, "inner class SamplingParams"),
        ({"__config__": FACTS, "__annotations__": {"timeout": int}}, TypeError, "something of that name"),
        ({"__config__": FACTS, "__annotations__": {"keys": int}}, TypeError, "something of that name"),
    ],
)
def test_a_wrong_declaration_is_refused_with_the_class(body: dict[str, Any], error: type[Exception], says: str) -> None:
    """When the class is made, not when it is first used."""
    with pytest.raises(error, match=says):
        type("WrongConfig", (LLMConfig,), body)


def test_a_field_has_a_default_or_a_factory() -> None:
    """Not both."""
    with pytest.raises(RuntimeError, match="not both"):
        LLMConfig.Field(1, factory=list)


def test_an_odd_class_name_is_mended(caplog: pytest.LogCaptureFixture) -> None:
    """With a warning."""
    with caplog.at_level(logging.WARNING, "openllm"):
        made = type("Odd", (LLMConfig,), {"__config__": FACTS, "__annotations__": {"__config__": dict}})
    assert made.__name__ == "OddConfig"
    assert "OddConfig" in caplog.text
    assert made()["model_name"] == "odd"


@pytest.mark.parametrize(
    ("class_name", "facts", "names"),
    [
        ("MyCoolLLMConfig", {}, ("my_cool_llm", "my-cool-llm")),
        ("MyCoolLLMConfig", {"name_type": "lowercase"}, ("mycoolllm", "mycoolllm")),
        ("MyConfig", {"model_name": "a_b", "start_name": "a-b"}, ("a_b", "a-b")),
        ("MyConfig", {"model_name": "a_b"}, ("my", "my")),
        ("MyConfig", {"name_type": None}, ("my", "my")),
    ],
)
def test_names_follow_the_class(class_name: str, facts: dict[str, Any], names: tuple[str, str]) -> None:
    """Unless both are given."""
    config = type(class_name, (LLMConfig,), {"__config__": FACTS | facts})()
    assert (config["model_name"], config["start_name"]) == names


def test_reserved_names_are_refused() -> None:
    """Reading and setting; other attributes are missing, or frozen."""
    config = TinyModelConfig()
    for name in ("__config__", "GenerationConfig", "SamplingParams"):
        with pytest.raises(ForbiddenAttributeError):
            getattr(config, name)
        with pytest.raises(ForbiddenAttributeError):
            setattr(config, name, 1)
    with pytest.raises(AttributeError, match="no attribute 'nope'"):
        config.nope  # type: ignore[attr-defined]  # noqa: B018
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        config.layers = 3


def test_the_base_class_is_not_made() -> None:
    """It has no facts."""
    with pytest.raises(TypeError, match="for_model"):
        LLMConfig()
