"""What a server must take and refuse, by another hand: the JSON schemas of /openapi.json, read by `jsonschema`.

Where the document leaves an object open (`llm_config`, parts of a message) or a limit is of the server and not of the
message, the rule stands here a second time, written from the reference pages. `Reading` judges bodies; nothing here asks a
server.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any, cast

import jsonschema
import jsonschema_rs
from jsonschema.validators import extend

from openllm_core.config.generation import GenerationConfig, SamplingConfig
from openllm_core.config.shape import own_fields_of
from openllm_core.families import registry
from openllm_core.fields.requests import ExtraFields
from openllm_core.serde import json_schema

MAX_DEPTH = 64
INT64 = 2**63

TEXT = {"type": "string"}
STOP = {"anyOf": [TEXT | {"minLength": 1, "maxLength": 256}, {"type": "array", "maxItems": 4}, {"type": "null"}]}
STOP["anyOf"][1]["items"] = STOP["anyOf"][0]  # type: ignore[index]
ID = {"type": "integer", "minimum": 0, "maximum": INT64 - 1}
IDS = {"type": ["array", "null"], "items": ID, "maxItems": 128}
BIAS = {
    "type": ["object", "null"],
    "propertyNames": {"pattern": "^[0-9]{1,10}$"},
    "additionalProperties": {"type": "number", "minimum": -100, "maximum": 100},
    "maxProperties": 1024,
}
COUNT = {"type": ["integer", "null"], "minimum": 1, "maximum": 16}

PART = {
    "type": "object",
    "properties": {"type": {"enum": ["text", "refusal"]}},
    "required": ["type"],
    "allOf": [
        {
            "if": {"properties": {"type": {"const": kind}}, "required": ["type"]},
            "then": {"properties": {kind: TEXT}, "required": [kind]},
        }
        for kind in ("text", "refusal")
    ],
}
CALL = {
    "type": "object",
    "properties": {"function": {"type": "object", "properties": {"name": TEXT}, "required": ["name"]}},
    "required": ["function"],
}
CHOICE = {
    "anyOf": [
        {"type": "string", "enum": ["none", "auto", "required"]},
        {
            "type": "object",
            "properties": {
                "type": {"const": "function"},
                "function": {"type": "object", "properties": {"name": TEXT}, "required": ["name"]},
            },
            "required": ["type", "function"],
        },
        {"type": "null"},
    ]
}
OF_SERVER: dict[str, dict[str, Any]] = {
    "SamplingFields": {"n": COUNT, "stop": STOP, "stop_token_ids": IDS, "logit_bias": BIAS},
    "ChatMessage": {
        "content": {"anyOf": [TEXT, {"type": "array", "items": PART}, {"type": "null"}]},
        "tool_calls": {"type": ["array", "null"], "items": CALL},
    },
    "FunctionSpec": {"name": TEXT | {"pattern": "^[a-zA-Z0-9_.-]{1,64}$"}},
    "ChatCompletionRequest": {"tool_choice": CHOICE, "messages": {"maxItems": 4096}},
}
"""Component -> field -> what holds beyond the document. `SamplingFields` stands for both classes made of it."""


class Reading:
    """The document's schemas, completed, and what they say of bodies."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        self.schemas: dict[str, Any] = json.loads(json.dumps(document["components"]["schemas"]))
        for component, fields in OF_SERVER.items():
            names = ("ChatCompletionRequest", "CompletionRequest") if component == "SamplingFields" else (component,)
            for name in names:
                properties = self.schemas[name]["properties"]
                for field, rule in fields.items():
                    properties[field] = rule if "maxItems" not in rule or "type" in rule else properties[field] | rule
        self.schemas["GenerateRequest"]["properties"]["llm_config"] = llm_config_schema()
        self.schemas["AgentRequest"]["properties"]["parameters"] = agent_schema()
        self._judges: dict[
            int, tuple[Any, Any, Any]
        ] = {}  # by identity: writing a schema down takes longer than judging

    def resolved(self, schema: Any) -> Any:
        """A schema without references."""
        if isinstance(schema, list):
            return [self.resolved(item) for item in cast("list[Any]", schema)]
        if not isinstance(schema, dict):
            return schema
        known = cast("dict[str, Any]", schema)
        if "$ref" in known:
            rest = {key: value for key, value in known.items() if key != "$ref"}
            return self.resolved(self.schemas[known["$ref"].rpartition("/")[2]]) | rest
        return {key: self.resolved(value) for key, value in known.items()}

    def refuses(self, schema: Mapping[str, Any], body: str) -> str | None:
        """Why a body must be refused; None where it is as the schema wants it."""
        try:
            value = json.loads(
                body,
                parse_constant=_no_constant,
                object_pairs_hook=_no_repeats,
                parse_float=_finite,
                parse_int=_integer,
            )
            json.dumps(value, ensure_ascii=False).encode()  # lone surrogates have no bytes
        except (ValueError, RecursionError) as error:
            return f"no JSON: {str(error)[:80]}"
        if _depth(value) > MAX_DEPTH:
            return "too deep"
        if id(schema) not in self._judges:
            self._judges[id(schema)] = (schema, jsonschema_rs.validator_for(schema), Strict(schema))
        _, quick, strict = self._judges[id(schema)]
        if not _huge(body) and not quick.is_valid(value):  # strict only refuses more
            return f"not as the schema wants it: {body[:80]}"
        error = next(iter(strict.iter_errors(value)), None)
        return None if error is None else f"{error.json_path}: {error.message[:80]}"


def llm_config_schema() -> dict[str, Any]:
    """`llm_config`: the fields of its three classes and of the family, each of which may be null, flat or nested."""
    parts: dict[str, Any] = {}
    for cls in (GenerationConfig, SamplingConfig, ExtraFields):
        json_schema(cls, parts)
    generation = {name: _nullable(rule) for name, rule in parts["GenerationConfig"]["properties"].items()}
    flat = dict(generation)
    for cls in ("SamplingConfig", "ExtraFields"):
        flat |= {name: _nullable(rule) for name, rule in parts[cls]["properties"].items()}
    flat |= {"n": COUNT, "num_return_sequences": COUNT, "stop": STOP, "stop_token_ids": IDS, "logit_bias": BIAS}
    kinds = {"int": "integer", "float": "number", "str": "string", "bool": "boolean"}
    for name, fact in own_fields_of(registry.default()).items():
        flat[name] = {"type": [kinds[fact.type], "null"]} | ({"enum": [*fact.choices, None]} if fact.choices else {})
    flat["generation_config"] = {"type": ["object", "null"], "properties": generation, "additionalProperties": False}
    return {"type": "object", "properties": flat, "additionalProperties": False}


def agent_schema() -> dict[str, Any]:
    """`parameters` of /hf/agent: the fields of `llm_config` and one of its own."""
    made = llm_config_schema()
    made["properties"]["return_full_text"] = {"type": ["boolean", "null"]}
    return made


def _nullable(rule: Mapping[str, Any]) -> dict[str, Any]:
    made = dict(rule)
    if "anyOf" in made:
        made["anyOf"] = [*made["anyOf"], {"type": "null"}]
    elif isinstance(made.get("type"), str):
        made["type"] = [made["type"], "null"]
    return made


# -- reading JSON as the standard has it ----------------------------------------------------------------------------


def _no_constant(text: str) -> Any:
    raise ValueError(f"{text} is no JSON")


def _no_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len({key for key, _ in pairs}) != len(pairs):
        raise ValueError("a key twice")
    return dict(pairs)


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError("a number too large")
    return number


def _integer(text: str) -> int:
    if len(text) > 400:
        raise ValueError("a number too large")
    return int(text)


def _huge(body: str) -> bool:
    """Whether a body may hold numbers that the quick judge has no type for."""
    return re.search(r"\d{19}", body) is not None


def _depth(value: Any) -> int:
    inside = list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else None
    return 0 if inside is None else 1 + max(map(_depth, inside), default=0)


def _is_integer(checker: Any, value: Any) -> bool:
    """Whole numbers written as such, of 64 bits: 1.0 is a decimal here."""
    return isinstance(value, int) and not isinstance(value, bool) and -INT64 <= value < 2 * INT64


Strict: Any = extend(
    jsonschema.Draft202012Validator,
    type_checker=jsonschema.Draft202012Validator.TYPE_CHECKER.redefine("integer", _is_integer),
)
