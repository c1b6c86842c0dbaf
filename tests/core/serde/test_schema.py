"""JSON Schema of the types requests are read into: the OpenAPI document says what the reader does."""

from __future__ import annotations

from typing import Any, Literal

import attrs
import pytest

from openllm_core import schema as wire
from openllm_core.serde import field, json_schema


@attrs.frozen(kw_only=True)
class Node:
    """A tree.

    Only the first paragraph is the description.
    """

    label: str = field(min_length=1, max_length=9, help="Its label.")
    children: list[Node] = field(default=attrs.Factory(list), max_length=4)
    weight: float | None = field(default=None, gt=0, le=1)
    size: int = field(default=2, ge=1, lt=9)
    kind: Literal["a", "b"] = field(default="a")
    fixed: Literal["node"] = field(default="node")
    mixed: Literal[1, "x"] = field(default=1)
    maybe: Literal["a", "b"] | None = field(default=None)
    either: str | list[str] = field(default="")
    parent: Node | None = field(default=None)
    table: dict[str, int] = field(default=attrs.Factory(dict), le=3, max_length=5)
    place: tuple[int, str] = field(default=(1, "a"))
    free: dict[str, Any] | None = field(default=None)
    anything: Any = field(default=None)
    loose: int | Any = field(default=None)
    nothing: None = field(default=None)
    on: bool = field(default=True)
    word: str = field(default="x", choices=("x", "y"))
    hidden: int = attrs.field(default=0, init=False)


@pytest.fixture
def node() -> dict[str, Any]:
    components: dict[str, Any] = {}
    assert json_schema(Node, components) == {"$ref": "#/components/schemas/Node"}
    return components["Node"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("label", {"type": "string", "minLength": 1, "maxLength": 9, "description": "Its label."}),
        ("children", {"type": "array", "items": {"$ref": "#/components/schemas/Node"}, "maxItems": 4, "default": []}),
        ("weight", {"type": ["number", "null"], "exclusiveMinimum": 0, "maximum": 1, "default": None}),
        ("size", {"type": "integer", "minimum": 1, "exclusiveMaximum": 9, "default": 2}),
        ("kind", {"type": "string", "enum": ["a", "b"], "default": "a"}),
        ("fixed", {"const": "node", "default": "node"}),
        ("mixed", {"enum": [1, "x"], "default": 1}),
        ("maybe", {"anyOf": [{"type": "string", "enum": ["a", "b"]}, {"type": "null"}], "default": None}),
        ("either", {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}], "default": ""}),
        ("parent", {"anyOf": [{"$ref": "#/components/schemas/Node"}, {"type": "null"}], "default": None}),
        (
            "table",
            {
                "type": "object",
                "additionalProperties": {"type": "integer", "maximum": 3},
                "maxProperties": 5,
                "default": {},
            },
        ),
        (
            "place",
            {
                "type": "array",
                "prefixItems": [{"type": "integer"}, {"type": "string"}],
                "minItems": 2,
                "maxItems": 2,
                "default": [1, "a"],
            },
        ),
        ("free", {"type": ["object", "null"], "additionalProperties": True, "default": None}),
        ("anything", {"default": None}),
        ("loose", {"default": None}),
        ("nothing", {"type": "null", "default": None}),
        ("on", {"type": "boolean", "default": True}),
        ("word", {"type": "string", "enum": ["x", "y"], "default": "x"}),
    ],
)
def test_each_kind_of_field(node: dict[str, Any], name: str, expected: dict[str, Any]) -> None:
    """Types, ranges, lengths, choices, null and defaults are all there."""
    assert node["properties"][name] == expected


def test_a_class_says_what_it_requires(node: dict[str, Any]) -> None:
    """Fields without a default are required, those not read from a request are absent; the docstring describes."""
    assert node["required"] == ["label"]
    assert node["description"] == "A tree."
    assert "hidden" not in node["properties"]


def test_a_class_without_required_fields_has_no_list() -> None:
    """An empty `required` is left out."""
    components: dict[str, Any] = {}
    json_schema(wire.StreamOptions, components)
    assert "required" not in components["StreamOptions"]


def test_a_type_without_a_schema_is_a_mistake_of_ours() -> None:
    """An annotation that has no schema fails loudly."""
    with pytest.raises(TypeError, match="no schema"):
        json_schema(set, {})


def test_every_wire_class_has_a_schema() -> None:
    """Each message of the API can be described, and every reference leads to a component."""
    components: dict[str, Any] = {}
    classes = [c for c in vars(wire).values() if isinstance(c, type) and attrs.has(c) and c.__module__ == wire.__name__]
    for cls in classes:
        if cls not in (wire.Delta, wire.LogprobEntry):
            json_schema(cls, components)
    assert {"ChatCompletionRequest", "CompletionRequest", "GenerateRequest", "ErrorBody", "Metadata"} <= set(components)

    def references(value: Any) -> list[str]:
        if isinstance(value, dict):
            own = [value["$ref"]] if "$ref" in value else []
            return own + [found for v in value.values() for found in references(v)]
        return [found for v in value for found in references(v)] if isinstance(value, list) else []

    assert {r.rpartition("/")[2] for r in references(components)} <= set(components)


def test_every_request_field_is_described() -> None:
    """The document has a line of help for each field a caller can send."""
    components: dict[str, Any] = {}
    for cls in (wire.ChatCompletionRequest, wire.CompletionRequest, wire.GenerateRequest):
        json_schema(cls, components)
    for name, component in components.items():
        for field_name, facts in component["properties"].items():
            assert facts.get("description"), f"{name}.{field_name}"
