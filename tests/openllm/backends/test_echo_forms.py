"""What the echo model says under a guide: the least instance of a schema, and scripted calls."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest

from openllm.backends.base import TokenGuide
from openllm.backends.echo.forms import answer_to, instance, parse_call
from openllm_core.errors import InvalidRequest

SCHEMAS: list[dict[str, Any]] = [
    {"type": "object", "properties": {"a": {"type": "integer", "minimum": 3}, "b": {"type": "null"}}},
    {"type": "object", "properties": {"a": {"type": "string", "minLength": 9}}, "required": ["a"]},
    {"type": "array", "items": {"enum": ["x", "y"]}, "minItems": 2},
    {"$defs": {"p": {"type": "object", "properties": {"n": {"type": "number", "maximum": -2}}}}, "$ref": "#/$defs/p"},
    {"anyOf": [{"type": "boolean"}, {"type": "null"}]},
    {"type": ["string", "null"], "format": "date"},
    {"const": 5},
]


@pytest.mark.parametrize("schema", SCHEMAS)
def test_an_instance_fits_its_schema(schema: dict[str, Any]) -> None:
    """Types, bounds, names and references."""
    jsonschema.validate(instance(schema), schema)


def test_a_schema_without_an_end_has_one() -> None:
    """A tree of itself is cut."""
    tree = {"type": "object", "properties": {"next": {"$ref": "#"}}, "required": ["next"]}
    assert json.dumps(instance(tree)).count("next") < 20


def test_a_scripted_reply_is_said_where_it_fits() -> None:
    """A JSON object where JSON is asked for; else the least one."""
    guide = TokenGuide("json", '{"type": "object", "required": ["a"]}')
    assert answer_to(guide, '{"a": "said"}', None) == '{"a": "said"}'
    assert json.loads(answer_to(guide, "words", None)) == {"a": {}}


def test_what_is_refused() -> None:
    """Grammars, and calls that are not written as such."""
    with pytest.raises(InvalidRequest, match="no grammar"):
        answer_to(TokenGuide("grammar", 'root ::= "a"'), None, None)
    with pytest.raises(ValueError, match="NAME"):
        parse_call("weather")
    assert parse_call('f({"a": 1})') == ("f", {"a": 1}) and parse_call("f()") == ("f", {})
