"""Requests into SamplingParams: one meaning for each field, on every route."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openllm_core.config.llm import LLMConfig
from openllm_core.config.sampling import BAN, SamplingParams
from openllm_core.errors import InvalidRequest, OpenLLMError, UnsupportedFeature
from openllm_core.families import registry
from openllm_core.fields import openai_defaults, sampling_from_openai, settle, to_sampling_params
from openllm_core.schema import ChatCompletionRequest, ChatMessage, CompletionRequest


def sampling(llm_config: dict[str, Any], family: str = "opt", **rest: Any) -> SamplingParams:
    return to_sampling_params(llm_config, family=family, **rest)[0]


def refused(llm_config: dict[str, Any], family: str = "opt") -> tuple[str | None, str]:
    with pytest.raises(InvalidRequest) as caught:
        to_sampling_params(llm_config, family=family)
    return caught.value.param, caught.value.wire_code


# -- /v1/generate* --------------------------------------------------------------------------------------------------


def test_nothing_said_is_the_family() -> None:
    """The defaults of the family and of 0.3.5; the token limit is a default too, so a short context may cut it."""
    params, effective, ignored = to_sampling_params({}, family="llama")
    assert (params.temperature, params.top_p, params.top_k, params.presence_penalty) == (0.6, 0.9, 12, 0.5)
    assert params.max_tokens is None
    assert effective["max_new_tokens"] == 128
    assert ignored == []


def test_flat_and_nested_forms() -> None:
    """Both are read; a flat field beats the nested one of the same name; null is not said."""
    assert sampling({"temperature": 0.1}).temperature == 0.1
    assert sampling({"generation_config": {"temperature": 0.1}}).temperature == 0.1
    assert sampling({"generation_config": {"temperature": 0.1}, "temperature": 0.2}).temperature == 0.2
    assert sampling({"generation_config": None, "temperature": None}).temperature == 0.75


def test_each_field_arrives() -> None:
    """Under whatever name it came."""
    params = sampling(
        {
            "generation_config": {"max_new_tokens": 9, "min_new_tokens": 3, "num_return_sequences": 2},
            "top_k": -1,
            "top_p": 0.5,
            "repetition_penalty": 1.1,
            "presence_penalty": 0.1,
            "frequency_penalty": 0.2,
            "stop": "end",
            "ignore_eos": True,
            "logprobs": 2,
            "eos_token_id": [7, 8],
            "stop_token_ids": [9],
            "suppress_tokens": [4],
            "logit_bias": {"5": -1},
            "seed": 3,
            "min_p": 0.1,
            "best_of": 2,
        }
    )
    assert params == SamplingParams(
        n=2,
        max_tokens=9,
        min_tokens=3,
        temperature=0.75,
        top_k=0,
        top_p=0.5,
        repetition_penalty=1.1,
        presence_penalty=0.1,
        frequency_penalty=0.2,
        stop=("end",),
        ignore_eos=True,
        logprobs=2,
        stop_token_ids=(7, 8, 9),
        logit_bias={4: BAN, 5: -1.0},
        seed=3,
        min_p=0.1,
    )
    assert sampling({"eos_token_id": 7}).stop_token_ids == (7,)


@pytest.mark.parametrize(
    ("llm_config", "param", "code"),
    [
        ({"temperatur": 1}, "llm_config.temperatur", "unknown_parameter"),
        ({"generation_config": {"nope": 1}}, "llm_config.generation_config.nope", "unknown_parameter"),
        ({"generation_config": {"n": 1}}, "llm_config.generation_config.n", "unknown_parameter"),
        ({"generation_config": [1]}, "llm_config.generation_config", "invalid_type"),
        ({"use_llama2_prompt": True}, "llm_config.use_llama2_prompt", "unknown_parameter"),
        ({"temperature": 2.5}, "llm_config.temperature", "decimal_above_max_value"),
        ({"temperature": "1"}, "llm_config.temperature", "invalid_type"),
        ({"generation_config": {"top_p": 0}}, "llm_config.generation_config.top_p", "decimal_below_min_value"),
        ({"max_new_tokens": 0}, "llm_config.max_new_tokens", "integer_below_min_value"),
        (
            {"top_k": 1, "generation_config": {"top_k": "x"}},
            "llm_config.generation_config.top_k",
            "invalid_type",
        ),
        (
            {"generation_config": {"top_k": "x"}, "top_k": 1},
            "llm_config.generation_config.top_k",
            "invalid_type",
        ),
        ({"max_tokens": 0}, "llm_config.max_tokens", "integer_below_min_value"),
        ({"max_tokens": 2.0**70}, "llm_config.max_tokens", "integer_above_max_value"),
        ({"n": 129}, "llm_config.n", "integer_above_max_value"),
        ({"num_return_sequences": 500}, "llm_config.num_return_sequences", "integer_above_max_value"),
        ({"stop": ["a", 5]}, "llm_config.stop[1]", "invalid_type"),
        ({"stop": [""]}, "llm_config.stop[0]", "string_below_min_length"),
        ({"logit_bias": {"x": 1}}, "llm_config.logit_bias.x", "invalid_value"),
        ({"logit_bias": {"-1": 1}}, "llm_config.logit_bias.-1", "invalid_value"),
        ({"logit_bias": {"1": 101}}, "llm_config.logit_bias.1", "decimal_above_max_value"),
        ({"logit_bias": {"1": -101}}, "llm_config.logit_bias.1", "decimal_below_min_value"),
        ({"seed": 2.0**64}, "llm_config.seed", "integer_above_max_value"),
        ({"max_tokens": 5, "max_new_tokens": 6}, "llm_config.max_new_tokens", "invalid_value"),
        ({"n": 2, "num_return_sequences": 3}, "llm_config.num_return_sequences", "invalid_value"),
        ({"n": 2, "best_of": 4}, "llm_config.best_of", "unsupported_parameter"),
        ({"max_tokens": 3, "min_new_tokens": 4}, "llm_config.min_new_tokens", "integer_above_max_value"),
        ({"format_outputs": 1}, "llm_config.format_outputs", "invalid_type"),
    ],
)
def test_each_refusal_names_the_field_as_sent(llm_config: dict[str, Any], param: str, code: str) -> None:
    """Path and code, whichever check refused it."""
    assert refused(llm_config) == (param, code)


def test_a_near_name_is_suggested_and_a_long_one_cut() -> None:
    """For a misspelt field."""
    with pytest.raises(InvalidRequest) as caught:
        sampling({"temprature": 1})
    assert "temperature" in (caught.value.hint or "")
    with pytest.raises(InvalidRequest) as caught:
        sampling({"x" * 5000: 1})
    assert len(caught.value.message) < 200
    assert caught.value.hint is None


def test_two_names_of_one_thing_may_agree_or_repeat_a_default() -> None:
    """Only two that differ from the default and from each other contradict."""
    assert sampling({"max_tokens": 5, "max_new_tokens": 5}).max_tokens == 5
    assert sampling({"max_tokens": 5, "max_new_tokens": 1024}).max_tokens == 5
    assert sampling({"n": 3, "num_return_sequences": 1}).n == 3
    assert sampling({"n": 1, "num_return_sequences": 3}).n == 3


def test_best_of_of_the_family_gives_way_to_n() -> None:
    """Llama's own best_of 1, repeated by a client, does not forbid n = 2."""
    params, effective, _ = to_sampling_params({"n": 2, "best_of": 1}, family="llama")
    assert params.n == 2
    assert effective["best_of"] is None
    assert to_sampling_params({"n": 2}, family="llama")[1]["best_of"] is None


def test_a_default_minimum_gives_way_to_a_smaller_limit() -> None:
    """StarCoder asks for 32 tokens at least; a request for 10 gets 10."""
    assert sampling({"max_new_tokens": 10}, "starcoder").min_tokens == 10
    assert sampling({"max_new_tokens": 10, "min_new_tokens": 32}, "starcoder").min_tokens == 10
    assert sampling({}, "starcoder").min_tokens == 32


def test_min_length_counts_the_start_token_of_a_decoder() -> None:
    """On encoder-decoder models; elsewhere its prompt part is unknown here, and it is refused."""
    assert sampling({"min_length": 5}, "flan-t5").min_tokens == 4
    assert sampling({"min_length": 5, "min_new_tokens": 9}, "flan-t5").min_tokens == 9
    assert refused({"min_length": 5}) == ("llm_config.min_length", "unsupported_parameter")
    with pytest.raises(InvalidRequest) as caught:
        sampling({"min_length": 50, "max_new_tokens": 5}, "flan-t5")
    assert caught.value.param == "llm_config.min_length"


def test_own_fields_are_accepted_and_reported() -> None:
    """They steer clients, not the server: listed as without effect unless they repeat the default."""
    params, effective, ignored = to_sampling_params({"use_llama2_prompt": True}, family="smollm")
    assert ignored == ["llm_config.use_llama2_prompt"]
    assert effective["use_llama2_prompt"] is True
    assert params == sampling({}, "smollm")
    assert to_sampling_params({"use_llama2_prompt": False}, family="smollm")[2] == []


def test_the_effective_configuration_is_what_holds() -> None:
    """Said values, both names of a count, and ours as extras."""
    _, effective, _ = to_sampling_params(
        {"max_tokens": 5, "n": 2, "min_tokens": 1, "seed": 4, "temperature": 0}, family="opt"
    )
    found = {
        name: effective[name] for name in ("max_new_tokens", "n", "num_return_sequences", "min_new_tokens", "seed")
    }
    assert found == {"max_new_tokens": 5, "n": 2, "num_return_sequences": 2, "min_new_tokens": 1, "seed": 4}
    assert effective.sources["temperature"] == "explicit"
    assert effective.model_dump()["generation_config"]["temperature"] == 0


def test_the_servers_configuration_is_the_default() -> None:
    """Environment beats family; what a request says beats both; the server's configuration is not changed by it."""
    config, _ = settle(LLMConfig.for_model("opt", environ={"OPENLLM_GENERATION_TEMPERATURE": "0.1"}), "pt")
    assert sampling({}, defaults=config).temperature == 0.1
    assert sampling({"temperature": 0.75}, defaults=config).temperature == 0.75
    sampling({"temperature": 0.9, "seed": 1}, defaults=config)
    assert config["temperature"] == 0.1
    assert "seed" not in config


_values = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.lists(st.integers(), max_size=3)
)


@given(
    st.dictionaries(
        st.sampled_from([*LLMConfig.for_model("opt", environ={}), "max_tokens", "seed", "min_p", "logit_bias", "x"]),
        _values | st.dictionaries(st.text(max_size=3), _values, max_size=2),
        max_size=6,
    )
)
def test_any_llm_config_gives_sampling_or_a_named_refusal(llm_config: dict[str, Any]) -> None:
    """No value, of any type, in any field, ends in another exception; the refusal names the field."""
    try:
        params = sampling(llm_config)
    except OpenLLMError as error:
        assert isinstance(error, InvalidRequest)
        assert (error.param or "").startswith("llm_config.")
    else:
        assert isinstance(params, SamplingParams)


# -- OpenAI routes --------------------------------------------------------------------------------------------------


def chat(**fields: Any) -> ChatCompletionRequest:
    return ChatCompletionRequest(model="m", messages=[ChatMessage(role="user", content="x")], **fields)


def completion(**fields: Any) -> CompletionRequest:
    return CompletionRequest(model="m", prompt="x", **fields)


def test_a_silent_request_samples_plainly() -> None:
    """As an OpenAI client expects: temperature 1, everything kept, no limit of its own."""
    assert sampling_from_openai(chat()) == SamplingParams()
    assert sampling_from_openai(completion()) == SamplingParams()


@pytest.mark.parametrize("make", [chat, completion])
def test_what_a_request_says_arrives(make: Any) -> None:
    """On both routes."""
    params = sampling_from_openai(
        make(
            n=2,
            temperature=0.0,
            top_p=0.5,
            top_k=-1,
            min_p=0.1,
            repetition_penalty=1.1,
            presence_penalty=0.1,
            frequency_penalty=0.2,
            seed=1,
            stop=["a", "b"],
            stop_token_ids=[5],
            ignore_eos=True,
            min_tokens=1,
            max_tokens=9,
            logit_bias={"7": -100},
        )
    )
    assert params == SamplingParams(
        n=2,
        temperature=0.0,
        top_p=0.5,
        min_p=0.1,
        repetition_penalty=1.1,
        presence_penalty=0.1,
        frequency_penalty=0.2,
        seed=1,
        stop=("a", "b"),
        stop_token_ids=(5,),
        ignore_eos=True,
        min_tokens=1,
        max_tokens=9,
        logit_bias={7: -100.0},
    )
    assert sampling_from_openai(make(stop="a")).stop == ("a",)


def test_logprobs_in_both_dialects() -> None:
    """Chat: a boolean and a count; completions: a count."""
    assert sampling_from_openai(chat(logprobs=True)).logprobs == 0
    assert sampling_from_openai(chat(logprobs=True, top_logprobs=5)).logprobs == 5
    assert sampling_from_openai(chat(logprobs=False)).logprobs is None
    assert sampling_from_openai(chat(top_logprobs=0)).logprobs is None
    assert sampling_from_openai(completion(logprobs=0)).logprobs == 0
    with pytest.raises(InvalidRequest) as caught:
        sampling_from_openai(chat(top_logprobs=2))
    assert caught.value.param == "top_logprobs"


def test_both_names_of_the_token_limit() -> None:
    """Either, or both alike."""
    assert sampling_from_openai(chat(max_completion_tokens=5)).max_tokens == 5
    assert sampling_from_openai(chat(max_completion_tokens=5, max_tokens=5)).max_tokens == 5
    with pytest.raises(InvalidRequest) as caught:
        sampling_from_openai(chat(max_completion_tokens=5, max_tokens=6))
    assert caught.value.param == "max_tokens"


@pytest.mark.parametrize(
    ("request_", "param", "error"),
    [
        (completion(best_of=2), "best_of", UnsupportedFeature),
        (completion(n=2, best_of=3), "best_of", UnsupportedFeature),
        (completion(suffix="x"), "suffix", UnsupportedFeature),
        (chat(logit_bias={"a": 1}), "logit_bias.a", InvalidRequest),
        (chat(logit_bias={"1": 101.0}), "logit_bias.1", InvalidRequest),
        (chat(logit_bias={"9" * 11: 1}), "logit_bias.99999999999", InvalidRequest),
        (chat(stop=""), "stop[0]", InvalidRequest),
        (chat(min_tokens=5, max_tokens=4), "min_tokens", InvalidRequest),
        (chat(stop_token_ids=[-1]), "stop_token_ids[0]", InvalidRequest),
    ],
)
def test_refusals_name_the_field(request_: Any, param: str, error: type[InvalidRequest]) -> None:
    """Before any engine sees the request."""
    with pytest.raises(error) as caught:
        sampling_from_openai(request_)
    assert caught.value.param == param


def test_best_of_equal_to_n_is_fine() -> None:
    """And so is an empty suffix."""
    assert sampling_from_openai(completion(n=2, best_of=2, suffix="")).n == 2
    assert sampling_from_openai(completion(best_of=1)).n == 1


def test_what_a_family_recommends_holds_until_said() -> None:
    """Temperature and cuts of the family; not the penalties and class defaults of 0.3.5."""
    llama = LLMConfig.for_model("llama", environ={})
    params = sampling_from_openai(chat(), defaults=llama)
    assert (params.temperature, params.top_p, params.top_k, params.presence_penalty) == (0.6, 0.9, 12, 0.0)
    assert params.max_tokens is None
    assert sampling_from_openai(chat(temperature=1.0), defaults=llama).temperature == 1.0
    assert sampling_from_openai(chat(), defaults=LLMConfig.for_model("gpt-neox", environ={})).top_k == 0
    assert openai_defaults(None) == {}


def test_what_the_operator_set_holds_until_said() -> None:
    """Penalties, stop strings, end tokens and a minimum from the environment."""
    environ = {
        "OPENLLM_SAMPLING_PRESENCE_PENALTY": "0.3",
        "OPENLLM_SAMPLING_STOP": '["end"]',
        "OPENLLM_GENERATION_EOS_TOKEN_ID": "[3]",
        "OPENLLM_GENERATION_SUPPRESS_TOKENS": "[4]",
        "OPENLLM_GENERATION_MIN_NEW_TOKENS": "8",
        "OPENLLM_GENERATION_TOP_K": "-1",
    }
    config = LLMConfig.for_model("opt", environ=environ)
    params = sampling_from_openai(chat(), defaults=config)
    assert (params.presence_penalty, params.stop, params.stop_token_ids) == (0.3, ("end",), (3,))
    assert (params.logit_bias, params.min_tokens, params.top_k) == ({4: BAN}, 8, 0)
    said = sampling_from_openai(chat(stop_token_ids=[5], logit_bias={"6": 1}, max_tokens=2, stop="x"), defaults=config)
    assert (said.stop_token_ids, said.stop, said.min_tokens) == ((3, 5), ("x",), 2)
    assert said.logit_bias == {4: BAN, 6: 1.0}


@pytest.mark.parametrize("family", registry.all(), ids=lambda family: family.name)
def test_every_family_gives_valid_defaults(family: Any) -> None:
    """No family file can make an OpenAI request invalid."""
    config, _ = settle(LLMConfig.for_model(family, environ={}), "pt")
    assert isinstance(sampling_from_openai(chat(), defaults=config), SamplingParams)
