"""LLMConfig: a family's values, where each came from, and the shape clients of 0.3.5 know."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from openllm_core.config.env import EnvVarMixin
from openllm_core.config.llm import LLMConfig
from openllm_core.errors import ForbiddenAttributeError, InvalidSetting, UnknownModel
from openllm_core.families import registry

V035 = json.loads((Path(__file__).parents[1] / "data" / "v035.json").read_text())


@pytest.mark.parametrize("name", V035["default_model_dump"])
def test_the_eleven_dump_as_in_0_3_5(name: str) -> None:
    """Same keys, same values, nested form."""
    dumped = LLMConfig.for_model(name, environ={}).model_dump()
    assert json.loads(json.dumps(dumped)) == V035["default_model_dump"][name]


@pytest.mark.parametrize("family", registry.all(), ids=lambda family: family.name)
def test_every_family_has_a_valid_configuration(family: Any) -> None:
    """It is made, dumped in both forms, and its keys, values and items line up."""
    config = LLMConfig.for_model(family, environ={})
    assert json.loads(config.model_dump_json()) == json.loads(json.dumps(config.model_dump()))
    assert list(zip(config.keys(), config.values(), strict=True)) == list(config.items())
    assert len(config) == len(dict(config)) == len({**config})
    assert set(config.model_dump(flatten=True)) <= set(config)
    assert config.family.name in config["start_name"]


def test_explicit_beats_environment_beats_family_beats_default() -> None:
    """And each field says which it was."""
    environ = {"OPENLLM_GENERATION_TEMPERATURE": "0.3", "OPENLLM_GENERATION_TOP_P": "0.4", "OPENLLM_SAMPLING_N": "2"}
    config = LLMConfig.for_model("opt", temperature=0.1, environ=environ)
    found = {
        name: (config[name], config.sources[name]) for name in ("temperature", "top_p", "n", "top_k", "min_length")
    }
    assert found == {
        "temperature": (0.1, "explicit"),
        "top_p": (0.4, "environment"),
        "n": (2, "environment"),
        "top_k": (15, "family"),
        "min_length": (0, "default"),
    }


def test_the_environment_is_read_at_construction(monkeypatch: pytest.MonkeyPatch) -> None:
    """A later change counts for the next one."""
    monkeypatch.setenv("OPENLLM_GENERATION_TOP_K", "3")
    assert LLMConfig.for_model("opt")["top_k"] == 3
    monkeypatch.setenv("OPENLLM_GENERATION_TOP_K", "4")
    assert LLMConfig.for_model("opt")["top_k"] == 4


def test_own_fields_have_variables_too() -> None:
    """Without a suffix; `null` is as good as unset."""
    assert LLMConfig.for_model("opt", environ={"OPENLLM_FORMAT_OUTPUTS": "True"})["format_outputs"] is True
    assert LLMConfig.for_model("opt", environ={"OPENLLM_FORMAT_OUTPUTS": "null"})["format_outputs"] is False


def test_a_flat_value_beats_the_nested_one_and_none_is_not_said() -> None:
    """As `generation_config={...}` and keyword arguments were read in 0.3.5."""
    config = LLMConfig.for_model(
        "opt", generation_config={"top_k": 1, "top_p": 0.5}, top_k=2, temperature=None, environ={}
    )
    assert (config["top_k"], config["top_p"], config["temperature"]) == (2, 0.5, 0.75)


@pytest.mark.parametrize(
    ("environ", "variable"),
    [
        ({"OPENLLM_GENERATION_TEMPERATURE": "3"}, "OPENLLM_GENERATION_TEMPERATURE"),
        ({"OPENLLM_GENERATION_TEMPERATURE": '"hot"'}, "OPENLLM_GENERATION_TEMPERATURE"),
        ({"OPENLLM_GENERATION_TEMPERATURE": "hot"}, "OPENLLM_GENERATION_TEMPERATURE"),
        ({"OPENLLM_SAMPLING_STOP": "[1]"}, "OPENLLM_SAMPLING_STOP"),
        ({"OPENLLM_FORMAT_OUTPUTS": "1"}, "OPENLLM_FORMAT_OUTPUTS"),
    ],
)
def test_a_bad_variable_is_named(environ: dict[str, str], variable: str) -> None:
    """So that the operator knows what to change."""
    with pytest.raises(InvalidSetting) as caught:
        LLMConfig.for_model("opt", environ=environ)
    assert caught.value.param == variable
    assert variable in caught.value.message


def test_a_bad_argument_is_named() -> None:
    """By the field."""
    with pytest.raises(InvalidSetting) as caught:
        LLMConfig.for_model("mpt", prompt_type="poem", environ={})
    assert caught.value.param == "prompt_type"
    with pytest.raises(InvalidSetting) as caught:
        LLMConfig.for_model("mpt", top_k="x", environ={})
    assert caught.value.param == "top_k"


def test_unknown_names_are_extras() -> None:
    """Kept, and part of the mapping."""
    config = LLMConfig.for_model("opt", foo=1, environ={})
    assert config["foo"] == 1
    assert LLMConfig.for_model("opt", **{"X-y": 2}, environ={})["X-y"] == 2
    assert "foo" in config
    assert config["extras"] == {"foo": 1}
    assert config.model_dump()["foo"] == 1


def test_newer_families_speak_their_compat_family() -> None:
    """Own fields are those that clients of 0.3.5 know; defaults are the family's own."""
    config = LLMConfig.for_model("smollm", environ={})
    assert list(config.own) == ["use_llama2_prompt"]
    assert config["model_name"] == "llama"
    assert config["presence_penalty"] == 0.0


def test_items_are_found_in_many_places() -> None:
    """Facts of the family, fields, fine-tune strategies; any spelling; a reserved name is refused."""
    config = LLMConfig.for_model("opt", environ={})
    assert config["default-id"] == "facebook/opt-1.3b"
    assert config["modelName"] == "opt"
    assert config["lora"]["r"] == 16
    assert config["generation_config"].top_k == 15
    assert config["timeout"] == 36_000_000
    assert isinstance(config["env"], EnvVarMixin)
    assert "temperature" in config["accepted_keys"]
    for item in ("max_tokens", "nope"):
        with pytest.raises(KeyError):
            config[item]
    assert config["GenerationConfig"] is config.generation_config
    assert config["hints"]["min_new_tokens"] is int
    with pytest.raises(ForbiddenAttributeError):
        config["__config__"]
    with pytest.raises(TypeError, match="NoneType"):
        config[None]  # type: ignore[index]


def test_items_are_found_in_one_order() -> None:
    """Facts of the model, own fields, generation fields, sampling fields, fine-tune strategies, extras: each beats the
    extra of its name, and fields cannot take another's.
    """
    names = {"architecture": "x", "lora": "x", "extra": "x"}
    config = LLMConfig.for_model("opt", environ={}, format_outputs=True, top_k=3, n=2, **names)
    assert config["extras"] == names
    assert config["architecture"] == "OPTForCausalLM"
    assert (config["format_outputs"], config["top_k"], config["n"]) == (True, 3, 2)
    assert config["lora"]["r"] == 16
    assert config["extra"] == "x"
    for taken in ("architecture", "top_k", "generation_config"):
        namespace = {
            "__config__": {"default_id": "a", "model_ids": ["a"], "architecture": "A"},
            "__annotations__": {taken: int},
            taken: 1,
        }
        with pytest.raises(TypeError, match=taken):
            type("TakenConfig", (LLMConfig,), namespace)


@pytest.mark.parametrize("family", registry.all(), ids=lambda family: family.name)
def test_no_field_hides_a_fact(family: Any) -> None:
    """Fields and facts of the family share one name space without meeting."""
    config = LLMConfig.for_model(family, environ={})
    assert not set(config) & {
        "default_id",
        "model_ids",
        "architecture",
        "model_type",
        "timeout",
        "env",
        "extras",
        "url",
    }


def test_a_copy_with_other_values_leaves_the_first_alone() -> None:
    """And marks what was changed as explicit."""
    first = LLMConfig.for_model("llama", environ={})
    second = first.with_values({"top_k": 3, "n": 2, "use_llama2_prompt": True, "seed": 5})
    assert (second["top_k"], second["n"], second["use_llama2_prompt"]) == (3, 2, True)
    assert (first["top_k"], first["n"], first["use_llama2_prompt"]) == (12, 1, False)
    assert (first.sources["top_k"], second.sources["top_k"]) == ("family", "explicit")
    assert "seed" not in second


def test_an_unknown_model_is_an_error() -> None:
    """With near names."""
    with pytest.raises(UnknownModel):
        LLMConfig.for_model("lama2")


def test_repr_shows_class_and_values() -> None:
    """Readable at a prompt."""
    assert repr(LLMConfig.for_model("opt", environ={})).startswith('OPTConfig {"format_outputs":false')
