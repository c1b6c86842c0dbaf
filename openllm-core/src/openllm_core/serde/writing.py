"""attrs values -> plain data -> JSON bytes.

Field names are the wire names; output is always legal JSON (NaN and infinities become null).
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, TypeGuard, cast

import attrs
import orjson

from .rule import rule_of


def dumps(obj: Any) -> bytes:
    """JSON bytes of plain data or attrs values; NaN and infinities become null, so the output is always legal."""
    return orjson.dumps(obj, default=_plain)


def _plain(obj: Any) -> Any:
    if _is_message(obj):
        return {
            name: value
            for name, omitted in _fields(type(obj))
            if not ((value := getattr(obj, name)) is None and omitted)
        }
    if isinstance(obj, (set, frozenset)):
        return sorted(cast("set[Any]", obj))
    raise TypeError(f"{type(obj).__name__} is not JSON serialisable")


def _is_message(obj: Any) -> TypeGuard[attrs.AttrsInstance]:
    return attrs.has(cast("type[Any]", type(obj)))


@functools.cache
def _fields(cls: type[Any]) -> tuple[tuple[str, bool], ...]:
    """Name of each field, and whether it is left out while it is None."""
    return tuple((a.name, rule_of(a).omitted) for a in attrs.fields(cls))


def unstructure(obj: Any, omit_none: bool = False) -> Any:
    """Plain dicts, lists and scalars of an attrs value; the inverse of `structure`.

    Args:
        omit_none: leave out all fields that are None, not only those declared so (`field(omitted=True)`), at every level of attrs values (never keys of plain dicts).
    """
    if _is_message(obj):
        found = ((name, getattr(obj, name), omitted or omit_none) for name, omitted in _fields(type(obj)))
        return {name: unstructure(v, omit_none) for name, v, omitted in found if not (omitted and v is None)}
    if isinstance(obj, dict):
        return {key: unstructure(v, omit_none) for key, v in cast("dict[Any, Any]", obj).items()}
    if isinstance(obj, (list, tuple)):
        return [unstructure(v, omit_none) for v in cast("Sequence[Any]", obj)]
    return obj
