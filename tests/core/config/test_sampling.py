"""SamplingParams: validated once, completely, with the field named."""

from __future__ import annotations

from typing import Any

import attrs
import pytest

from openllm_core.config.sampling import BAN, SamplingParams
from openllm_core.errors import InvalidSamplingParams


def test_the_defaults_are_valid_and_neutral() -> None:
    """Nothing given samples plainly: no penalty, no cut, no limit."""
    params = SamplingParams()
    assert (params.temperature, params.top_p, params.top_k, params.repetition_penalty) == (1.0, 1.0, 0, 1.0)
    assert params.max_tokens is None


@pytest.mark.parametrize(
    ("name", "value", "code"),
    [
        ("n", 0, "integer_below_min_value"),
        ("n", 129, "integer_above_max_value"),
        ("n", 1.0, "invalid_type"),
        ("n", True, "invalid_type"),
        ("max_tokens", 0, "integer_below_min_value"),
        ("max_tokens", "1", "invalid_type"),
        ("min_tokens", -1, "integer_below_min_value"),
        ("temperature", -0.1, "decimal_below_min_value"),
        ("temperature", 2.1, "decimal_above_max_value"),
        ("temperature", float("nan"), "invalid_value"),
        ("temperature", float("inf"), "invalid_value"),
        ("temperature", True, "invalid_type"),
        ("temperature", "1", "invalid_type"),
        ("temperature", None, "invalid_type"),
        ("top_p", 0, "decimal_below_min_value"),
        ("top_p", 1.01, "decimal_above_max_value"),
        ("top_k", -2, "integer_below_min_value"),
        ("min_p", -0.1, "decimal_below_min_value"),
        ("min_p", 1.1, "decimal_above_max_value"),
        ("repetition_penalty", 0, "decimal_below_min_value"),
        ("repetition_penalty", 5e-324, "decimal_below_min_value"),
        ("repetition_penalty", 10.5, "decimal_above_max_value"),
        ("presence_penalty", 2.5, "decimal_above_max_value"),
        ("frequency_penalty", -2.5, "decimal_below_min_value"),
        ("seed", 2**63, "integer_above_max_value"),
        ("seed", -(2**63) - 1, "integer_below_min_value"),
        ("logprobs", 21, "integer_above_max_value"),
        ("logprobs", -1, "integer_below_min_value"),
    ],
)
def test_each_range_is_held(name: str, value: Any, code: str) -> None:
    """Below, above, not finite, of a wrong type: refused by name and code."""
    with pytest.raises(InvalidSamplingParams) as caught:
        SamplingParams(**{name: value})
    assert (caught.value.param, caught.value.wire_code) == (name, code)


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"stop": [1]}, "stop[0]"),
        ({"stop": ["a", ""]}, "stop[1]"),
        ({"stop_token_ids": [-1]}, "stop_token_ids[0]"),
        ({"stop_token_ids": [1, "2"]}, "stop_token_ids[1]"),
        ({"stop_token_ids": [True]}, "stop_token_ids[0]"),
        ({"logit_bias": {"1": 1.0}}, "logit_bias.1"),
        ({"logit_bias": {-1: 1.0}}, "logit_bias.-1"),
        ({"logit_bias": {1: "x"}}, "logit_bias.1"),
        ({"logit_bias": {1: True}}, "logit_bias.1"),
        ({"logit_bias": {1: float("-inf")}}, "logit_bias.1"),
        ({"min_tokens": 5, "max_tokens": 4}, "min_tokens"),
    ],
)
def test_members_and_pairs_are_checked(change: dict[str, Any], param: str) -> None:
    """Stop strings, token ids and biases one by one; min_tokens against max_tokens."""
    with pytest.raises(InvalidSamplingParams) as caught:
        SamplingParams(**change)
    assert caught.value.param == param


def test_boundaries_are_allowed() -> None:
    """Each range includes its ends."""
    SamplingParams(
        n=128,
        max_tokens=1,
        min_tokens=1,
        temperature=2,
        top_p=1,
        top_k=-1,
        min_p=1,
        repetition_penalty=10,
        presence_penalty=-2,
        frequency_penalty=2,
        logit_bias={0: BAN},
        seed=2**63 - 1,
        logprobs=20,
    )
    SamplingParams(temperature=0, min_p=0, seed=-(2**63), logprobs=0)


def test_collections_are_taken_over() -> None:
    """One stop string may come bare; lists become tuples; the caller's dict is not shared."""
    bias = {1: 2.0}
    params = SamplingParams(stop="end", stop_token_ids=[1], logit_bias=bias)
    bias[2] = 1.0
    assert (params.stop, params.stop_token_ids, params.logit_bias) == (("end",), (1,), {1: 2.0})


def test_ignore_eos_is_a_boolean() -> None:
    """Nothing truthy stands in for it."""
    with pytest.raises(TypeError):
        SamplingParams(ignore_eos=1)  # type: ignore[arg-type]


def test_it_cannot_be_changed() -> None:
    """What was validated stays valid."""
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        SamplingParams().n = 2  # type: ignore[misc]
