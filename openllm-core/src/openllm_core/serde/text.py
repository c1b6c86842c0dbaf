"""Strict parsing of JSON text: what `serde.loads` does before any type is looked at.

Everything here is one pass of compiled code over the bytes, so that a hostile body costs no more
than an honest one of its size.
"""

from __future__ import annotations

import re
from typing import Any, cast

import orjson

from ..errors import InvalidRequest

MAX_DEPTH = 64
MAX_ECHO = 200

# One pass over a string literal, closed or not; possessive, so that no input makes it walk back.
_STRING_LITERAL = re.compile(rb'"(?:[^"\\]++|\\.)*+"?', re.DOTALL)
_NOT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_AS_ARRAYS = bytes.maketrans(
    b"{}", b"[]"
)  # one kind of pair, so that a pass takes away one level whatever stands in what


def loads(data: bytes | bytearray | memoryview | str, max_depth: int = MAX_DEPTH) -> Any:
    """Parse JSON strictly: UTF-8, one value, no NaN, no duplicate keys, no lone surrogates, no byte order mark.

    Args:
        data: the body.
        max_depth: arrays and objects that may stand inside each other; checked before parsing.

    Raises:
        InvalidRequest: code `json_too_deep` or `invalid_json`.
    """
    raw = data.encode("utf-8", "surrogatepass") if isinstance(data, str) else bytes(data)
    outside = _STRING_LITERAL.sub(b"", raw)
    if outside.count(b"[") + outside.count(b"{") > max_depth:
        _check_depth(outside.translate(_AS_ARRAYS, _NOT_BRACKETS), max_depth)
    try:
        value = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise InvalidRequest(f"Not valid JSON: {str(error)[:MAX_ECHO]}.", code="invalid_json") from None
    # Each key of an object is followed by the only kind of colon outside a string: fewer keys than colons = repeats.
    if (colons := outside.count(b":")) and _count_keys(value) != colons:
        raise InvalidRequest("Not valid JSON: an object has the same key twice.", code="invalid_json")
    return value


def _check_depth(brackets: bytes, max_depth: int) -> None:
    """Refuse nesting past `max_depth` by removing innermost pairs, one level a pass."""
    for _ in range(max_depth):
        shorter = brackets.replace(b"[]", b"")
        if len(shorter) == len(brackets):
            break
        brackets = shorter
    if b"[]" in brackets or len(brackets) - len(brackets.lstrip(b"[")) > max_depth:
        raise InvalidRequest(f"JSON is nested deeper than {max_depth} levels.", code="json_too_deep")


def _count_keys(value: Any) -> int:
    if isinstance(value, dict):
        members = cast("dict[str, Any]", value)
        return len(members) + sum(_count_keys(v) for v in members.values() if isinstance(v, (dict, list)))
    return sum(_count_keys(v) for v in cast("list[Any]", value) if isinstance(v, (dict, list)))
