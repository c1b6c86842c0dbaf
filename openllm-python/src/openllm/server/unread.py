"""Keys that no reader takes, in the objects of an OpenAI request whose shape depends on their `type`.

`body` asks after it has read a message: what is a class of the schema is judged there, and these stay plain data. They are
named or refused like any other unknown field.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

PART = frozenset({"type", "text", "refusal"})
CALL = frozenset({"id", "type", "index", "function"})
CALLED = frozenset({"name", "arguments"})
CHOICE = frozenset({"type", "function"})
CHOSEN = frozenset({"name"})
FORMAT = frozenset({"type", "json_schema"})
NAMED_SCHEMA = frozenset({"name", "description", "schema", "strict"})


def unread(data: Any) -> Iterator[str]:
    """Paths of such keys in a request's body, which was valid."""
    if not isinstance(data, dict):
        return
    body = cast("dict[str, Any]", data)
    for index, message in enumerate(_objects(body.get("messages"))):
        where = f"messages[{index}]"
        for number, part in enumerate(_objects(message.get("content"))):
            yield from _others(part, PART, f"{where}.content[{number}]")
        for number, call in enumerate(_objects(message.get("tool_calls"))):
            yield from _others(call, CALL, f"{where}.tool_calls[{number}]")
            yield from _others(call.get("function"), CALLED, f"{where}.tool_calls[{number}].function")
    for name, keys, inner, inner_keys in (
        ("tool_choice", CHOICE, "function", CHOSEN),
        ("response_format", FORMAT, "json_schema", NAMED_SCHEMA),
    ):
        value = body.get(name)
        if isinstance(value, dict):
            yield from _others(value, keys, name)
            yield from _others(cast("dict[str, Any]", value).get(inner), inner_keys, f"{name}.{inner}")


def _objects(value: Any) -> list[dict[str, Any]]:
    """The members of a list of objects; of anything else, none."""
    if not isinstance(value, list):
        return []
    members = cast("list[Any]", value)
    return [member if isinstance(member, dict) else {} for member in members]


def _others(value: Any, known: frozenset[str], path: str) -> Iterator[str]:
    if isinstance(value, dict):
        for key in cast("dict[str, Any]", value):
            if key not in known:
                yield f"{path}.{key[:200]}"
