"""Which keywords of a JSON schema xgrammar does not enforce: it passes over them without a word.

Called by `guiding` before a schema is compiled. Follows what vLLM asks before it gives a schema to xgrammar
(vllm 0.32, v1/structured_output/backend_xgrammar.py), keyword by keyword; knows nothing of tokens.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

FORMATS = frozenset(
    (
        "email", "date", "time", "date-time", "duration", "ipv4", "ipv6", "hostname", "uuid", "uri", "uri-reference",
        "uri-template", "json-pointer", "relative-json-pointer",
    )
)  # fmt: skip
NEVER = (
    "multipleOf", "contains", "minContains", "maxContains", "not", "if", "dependentRequired", "dependentSchemas",
)  # fmt: skip
BY_NAME = ("properties", "patternProperties", "$defs", "definitions")
"""Keywords whose value holds schemas by name, so that its keys are no keywords."""
VALUES = ("enum", "const", "default", "examples")
"""Keywords whose value is data."""


def unenforced(schema: Any) -> str | None:
    """What of a schema would be passed over, for a message; None where all is enforced."""
    for part in _schemas(schema):
        for found in _of_one(part):
            return found
    return None


def _schemas(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, list):
        for item in cast("list[Any]", value):
            yield from _schemas(item)
    if not isinstance(value, dict):
        return
    schema = cast("dict[str, Any]", value)
    yield schema
    for name, inner in schema.items():
        if name in BY_NAME and isinstance(inner, dict):
            for named in cast("dict[str, Any]", inner).values():
                yield from _schemas(named)
        elif name not in VALUES:
            yield from _schemas(inner)


def _of_one(schema: dict[str, Any]) -> Iterator[str]:
    yield from (name for name in NEVER if name in schema)
    if schema.get("uniqueItems") is True:
        yield "uniqueItems"
    form = schema.get("format")
    if schema.get("type") == "string" and form is not None and form not in FORMATS:
        yield f"format {str(form)[:40]!r}"
    if _form_and_length(schema):
        yield "minLength or maxLength beside pattern or format"
    names, patterns = schema.get("propertyNames"), schema.get("patternProperties")
    if names is not None and ("properties" in schema or patterns is not None or _form_and_length(names)):
        yield "propertyNames beside properties"
    if patterns is not None and ("properties" in schema or len(patterns) > 1):
        yield "patternProperties beside other properties"
    every = schema.get("allOf")
    if isinstance(every, list) and len(cast("list[Any]", every)) > 1:
        yield "allOf of several schemas"


def _form_and_length(schema: Any) -> bool:
    return isinstance(schema, dict) and bool(
        {"pattern", "format"} & schema.keys() and {"minLength", "maxLength"} & schema.keys()
    )
