"""Field x backend: every cell is what the table says, and nothing outside it is accepted."""

from __future__ import annotations

from typing import Any

import pytest

from openllm_core.config.generation import GENERATION_FIELDS, SAMPLING_FIELDS
from openllm_core.config.llm import LLMConfig
from openllm_core.errors import UnsupportedFeature
from openllm_core.families import registry
from openllm_core.fields import COLUMNS, FIELDS, can_do, column_of, refuse, settle, to_sampling_params
from openllm_core.fields.requests import EXTRA_FIELDS

# A value of each field that asks for something.
ASKING: dict[str, Any] = {
    "max_new_tokens": 7,
    "min_length": 3,
    "min_new_tokens": 2,
    "early_stopping": True,
    "max_time": 1.5,
    "num_beams": 2,
    "num_beam_groups": 2,
    "penalty_alpha": 0.5,
    "use_cache": False,
    "temperature": 0.35,
    "top_k": 5,
    "top_p": 0.35,
    "typical_p": 0.5,
    "epsilon_cutoff": 0.1,
    "eta_cutoff": 0.1,
    "diversity_penalty": 0.5,
    "repetition_penalty": 1.3,
    "encoder_repetition_penalty": 1.3,
    "length_penalty": 1.3,
    "no_repeat_ngram_size": 2,
    "bad_words_ids": [[1]],
    "force_words_ids": [[1]],
    "renormalize_logits": True,
    "constraints": [{}],
    "forced_bos_token_id": 1,
    "forced_eos_token_id": 1,
    "remove_invalid_values": True,
    "exponential_decay_length_penalty": [1, 1.5],
    "suppress_tokens": [4],
    "begin_suppress_tokens": [4],
    "forced_decoder_ids": [[1, 2]],
    "num_return_sequences": 3,
    "output_attentions": True,
    "output_hidden_states": True,
    "output_scores": True,
    "pad_token_id": 1,
    "bos_token_id": 1,
    "eos_token_id": 6,
    "encoder_no_repeat_ngram_size": 2,
    "decoder_start_token_id": 1,
    "n": 3,
    "best_of": 1,
    "presence_penalty": 0.7,
    "frequency_penalty": 0.7,
    "use_beam_search": True,
    "stop": ["x"],
    "ignore_eos": True,
    "logprobs": 3,
    "max_tokens": 7,
    "min_tokens": 2,
    "seed": 5,
    "min_p": 0.2,
    "logit_bias": {"4": 2.0},
    "stop_token_ids": [6],
    "response_format": {"type": "json_object"},
    "guided_json": {"type": "object"},
    "guided_regex": "[ab]+",
    "guided_choice": ["yes", "no"],
    "guided_grammar": 'root ::= "a"',
    "structured_outputs": {"regex": "[ab]+"},
}

FAMILY = {"pt": "opt", "vllm": "opt", "echo": "opt", "seq2seq": "flan-t5"}
BACKEND = {"pt": "pt", "vllm": "vllm", "echo": "echo", "seq2seq": "pt"}


def test_the_table_has_each_field_once() -> None:
    """All that a configuration or a request can hold, and no more."""
    assert set(FIELDS) == {*GENERATION_FIELDS, *SAMPLING_FIELDS, *EXTRA_FIELDS} == set(ASKING)


@pytest.mark.parametrize("column", COLUMNS)
@pytest.mark.parametrize("name", FIELDS)
def test_each_cell(name: str, column: str) -> None:
    """Honoured: the sampling changes. Neutral or never: refused by name, while a neutral value is accepted."""
    fact, family, backend = FIELDS[name], FAMILY[column], BACKEND[column]
    plain, _, _ = to_sampling_params({}, family=family, backend=backend)
    support = fact.supported(column)
    if support == "honoured" or not (fact.neutral or support == "never"):
        asked, _, _ = to_sampling_params({name: ASKING[name]}, family=family, backend=backend)
        changes = support == "honoured" and name != "best_of"  # best_of = n is what n does already
        assert (asked != plain) == changes
    else:
        with pytest.raises(UnsupportedFeature) as caught:
            to_sampling_params({name: ASKING[name]}, family=family, backend=backend)
        assert caught.value.param == f"llm_config.{name}"
        assert caught.value.wire_code == "unsupported_parameter"
    for neutral in (None, *fact.neutral):
        accepted, _, _ = to_sampling_params({name: neutral}, family=family, backend=backend)
        assert accepted == plain


@pytest.mark.parametrize("family", registry.all(), ids=lambda family: family.name)
@pytest.mark.parametrize("backend", ["pt", "vllm", "echo"])
def test_a_client_that_sends_every_default_is_served(family: Any, backend: str) -> None:
    """The client of 0.3.5 repeats the server's whole configuration; that asks for nothing new."""
    everything = LLMConfig.for_model(family, environ={}).model_dump()
    plain, _, _ = to_sampling_params({}, family=family, backend=backend)
    assert to_sampling_params(everything, family=family, backend=backend)[0] == plain
    flat = LLMConfig.for_model(family, environ={}).model_dump(flatten=True)
    assert to_sampling_params(flat, family=family, backend=backend)[0] == plain


def test_family_values_that_cannot_be_done_are_told_at_start() -> None:
    """Falcon's beams: one line each, and the configuration shows what really holds."""
    config, lines = settle(LLMConfig.for_model("falcon", environ={}), "pt")
    assert [line.split(" of ")[0] for line in lines] == ["ignored: early_stopping = true", "ignored: num_beams = 4"]
    assert (config["num_beams"], config["early_stopping"], config["top_k"]) == (1, False, 10)
    assert settle(config, "pt") == (config, [])


def test_a_family_value_without_a_neutral_one_is_dropped() -> None:
    """Where only null asks for nothing."""
    import attrs

    family = attrs.evolve(registry.find("opt"), generation={"max_time": 3.0})
    config, lines = settle(LLMConfig.for_model(family, environ={}), "pt")
    assert config["max_time"] is None
    assert lines == ["ignored: max_time = 3.0 of family opt; pt cannot do it"]


@pytest.mark.parametrize("given", [{"environ": {"OPENLLM_GENERATION_NUM_BEAMS": "4"}}, {"num_beams": 4, "environ": {}}])
def test_what_the_operator_asks_for_is_refused_at_start(given: dict[str, Any]) -> None:
    """A family's wish is ignored with a line; an operator's is an error."""
    with pytest.raises(UnsupportedFeature, match="num_beams"):
        settle(LLMConfig.for_model("opt", **given), "pt")


def test_columns() -> None:
    """An encoder-decoder family has its own; a backend of another package counts as pt."""
    assert column_of("pt") == "pt"
    assert column_of("pt", registry.find("flan-t5")) == "seq2seq"
    assert column_of("other", registry.find("opt")) == "pt"


def test_true_is_not_one() -> None:
    """A neutral 1 does not let a boolean pass, nor the other way round."""
    assert not FIELDS["num_beams"].asks_for_nothing(True)
    assert not FIELDS["use_cache"].asks_for_nothing(1)


def test_the_refusal_says_what_is_accepted_and_what_to_use() -> None:
    """One line and a hint."""
    with pytest.raises(UnsupportedFeature) as caught:
        refuse("typical_p", 0.5, "pt", "llm_config.typical_p")
    assert caught.value.message == "llm_config.typical_p: this backend cannot do typical_p; only 1 is accepted."
    assert caught.value.hint == "top_p or min_p."
    with pytest.raises(UnsupportedFeature, match="only true is accepted"):
        refuse("use_cache", False, "pt", "use_cache")
    with pytest.raises(UnsupportedFeature, match="only null is accepted"):
        refuse("max_time", 1.0, "pt", "max_time")
    assert can_do("temperature", 0.1, "pt")
