"""Forms of a configuration: JSON and back, the environment, derived ones, click, objects of other libraries."""

from __future__ import annotations

import json
import sys
import types
from typing import Any, Literal

import pytest

from openllm_core import DollyV2Config, FlanT5Config, LlamaConfig, LLMConfig, MPTConfig, OPTConfig, SamplingParams
from openllm_core.config.guide import Guide
from openllm_core.errors import InvalidSamplingParams, InvalidSetting, MalformedSetting, MissingDependency
from openllm_core.exceptions import ValidationError


class Recorder:
    """Stands for a class of another library: keeps what it was made with."""

    def __init__(self, **given: Any) -> None:
        self.given = given


def library(monkeypatch: pytest.MonkeyPatch, name: str, **attributes: Any) -> None:
    module = types.ModuleType(name)
    vars(module).update(attributes)
    monkeypatch.setitem(sys.modules, name, module)


# -- JSON, environment, derived -----------------------------------------------------------------------------------


def test_json_comes_back_as_it_was() -> None:
    """Values and extras, from text or bytes."""
    first = OPTConfig(top_k=3, stop=["a"], foo=1, format_outputs=True)
    for text in (first.model_dump_json(), first.model_dump_json(flatten=True).decode()):
        assert OPTConfig.model_construct_json(text).flat() == first.flat()


def test_json_that_is_none_is_refused() -> None:
    """And so is JSON that is no object."""
    with pytest.raises(ValidationError):
        OPTConfig.model_construct_json("{")
    with pytest.raises(RuntimeError, match="not a JSON object"):
        OPTConfig.model_construct_json("[1]")


def test_a_set_value_is_dumped_whatever_its_default() -> None:
    """Fields that are None by default too, nested or flat."""
    dumped = OPTConfig(min_new_tokens=2, logprobs=1).model_dump()
    assert (dumped["generation_config"]["min_new_tokens"], dumped["logprobs"]) == (2, 1)
    assert "generation_config" not in OPTConfig().model_dump(flatten=True)
    assert OPTConfig().model_dump(flatten=True)["top_k"] == 15


def test_the_general_variable_sets_many_fields(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its generation part counts; a field's own variable and arguments beat it; the plain constructor leaves it."""
    text = {"format_outputs": True, "foo": 1, "n": 2, "generation_config": {"top_k": 1, "top_p": 0.5}, "top_p": 0.6}
    monkeypatch.setenv("OPENLLM_CONFIG", json.dumps(text))
    monkeypatch.setenv("OPENLLM_GENERATION_TOP_K", "2")
    for config in (OPTConfig.model_construct_env(n=3), LLMConfig.for_model("opt", n=3)):
        found = (config["format_outputs"], config["foo"], config["n"], config["top_k"], config["top_p"])
        assert found == (True, 1, 3, 2, 0.6)
        assert config.sources["top_p"] == "environment"
    assert OPTConfig()["top_p"] == 1.0


@pytest.mark.parametrize("text", ["[1]", "{", "word", '{"generation_config": 1}'])
def test_a_malformed_general_variable_is_named(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """With its text."""
    monkeypatch.setenv("OPENLLM_CONFIG", text)
    with pytest.raises(RuntimeError, match="OPENLLM_CONFIG") as caught:
        OPTConfig.model_construct_env()
    assert repr(text) in str(caught.value)


def test_a_wrong_value_in_the_general_variable_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """By variable and field."""
    monkeypatch.setenv("OPENLLM_CONFIG", '{"top_k": "x"}')
    with pytest.raises(TypeError, match="OPENLLM_CONFIG: top_k"):
        OPTConfig.model_construct_env()
    monkeypatch.setenv("OPENLLM_CONFIG", "")
    assert OPTConfig.model_construct_env()["top_k"] == 15


def test_nested_values_beat_flat_ones_when_constructed_from_the_environment() -> None:
    """As in 0.3.5; the constructor has it the other way round."""
    assert OPTConfig.model_construct_env(generation_config={"top_k": 1, "top_p": None}, top_k=2, foo=3)["top_k"] == 1
    assert OPTConfig(generation_config={"top_k": 1}, top_k=2)["top_k"] == 2
    with pytest.raises(MalformedSetting, match="generation_config"):
        OPTConfig.model_construct_env(generation_config=1)


def test_a_derived_configuration_has_other_facts_and_values() -> None:
    """With or without fine-tune strategies, and leaves its base alone."""
    derived = OPTConfig.model_derivate(
        default_id="me/opt", model_ids=["me/opt"], architecture="MyOPT", start_name="my-opt", requirements=None,
        timeout=5, workers_per_resource=2, top_k=1,
        fine_tune_strategies=[{"adapter_type": "ia3", "adapter_config": {"a": 1}}],
    )  # fmt: skip
    found = (derived["default_id"], derived["architecture"], derived["start_name"], derived["timeout"])
    assert found == ("me/opt", "MyOPT", "my-opt", 5)
    assert (derived["top_k"], derived["workers_per_resource"], list(derived["fine_tune_strategies"])) == (1, 2, ["ia3"])
    assert repr(derived).startswith("OPTDerivateConfig {")
    assert repr(OPTConfig.model_derivate("NewConfig")).startswith("NewConfig {")
    assert derived.with_values({"top_k": 2})["workers_per_resource"] == 2
    assert OPTConfig()["default_id"] == "facebook/opt-1.3b"
    assert LlamaConfig.model_derivate(url="u")["lora"]["r"] == 64
    with pytest.raises(TypeError, match="timeout"):
        OPTConfig.model_derivate(timeout="x")


# -- click --------------------------------------------------------------------------------------------------------


def test_there_is_an_option_per_field_that_is_no_union() -> None:
    """Named by model, kind and field; three fields take one of several types."""
    config = OPTConfig()
    options = {option.name: option for option in config.to_click_options()}
    unions = {"force_words_ids", "forced_eos_token_id", "eos_token_id"}
    assert len(options) == len(config["hints"]) - len(unions)
    assert {option.field for option in options.values()} == set(config) - unions
    top_k = options["opt_generation_top_k"]
    assert (top_k.flag, top_k.type, top_k.default, top_k.env) == ("--top-k", "int", 15, "OPENLLM_GENERATION_TOP_K")
    assert options["opt_generation_use_cache"].flag == "--use-cache/--no-use-cache"
    assert options["opt_generation_use_cache"].is_flag
    assert (options["opt_sampling_stop"].type, options["opt_sampling_stop"].multiple) == ("str", True)
    assert options["opt_generation_exponential_decay_length_penalty"].nargs == 2
    assert options["opt_generation_bad_words_ids"].type == "json"
    assert options["opt_format_outputs"].group == "OPTConfig options"
    kinds = {option.name: option for option in MPTConfig().to_click_options()}
    assert kinds["mpt_prompt_type"].choices == ("default", "instruct", "chat", "storywriter")


def test_a_literal_and_a_tuple_of_one_kind_become_options() -> None:
    """Choices; and several values at once, or repeated."""

    class ShapesConfig(LLMConfig):
        __config__ = {"default_id": "a", "model_ids": ["a"], "architecture": "A"}  # noqa: RUF012
        size: tuple[int, int] = (1, 2)
        tags: tuple[str, ...] = ()
        mode: str = LLMConfig.Field("a", choices=["a", "b"])
        way: Literal["x", "y"] = "x"

    options = {option.field: option for option in ShapesConfig().to_click_options()}
    assert (options["size"].type, options["size"].nargs) == ("int", 2)
    assert (options["tags"].type, options["tags"].multiple) == ("str", True)
    assert options["mode"].choices == ("a", "b")
    assert (options["way"].type, options["way"].choices) == ("str", ("x", "y"))


def test_what_click_gave_becomes_a_configuration() -> None:
    """None and empty repetitions were not given; the rest is handed back."""
    given = {
        "opt_generation_top_k": 3,
        "opt_generation_top_p": None,
        "opt_sampling_stop": ("a", "b"),
        "opt_generation_suppress_tokens": (),
        "opt_generation_bad_words_ids": "[[1]]",
        "opt_generation_exponential_decay_length_penalty": (4.0, 1.5),
        "opt_format_outputs": True,
        "port": 1,
    }
    config, left = OPTConfig.model_validate_click(**given)
    assert left == {"port": 1}
    assert (config["top_k"], config["top_p"], config["stop"], config["format_outputs"]) == (3, 1.0, ["a", "b"], True)
    assert (config["bad_words_ids"], config["exponential_decay_length_penalty"]) == ([[1]], (4, 1.5))
    assert config["suppress_tokens"] is None
    with pytest.raises(InvalidSetting, match="--bad-words-ids"):
        OPTConfig.model_validate_click(opt_generation_bad_words_ids="[[")


def test_a_command_is_given_options_through_click(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the order of the fields, with the kinds click has."""
    made: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

    def option(*names: Any, **facts: Any) -> Any:
        made.insert(0, (names, facts))
        return lambda function: function

    kinds = {"INT": int, "FLOAT": float, "STRING": str, "BOOL": bool}
    library(monkeypatch, "click", option=option, Choice=lambda choices: ("choice", choices), **kinds)

    def command() -> None: ...

    assert MPTConfig().to_click_options(command) is command
    assert [names[1] for names, _ in made] == [option.name for option in MPTConfig().to_click_options()]
    facts = {names[1]: facts for names, facts in made}
    assert facts["mpt_prompt_type"]["type"] == ("choice", ("default", "instruct", "chat", "storywriter"))
    assert facts["mpt_generation_top_p"]["type"] is float
    assert "type" not in facts["mpt_generation_use_cache"]
    assert facts["mpt_generation_bad_words_ids"]["default"] is None


# -- other libraries ----------------------------------------------------------------------------------------------


def test_generation_fields_as_plain_data() -> None:
    """Those that are set."""
    fields = DollyV2Config().to_generation_config(return_as_dict=True)
    assert fields["eos_token_id"] == 50277
    assert "min_new_tokens" not in fields


def test_a_generation_config_of_transformers(monkeypatch: pytest.MonkeyPatch) -> None:
    """It samples, unless the temperature is 0."""
    library(monkeypatch, "transformers", GenerationConfig=Recorder)
    assert OPTConfig().to_generation_config().given["do_sample"] is True
    greedy = OPTConfig(temperature=0).to_generation_config().given
    assert greedy["do_sample"] is False
    assert "temperature" not in greedy


def test_sampling_params_of_vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    """From generation and sampling fields together."""
    library(monkeypatch, "vllm", SamplingParams=Recorder)
    given = OPTConfig(stop=["x"], n=2, best_of=2, min_new_tokens=3).to_sampling_config().given
    assert (given["max_tokens"], given["min_tokens"], given["top_k"], given["n"]) == (1024, 3, 15, 2)
    assert (given["stop"], given["logit_bias"]) == (["x"], None)
    assert OPTConfig().to_sampling_config(return_as_dict=True)["temperature"] == 0.75


@pytest.mark.parametrize(
    ("guide", "given"),
    [
        (Guide("json", '{"type": "object"}'), {"json": '{"type": "object"}'}),
        (Guide("regex", "[a-z]+"), {"regex": "[a-z]+"}),
        (Guide("choice", ("yes", "no")), {"choice": ["yes", "no"]}),
        (Guide("json_object"), {"json_object": True}),
    ],
    ids=lambda value: value.kind if isinstance(value, Guide) else "",
)
def test_a_guide_becomes_structured_outputs_of_vllm(
    monkeypatch: pytest.MonkeyPatch, guide: Guide, given: dict[str, Any]
) -> None:
    """By its kind; without one vLLM is told nothing of it."""
    library(monkeypatch, "vllm", SamplingParams=Recorder)
    library(monkeypatch, "vllm.sampling_params", StructuredOutputsParams=Recorder)
    assert SamplingParams(guide=guide).to_vllm().given["structured_outputs"].given == given
    assert "structured_outputs" not in SamplingParams().to_vllm().given


def test_what_sampling_cannot_do_is_refused() -> None:
    """By the field's name."""
    for values in ({"use_beam_search": True}, {"best_of": 3}):
        with pytest.raises(InvalidSamplingParams) as caught:
            OPTConfig(**values).to_sampling_config(return_as_dict=True)
        assert caught.value.param == next(iter(values))


def test_sampling_params_from_a_generation_config() -> None:
    """Values beat it; the two names of one limit exclude each other; other names are refused."""
    config = OPTConfig().generation_config
    assert SamplingParams.from_generation_config(config, max_tokens=3).max_tokens == 3
    assert SamplingParams.from_generation_config(config, max_new_tokens=4, stop="x").stop == ("x",)
    with pytest.raises(ValueError, match="one thing"):
        SamplingParams.from_generation_config(config, max_tokens=3, max_new_tokens=4)
    with pytest.raises(InvalidSamplingParams, match="nope"):
        SamplingParams.from_generation_config(config, nope=1)


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the line that brings it; also an ImportError."""
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(ImportError) as caught:
        OPTConfig().to_sampling_config()
    assert isinstance(caught.value, MissingDependency)
    assert caught.value.hint == 'pip install "openllm[vllm]"'


def test_the_task_and_the_backend() -> None:
    """By kind of model."""
    assert (OPTConfig().peft_task_type(), FlanT5Config().peft_task_type()) == ("CAUSAL_LM", "SEQ_2_SEQ_LM")
    assert OPTConfig().default_backend() == "pt"


def test_str_lists_the_fields() -> None:
    """As key=value pairs."""
    assert "top_k=15 " in str(OPTConfig())
