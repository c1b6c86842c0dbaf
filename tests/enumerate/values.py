"""What is put in a field's place: the values around its limits, and those that break parsers of numbers, text and shapes.

Called by `cases.py` with the JSON schema of one field. Values are JSON text, not Python values, since half of them are such
that no JSON writer would write them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import attrs

FILLER = "Ω"
"""What long strings are made of: no message of ours holds it, so that what an answer repeats can be counted."""
LONG = 70_000


@attrs.frozen
class Value:
    """One value, as it stands in the body.

    Attributes:
        text: JSON, or what claims to be. None leaves the field out; `twice` writes it two times.
    """

    label: str
    text: str | None
    twice: bool = False


EVERYWHERE = (
    *(Value(f"2^{power}", str(2**power)) for power in (31, 53, 63, 64, 70)),
    *(Value(f"-2^{power}", str(-(2**power))) for power in (31, 63, 64)),
    *(Value(text, text) for text in ("0", "-1", "1", "-0.0", "0.5", "1.0", "1e308", "-1e308", "5e-324")),
    *(Value(text, text) for text in ("NaN", "Infinity", "-Infinity", "1e999", "-1e999")),
    *(Value(text, text) for text in ("true", "false", "null", "[]", "{}", "[[]]", "[null]", '[""]', "[1]", "[true]")),
    *(Value(text, text) for text in ('""', '"1"', '"NaN"', '"\\u0000"', '"\\ud800"', '"\\udc00\\ud800"', '"\\ufeff"')),
    Value('{"":0}', '{"":0}'),
    Value('{"__class__":1}', '{"__class__":1}'),
    Value("5000 digits", "9" * 5000),
    Value("a fraction of 5000 digits", "0." + "1" * 5000),
    Value("a very long string", json.dumps(FILLER * LONG, ensure_ascii=False)),
    Value("a very long list", "[" + "0," * 9_999 + "0]"),
    Value("a very long list of texts", "[" + '"",' * 4_999 + '""]'),
    Value("a list 60 deep", "[" * 60 + "]" * 60),
    Value("a list 80 deep", "[" * 80 + "]" * 80),
    Value("objects 80 deep", '{"a":' * 80 + "0" + "}" * 80),
    Value("many keys", "{" + ",".join(f'"k{n}":{n}' for n in range(3000)) + "}"),
    Value("a key twice", '{"a":1,"a":1}'),
    Value("nothing behind the colon", ""),
    Value("bare text", "abc"),
    Value("a comment", "/**/1"),
    Value("quote in a key", '{"\\"":1}'),
    Value("missing", None),
    Value("given twice", "0", twice=True),
)
"""For every field, whatever its type."""


def values_for(schema: Mapping[str, Any]) -> Iterator[Value]:
    """All values for one field.

    Args:
        schema: of the field, without references.
    """
    yield from EVERYWHERE
    for option in schema.get("anyOf", [schema]):
        yield from _around(option)


def _around(schema: Mapping[str, Any]) -> Iterator[Value]:
    """The values at the limits that a schema states, and one step to either side."""
    for name, step in (("minimum", 1), ("maximum", 1), ("exclusiveMinimum", 1), ("exclusiveMaximum", 1)):
        if name in schema:
            limit = schema[name]
            steps = (-step, 0, step) if "integer" in _kinds(schema) else (-step, -1e-9, 0, 1e-9, step)
            for added in steps:
                yield Value(f"{name}{added:+g}", json.dumps(limit + added))
    for name in ("minLength", "maxLength"):
        for added in (-1, 0, 1):
            if name in schema and schema[name] + added >= 0:
                yield Value(f"{name}{added:+d}", json.dumps("y" * (schema[name] + added)))
    for name in ("minItems", "maxItems"):
        for added in (-1, 0, 1):
            if name in schema and schema[name] + added >= 0:
                item = json.dumps(sample(schema.get("items", {})))
                yield Value(f"{name}{added:+d}", "[" + ",".join([item] * (schema[name] + added)) + "]")
    for name in ("maxProperties",):
        for added in (-1, 0, 1):
            if name in schema:
                item = sample(schema.get("additionalProperties", {}))
                yield Value(f"{name}{added:+d}", json.dumps({str(n): item for n in range(schema[name] + added)}))
    for choice in schema.get("enum", ()):
        yield Value(f"the choice {choice}", json.dumps(choice))
        if isinstance(choice, str):
            yield Value(f"{choice} in capitals", json.dumps(choice.upper()))
            yield Value(f"{choice} and a space", json.dumps(choice + " "))


def _kinds(schema: Mapping[str, Any]) -> list[str]:
    found = schema.get("type", [])
    return [found] if isinstance(found, str) else found


def sample(schema: Any, name: str = "") -> Any:
    """Some small value that a schema allows.

    Args:
        schema: without references.
        name: of the field, for names that must exist on the server.
    """
    if name in ("model", "adapter_name"):
        return {"model": "echo", "adapter_name": "poet"}[name]
    if "const" in schema:
        return schema["const"]
    if "enum" in schema:
        return schema["enum"][0]
    if "anyOf" in schema:
        return sample(schema["anyOf"][0], name)
    match next((kind for kind in _kinds(schema) if kind != "null"), "null"):
        case "object":
            return {key: sample(schema["properties"][key], key) for key in schema.get("required", ())}
        case "array":
            if "prefixItems" in schema:
                return [sample(place) for place in schema["prefixItems"]]
            return [sample(schema.get("items", {}))] * max(1, schema.get("minItems", 1))
        case "string":
            return "hi" if schema.get("minLength", 0) <= 2 <= schema.get("maxLength", 2) else "y" * schema["minLength"]
        case "integer":
            return max(1, schema.get("minimum", 1))
        case "number":
            return min(max(schema.get("minimum", 0), schema.get("exclusiveMinimum", -1) + 1), schema.get("maximum", 1))
        case "boolean":
            return False
        case _:
            return None
