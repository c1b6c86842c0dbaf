"""attrs values -> plain data -> JSON bytes.

Field names are the wire names; output is always legal JSON (NaN and infinities become null).
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, TypeGuard, cast

import attrs
import orjson


def dumps(obj: Any) -> bytes:
    """JSON bytes of plain data or attrs values; NaN and infinities become null, so the output is always legal."""
    return orjson.dumps(obj, default=_plain)


def _plain(obj: Any) -> Any:
    if _is_message(obj):
        return {name: getattr(obj, name) for name in _names(type(obj))}
    if isinstance(obj, (set, frozenset)):
        return sorted(cast("set[Any]", obj))
    raise TypeError(f"{type(obj).__name__} is not JSON serialisable")


def _is_message(obj: Any) -> TypeGuard[attrs.AttrsInstance]:
    return attrs.has(cast("type[Any]", type(obj)))


@functools.cache
def _names(cls: type[Any]) -> tuple[str, ...]:
    return tuple(a.name for a in attrs.fields(cls))


def unstructure(obj: Any, omit_none: bool = False) -> Any:
    """Plain dicts, lists and scalars of an attrs value; the inverse of `structure`.

    Args:
        omit_none: leave out fields that are None, at every level of attrs values (never keys of plain dicts).
    """
    if _is_message(obj):
        pairs = ((name, getattr(obj, name)) for name in _names(type(obj)))
        return {name: unstructure(v, omit_none) for name, v in pairs if not (omit_none and v is None)}
    if isinstance(obj, dict):
        return {key: unstructure(v, omit_none) for key, v in cast("dict[Any, Any]", obj).items()}
    if isinstance(obj, (list, tuple)):
        return [unstructure(v, omit_none) for v in cast("Sequence[Any]", obj)]
    return obj
