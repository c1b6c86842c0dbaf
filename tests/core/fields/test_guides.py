"""Guides: one constraint from any of the wire forms, and each malformed one refused by its field's name."""

from __future__ import annotations

from typing import Any

import pytest

from openllm_core.config.guide import Guide
from openllm_core.errors import InvalidRequest, UnsupportedFeature
from openllm_core.fields import sampling_from_openai, to_sampling_params
from openllm_core.fields.guides import guide_of
from openllm_core.schema import ChatCompletionRequest, ChatMessage

SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}
SCHEMA_TEXT = '{"type":"object","properties":{"a":{"type":"integer"}}}'


@pytest.mark.parametrize(
    ("values", "guide"),
    [
        ({}, None),
        ({"response_format": {"type": "text"}, "guided_choice": [], "structured_outputs": {}}, None),
        ({"response_format": {"type": "json_object"}}, Guide("json_object")),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}},
            Guide("json", SCHEMA_TEXT),
        ),
        ({"guided_json": SCHEMA}, Guide("json", SCHEMA_TEXT)),
        ({"guided_json": SCHEMA_TEXT}, Guide("json", SCHEMA_TEXT)),
        ({"guided_regex": "[ab]+"}, Guide("regex", "[ab]+")),
        ({"guided_choice": ["yes", "no"]}, Guide("choice", ("yes", "no"))),
        ({"guided_grammar": 'root ::= "a"'}, Guide("grammar", 'root ::= "a"')),
        ({"structured_outputs": {"regex": "[ab]+"}}, Guide("regex", "[ab]+")),
        ({"structured_outputs": {"choice": ["a"]}}, Guide("choice", ("a",))),
        ({"structured_outputs": {"json_object": True}}, Guide("json_object")),
    ],
)
def test_each_form_is_one_guide(values: dict[str, Any], guide: Guide | None) -> None:
    """OpenAI's form, the older and the newer of vLLM's mean the same."""
    assert guide_of(values) == guide


@pytest.mark.parametrize(
    ("values", "param"),
    [
        ({"response_format": {"type": "yaml"}}, "response_format.type"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema.schema"),
        ({"guided_json": "{"}, "guided_json"),
        ({"guided_json": "[1]"}, "guided_json"),
        ({"guided_regex": 5}, "guided_regex"),
        ({"guided_regex": ""}, "guided_regex"),
        ({"guided_regex": "a" * 70000}, "guided_regex"),
        ({"guided_choice": ["a", 5]}, "guided_choice"),
        ({"guided_choice": ["a", ""]}, "guided_choice"),
        ({"guided_choice": ["a"] * 2000}, "guided_choice"),
        ({"structured_outputs": {"magic": "x"}}, "structured_outputs"),
        ({"structured_outputs": {"regex": "a", "json": "{}"}}, "structured_outputs"),
        ({"structured_outputs": "regex"}, "structured_outputs"),
        ({"guided_regex": "a", "guided_choice": ["a"]}, "guided_choice"),
    ],
)
def test_what_is_malformed_is_refused_by_name(values: dict[str, Any], param: str) -> None:
    """A wrong type, an unknown kind, too large, or two at once: the field is named."""
    with pytest.raises(InvalidRequest) as caught:
        guide_of(values)
    assert caught.value.param == param


def test_paths_name_the_field_as_it_was_sent() -> None:
    """`/v1/generate` nests its fields."""
    with pytest.raises(InvalidRequest) as caught:
        to_sampling_params({"guided_json": "{"}, family="opt", backend="vllm")
    assert caught.value.param == "llm_config.guided_json"


def test_openai_routes_take_them_where_the_backend_can() -> None:
    """vllm and pt get the guide; echo, and an encoder-decoder model, name the field."""
    messages = [ChatMessage(role="user", content="x")]
    request = ChatCompletionRequest(model="m", messages=messages, guided_choice=["yes", "no"])
    for backend in ("pt", "vllm"):
        assert sampling_from_openai(request, backend=backend).guide == Guide("choice", ("yes", "no"))
    request = ChatCompletionRequest(model="m", messages=messages, guided_regex="a")
    with pytest.raises(UnsupportedFeature) as caught:
        sampling_from_openai(request, backend="echo")
    assert caught.value.param == "guided_regex"
