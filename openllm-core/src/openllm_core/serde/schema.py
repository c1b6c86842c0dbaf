"""JSON Schema of the types `serde` reads: what `serde.json_schema` gives, and the OpenAPI document is made of.

Follows JSON Schema 2020-12 as OpenAPI 3.1 has it; classes become `$ref`s to components.
"""

from __future__ import annotations

import types
import typing
from typing import Any, Literal

import attrs

from .rule import NO_RULE, Rule, rule_of
from .writing import unstructure

_NAMES: dict[Any, str] = {int: "integer", float: "number", str: "string", bool: "boolean"}


def json_schema(cls: Any, components: dict[str, Any]) -> dict[str, Any]:
    """JSON Schema (2020-12, as OpenAPI 3.1 has it) of a type.

    Args:
        cls: any type `structure` reads.
        components: filled with the schema of every attrs class met, under its name.

    Returns:
        The schema; `{"$ref": "#/components/schemas/<name>"}` for an attrs class.
    """
    return _schema(cls, NO_RULE, components)


def _schema(target: Any, rule: Rule, components: dict[str, Any]) -> dict[str, Any]:
    origin = typing.get_origin(target)
    args = typing.get_args(target)
    if origin in (typing.Union, types.UnionType):
        return _any_of([_schema(m, rule, components) for m in args])
    if origin is Literal:
        return _literal_schema(args)
    if origin is tuple and args[-1] is not ...:
        places = [_schema(member, rule, components) for member in args]
        return {"type": "array", "prefixItems": places, "minItems": len(places), "maxItems": len(places)}
    if origin in (list, tuple) or target in (list, tuple):
        item_rule = attrs.evolve(rule, min_length=None, max_length=None)
        schema: dict[str, Any] = {"type": "array", "items": _schema(args[0] if args else Any, item_rule, components)}
        return schema | _lengths(rule, "Items")
    if origin is dict or target is dict:
        item_rule = attrs.evolve(rule, min_length=None, max_length=None)
        values = _schema(args[1] if args else Any, item_rule, components)
        return {"type": "object", "additionalProperties": values or True} | _lengths(rule, "Properties")
    if target is Any or target is object:
        return {}
    if target is None or target is type(None):
        return {"type": "null"}
    if target in _NAMES:
        return _scalar_schema(target, rule)
    if isinstance(target, type) and attrs.has(target):
        return _class_schema(target, components)
    raise TypeError(f"serde has no schema for {target!r}")


def _scalar_schema(target: type[Any], rule: Rule) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": _NAMES[target]}
    if target is str:
        schema |= _lengths(rule, "Length")
    elif target is not bool:
        bounds = {"minimum": rule.ge, "exclusiveMinimum": rule.gt, "maximum": rule.le, "exclusiveMaximum": rule.lt}
        schema |= {key: bound for key, bound in bounds.items() if bound is not None}
    if rule.choices is not None:
        schema["enum"] = list(rule.choices)
    return schema


def _lengths(rule: Rule, suffix: str) -> dict[str, Any]:
    bounds = {f"min{suffix}": rule.min_length, f"max{suffix}": rule.max_length}
    return {key: bound for key, bound in bounds.items() if bound is not None}


def _literal_schema(choices: tuple[Any, ...]) -> dict[str, Any]:
    if len(choices) == 1:
        return {"const": choices[0]}
    return (
        {"type": "string", "enum": list(choices)}
        if all(isinstance(c, str) for c in choices)
        else {"enum": list(choices)}
    )


def _any_of(members: list[dict[str, Any]]) -> dict[str, Any]:
    if {} in members:
        return {}
    others = [m for m in members if m != {"type": "null"}]
    if len(others) == len(members):
        return {"anyOf": members}
    if len(others) == 1 and isinstance(others[0].get("type"), str) and "enum" not in others[0]:
        return others[0] | {"type": [others[0]["type"], "null"]}
    return {"anyOf": [*others, {"type": "null"}]}


def _class_schema(cls: type[Any], components: dict[str, Any]) -> dict[str, Any]:
    name = cls.__name__
    reference = {"$ref": f"#/components/schemas/{name}"}
    if name in components:
        return reference
    components[name] = {}  # set first, so that a type which contains itself ends
    hints = typing.get_type_hints(cls)
    properties: dict[str, Any] = {}
    required: list[str] = []
    for attribute in attrs.fields(cls):
        if not attribute.init:
            continue
        rule = rule_of(attribute)
        schema = _schema(hints.get(attribute.name, Any), rule, components)
        facts: dict[str, Any] = {"description": rule.help} if rule.help else {}
        if attribute.default is attrs.NOTHING:
            required.append(attribute.name)
        else:
            facts["default"] = unstructure(_default_of(attribute))
        properties[attribute.name] = schema | facts
    doc = (cls.__doc__ or "").strip().split("\n\n")[0]
    components[name] = {"type": "object", "title": name, "description": " ".join(doc.split()), "properties": properties}
    if required:
        components[name]["required"] = required
    return reference


def _default_of(attribute: attrs.Attribute[Any]) -> Any:
    default: Any = attribute.default
    return default.factory() if isinstance(default, attrs.Factory) else default  # type: ignore[arg-type]
