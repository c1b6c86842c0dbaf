"""What the echo "model" says where its answer must have a form, and where it is to call a tool.

`EchoBackend` asks for each sequence. The least instance of a JSON schema stands in for a model's answer, so that clients and
recipes can be tried without one; a scripted call is written as most families write calls (`<tool_call>`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, cast

from openllm_core.errors import InvalidRequest

from ..base import TokenGuide

TOOLS, RESULT, TURN = b"<tools>", b"<tool_response>", b"<|im_start|>"  # what the byte tokenizer's prompts say of tools
MAX_DEPTH = 16
KINDS = ("choice", "json", "json_object", "structural_tag")
FORMATS = {
    "date": "2026-01-31",
    "time": "12:00:00Z",
    "date-time": "2026-01-31T12:00:00Z",
    "email": "echo@example.com",
    "uuid": "00000000-0000-4000-8000-000000000000",
    "uri": "https://example.com",
}

Schema = Mapping[str, Any]


def parse_call(text: str) -> tuple[str, Any]:
    """`name({"a": 1})` as name and arguments.

    Raises:
        ValueError: it is not written so.
    """
    name, bracket, rest = text.strip().partition("(")
    if not bracket or not rest.endswith(")"):
        raise ValueError(f"{text[:60]!r} is not NAME(JSON)")
    return name, json.loads(rest[:-1] or "{}")


def calls_now(prompt: bytes) -> bool:
    """Whether a prompt tells of tools, and its last turn brings no result of one."""
    return TOOLS in prompt and RESULT not in prompt[_last_turn(prompt) :]


def _last_turn(prompt: bytes) -> int:
    """Where the turn begins that the answer follows."""
    at = prompt.rfind(TURN)
    return prompt.rfind(TURN, 0, max(at, 0))


def written(call: tuple[str, Any]) -> str:
    """A call in the form that the byte tokenizer's prompts show."""
    return f"<tool_call>\n{json.dumps({'name': call[0], 'arguments': call[1]})}\n</tool_call>"


def answer_to(guide: TokenGuide, reply: str | None, call: tuple[str, Any] | None) -> str:
    """What is said under a guide.

    Args:
        reply: the script's; said where it is JSON and JSON is asked for.
        call: the script's; its arguments are those of the tool it names.

    Raises:
        InvalidRequest: there is no such answer.
    """
    match guide.kind:
        case "choice":
            return guide.value[0]
        case "json" | "json_object":
            if reply is not None and _is_object(reply):
                return reply
            return json.dumps(instance(json.loads(str(guide.value or "{}"))))
        case "structural_tag":
            return _said(json.loads(str(guide.value))["format"], reply, call)
        case _:
            raise InvalidRequest(f"{guide.param}: the echo backend has no {guide.kind}.", param=guide.param)


def _is_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except ValueError:
        return False


def _said(part: Any, reply: str | None, call: tuple[str, Any] | None) -> str:
    match part["type"]:
        case "const_string":
            return str(part["value"])
        case "any_text":
            return ""
        case "json_schema":
            return reply if reply is not None and _is_object(reply) else _written(part, instance(part["json_schema"]))
        case "sequence":
            return "".join(_said(element, reply, call) for element in part["elements"])
        case "or":
            return _said(part["elements"][0 if call is not None else -1], reply, call)
        case "tag":
            return part["begin"] + _said(part["content"], None, call) + part["end"]
        case "tags_with_separator":
            tags = part["tags"]
            if call is not None and (named := [tag for tag in tags if call[0] in tag["begin"]]):
                return str(named[0]["begin"] + _written(named[0]["content"], call[1]) + named[0]["end"])
            return _said(tags[0], reply, call)
        case other:
            raise InvalidRequest(f"the echo backend has no {other}.")


def _written(part: Mapping[str, Any], value: Any) -> str:
    """A value of a schema in the part's style: JSON, or each member between tags."""
    if part.get("style") != "qwen_xml" or not isinstance(value, dict):
        return json.dumps(value)
    members = cast("dict[str, Any]", value)
    texts = {key: one if isinstance(one, str) else json.dumps(one) for key, one in members.items()}
    return "\n".join(f"<parameter={key}>\n{text}\n</parameter>" for key, text in texts.items())


def instance(schema: Any, root: Schema | None = None, depth: int = 0) -> Any:
    """The least value that fits a JSON schema, as far as types, bounds, names and references go."""
    if not isinstance(schema, dict) or depth > MAX_DEPTH:
        return None if depth > MAX_DEPTH else {}
    found = cast("dict[str, Any]", schema)
    root = found if root is None else root
    if "$ref" in found:
        return instance(_referred(str(found["$ref"]), root), root, depth + 1)
    if "const" in found:
        return found["const"]
    if found.get("enum"):
        return found["enum"][0]
    for several in ("anyOf", "oneOf", "allOf"):
        if found.get(several):
            return instance(found[several][0], root, depth + 1)
    kind: Any = found.get("type", "object")
    first: str = cast("list[str]", kind)[0] if isinstance(kind, list) else kind
    return _of_type(first, found, root, depth)


def _of_type(kind: str, schema: Schema, root: Schema, depth: int) -> Any:
    match kind:
        case "string":
            text = FORMATS.get(schema.get("format", ""), "echo")
            return text.ljust(schema.get("minLength", 0), "o")[: schema.get("maxLength", 1 << 20)]
        case "integer" | "number":
            least = schema.get("minimum", schema.get("exclusiveMinimum", -1) + 1)
            return min(least, schema.get("maximum", least))
        case "boolean":
            return True
        case "null":
            return None
        case "array":
            return [instance(schema.get("items", {}), root, depth + 1)] * schema.get("minItems", 1)
        case _:
            properties: dict[str, Any] = schema.get("properties", {})
            wanted = schema.get("required") or properties
            return {name: instance(properties.get(name, {}), root, depth + 1) for name in wanted}


def _referred(path: str, root: Schema) -> Any:
    found: Any = root
    for name in path.removeprefix("#/").split("/"):
        found = cast("dict[str, Any]", found).get(name, {}) if isinstance(found, dict) else {}
    return found
