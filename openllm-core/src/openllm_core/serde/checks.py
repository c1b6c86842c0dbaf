"""Single values: what kind they are, whether they are of a scalar type and within a rule, and the refusal if not.

Used by `reading.py`, which adds the path. Nothing here knows of fields or classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from .rule import Rule
from .text import MAX_ECHO

OBJECT, ARRAY, STRING, INTEGER, DECIMAL, BOOLEAN, NULL = (
    "an object",
    "an array",
    "a string",
    "an integer",
    "a number",
    "a boolean",
    "null",
)


class Refused(Exception):
    """A value does not fit. Path parts are added while it travels up, so that a good value costs nothing."""

    def __init__(self, code: str, says: str) -> None:
        super().__init__(says)
        self.code = code
        self.says = says  # continues "<path> …"
        self.path: list[str | int] = []  # innermost part first

    def under(self, part: str | int) -> Refused:
        """Add the part of the path that leads to the value just refused."""
        self.path.append(part)
        return self


def cut(text: str) -> str:
    """Text of at most MAX_ECHO characters, an ellipsis where it was longer."""
    return text if len(text) <= MAX_ECHO else text[: MAX_ECHO - 1] + "…"


def kind_of(value: Any) -> str:
    """What a value is, in words for a message."""
    if value is None:
        return NULL
    if isinstance(value, bool):
        return BOOLEAN
    if isinstance(value, int):
        return INTEGER
    if isinstance(value, float):
        return DECIMAL
    if isinstance(value, str):
        return STRING
    if isinstance(value, (list, tuple)):
        return ARRAY
    return OBJECT if isinstance(value, dict) else f"a {type(value).__name__}"


def wrong_type(want: str, value: Any) -> Refused:
    """The refusal of a value of another type than wanted."""
    return Refused("invalid_type", f"must be {want}, not {kind_of(value)}")


def _as_int(value: Any) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, float) and value.is_integer() and abs(value) >= 2**63:  # how the parser hands over 2**70
        side = "above_max" if value > 0 else "below_min"
        raise Refused(f"integer_{side}_value", "does not fit in 64 bits")
    raise wrong_type(INTEGER, value)


def _as_float(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise wrong_type(DECIMAL, value)
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise Refused("invalid_value", "must be a finite number")
    return number


def _as_str(value: Any) -> str:
    if not isinstance(value, str):
        raise wrong_type(STRING, value)
    return value


def _as_bool(value: Any) -> bool:
    if not isinstance(value, bool):
        raise wrong_type(BOOLEAN, value)
    return value


SCALARS: dict[Any, Callable[[Any], Any]] = {int: _as_int, float: _as_float, str: _as_str, bool: _as_bool}


def check_range(value: float, rule: Rule, kind: str) -> None:
    """Refuse a number outside the rule; `kind` is integer or decimal, for the code."""
    if rule.ge is not None and value < rule.ge:
        raise Refused(f"{kind}_below_min_value", f"must be >= {rule.ge}")
    if rule.gt is not None and value <= rule.gt:
        raise Refused(f"{kind}_below_min_value", f"must be > {rule.gt}")
    if rule.le is not None and value > rule.le:
        raise Refused(f"{kind}_above_max_value", f"must be <= {rule.le}")
    if rule.lt is not None and value >= rule.lt:
        raise Refused(f"{kind}_above_max_value", f"must be < {rule.lt}")


def check_length(length: int, rule: Rule, kind: str, units: str) -> None:
    """Refuse a length outside the rule; `kind` is string, array or object, for the code."""
    if rule.min_length is not None and length < rule.min_length:
        if kind == "array" and length == 0:
            raise Refused("empty_array", "must not be empty")
        raise Refused(f"{kind}_below_min_length", f"must have at least {rule.min_length} {units}")
    if rule.max_length is not None and length > rule.max_length:
        raise Refused(f"{kind}_above_max_length", f"must have at most {rule.max_length} {units}, not {length}")


def not_among(choices: Sequence[Any], value: Any) -> Refused:
    """The refusal of a value that is none of the allowed ones."""
    allowed = ", ".join(map(repr, choices))
    return Refused("invalid_value", f"must be one of {allowed}, not {cut(repr(value)[: MAX_ECHO + 1])}")
