"""`field(...)`: one field of a wire message with its range, length, allowed values and help.

Used by every message class through `openllm_core.serde`; read by the reader and by the schema maker.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attrs

_KEY = "wire"


@attrs.frozen(kw_only=True)
class Rule:
    """What a field's type does not say: ranges, lengths, allowed values, whether null is written, and one line of help."""

    ge: float | None = None
    gt: float | None = None
    le: float | None = None
    lt: float | None = None
    min_length: int | None = None
    max_length: int | None = None
    choices: tuple[Any, ...] | None = None
    omitted: bool = False
    help: str = ""


NO_RULE = Rule()


def field(
    default: Any = attrs.NOTHING,
    *,
    ge: float | None = None,
    gt: float | None = None,
    le: float | None = None,
    lt: float | None = None,
    min_length: int | None = None,
    max_length: int | None = None,
    choices: Sequence[Any] | None = None,
    omitted: bool = False,
    help: str = "",
) -> Any:
    """Declare one field of a wire message; a field without a default is required.

    Args:
        default: value when absent; `attrs.Factory` for a mutable one.
        ge, gt, le, lt: range of a number, or of each number of a list.
        min_length, max_length: characters of a string, items of a list, keys of an object.
        choices: allowed values.
        omitted: left out of what is written while it is None, as clients of its format expect.
        help: one line for the reference page and the OpenAPI document.
    """
    rule = Rule(
        ge=ge,
        gt=gt,
        le=le,
        lt=lt,
        min_length=min_length,
        max_length=max_length,
        choices=None if choices is None else tuple(choices),
        omitted=omitted,
        help=help,
    )
    return attrs.field(default=default, metadata={_KEY: rule})


def rule_of(attribute: attrs.Attribute[Any]) -> Rule:
    """The rule a field was declared with; an empty one for a plain attrs field."""
    return attribute.metadata.get(_KEY, NO_RULE)
