"""SamplingParams: how to draw one request's tokens and when to stop, validated once, text level.

Made by the service from any wire form; the engine derives `TokenSampling` from it. Knows nothing of HTTP or torch.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, cast

import attrs

from ..errors import InvalidSamplingParams

BAN = -1e9
"""Bias that keeps a token from ever being drawn; finite, so that it travels as JSON and msgpack."""


def _integer(low: int | None = None, high: int | None = None) -> Any:
    """Validator: None, or an int (never a bool) within [low, high]."""

    def check(instance: object, attribute: attrs.Attribute[Any], value: Any) -> None:
        if value is None:
            return
        name = attribute.name
        if isinstance(value, bool) or not isinstance(value, int):
            raise InvalidSamplingParams(f"{name} must be an integer.", param=name, code="invalid_type")
        if low is not None and value < low:
            raise InvalidSamplingParams(f"{name} must be >= {low}.", param=name, code="integer_below_min_value")
        if high is not None and value > high:
            raise InvalidSamplingParams(f"{name} must be <= {high}.", param=name, code="integer_above_max_value")

    return check


def _decimal(low: float | None = None, high: float | None = None, *, above: float | None = None) -> Any:
    """Validator: a finite number within [low, high] and above `above`."""

    def check(instance: object, attribute: attrs.Attribute[Any], value: Any) -> None:
        name = attribute.name
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise InvalidSamplingParams(f"{name} must be a number.", param=name, code="invalid_type")
        if not math.isfinite(value):
            raise InvalidSamplingParams(f"{name} must be finite.", param=name, code="invalid_value")
        if low is not None and value < low:
            raise InvalidSamplingParams(f"{name} must be >= {low:g}.", param=name, code="decimal_below_min_value")
        if above is not None and value <= above:
            raise InvalidSamplingParams(f"{name} must be > {above:g}.", param=name, code="decimal_below_min_value")
        if high is not None and value > high:
            raise InvalidSamplingParams(f"{name} must be <= {high:g}.", param=name, code="decimal_above_max_value")

    return check


def _strings(value: str | Iterable[str]) -> tuple[str, ...]:
    """One stop string may come bare."""
    return (value,) if isinstance(value, str) else tuple(value)


def _check_stop(instance: object, attribute: attrs.Attribute[Any], value: tuple[Any, ...]) -> None:
    for index, text in enumerate(value):
        param = f"stop[{index}]"
        if not isinstance(text, str):
            raise InvalidSamplingParams(f"{param} must be a string.", param=param, code="invalid_type")
        if not text:
            raise InvalidSamplingParams(f"{param} must not be empty.", param=param, code="string_below_min_length")


def _check_token_id(token_id: Any, param: str) -> None:
    if isinstance(token_id, bool) or not isinstance(token_id, int):
        raise InvalidSamplingParams(f"{param} must be a token id.", param=param, code="invalid_type")
    if token_id < 0:
        raise InvalidSamplingParams(f"{param} must be >= 0.", param=param, code="integer_below_min_value")


def _check_ids(instance: object, attribute: attrs.Attribute[Any], value: tuple[Any, ...]) -> None:
    for index, token_id in enumerate(value):
        _check_token_id(token_id, f"{attribute.name}[{index}]")


def _check_bias(instance: object, attribute: attrs.Attribute[Any], value: Mapping[Any, Any]) -> None:
    for token_id, bias in value.items():
        param = f"logit_bias.{str(token_id)[:40]}"
        _check_token_id(token_id, param)
        if isinstance(bias, bool) or not isinstance(bias, (int, float)) or not math.isfinite(bias):
            raise InvalidSamplingParams(f"{param} must be a finite number.", param=param, code="invalid_type")


def _as_bias(value: Any) -> dict[int, float]:
    return dict(cast("Mapping[int, float]", value))


@attrs.frozen(kw_only=True)
class SamplingParams:
    """How to sample one request.

    Attributes:
        n: sequences to generate.
        max_tokens: tokens to generate at most; None lets the engine use the rest of the context.
        min_tokens: tokens before which no end token is drawn.
        temperature: 0 (greedy) to 2.
        top_k: 0 or -1 keeps all tokens.
        logit_bias: token id -> bias added to the logit; `BAN` forbids the token.
        stop: strings that end the text, matched across token borders, not returned.
        stop_token_ids: ids that end the text besides the model's own.
        ignore_eos: go on past the model's own end tokens.
        logprobs: None = none; k = the drawn token's and the k most likely ones'.

    Raises:
        InvalidSamplingParams: `param` names the field.
    """

    n: int = attrs.field(default=1, validator=_integer(1, 128))
    max_tokens: int | None = attrs.field(default=None, validator=_integer(1))
    min_tokens: int = attrs.field(default=0, validator=_integer(0))
    temperature: float = attrs.field(default=1.0, validator=_decimal(0, 2))
    top_p: float = attrs.field(default=1.0, validator=_decimal(high=1, above=0))
    top_k: int = attrs.field(default=0, validator=_integer(-1))
    min_p: float = attrs.field(default=0.0, validator=_decimal(0, 1))
    repetition_penalty: float = attrs.field(default=1.0, validator=_decimal(high=10, above=0))
    presence_penalty: float = attrs.field(default=0.0, validator=_decimal(-2, 2))
    frequency_penalty: float = attrs.field(default=0.0, validator=_decimal(-2, 2))
    logit_bias: dict[int, float] = attrs.field(factory=dict[int, float], converter=_as_bias, validator=_check_bias)
    seed: int | None = attrs.field(default=None, validator=_integer(-(2**63), 2**63 - 1))
    stop: tuple[str, ...] = attrs.field(default=(), converter=_strings, validator=_check_stop)
    stop_token_ids: tuple[int, ...] = attrs.field(default=(), converter=tuple[int, ...], validator=_check_ids)
    ignore_eos: bool = attrs.field(default=False, validator=attrs.validators.instance_of(bool))
    logprobs: int | None = attrs.field(default=None, validator=_integer(0, 20))

    def __attrs_post_init__(self) -> None:
        """Check what needs two fields."""
        if self.max_tokens is not None and self.min_tokens > self.max_tokens:
            raise InvalidSamplingParams(
                f"min_tokens must be <= max_tokens ({self.max_tokens}).",
                param="min_tokens",
                code="integer_above_max_value",
            )
