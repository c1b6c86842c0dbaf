"""SamplingParams: how to draw one request's tokens and when to stop, validated once, text level.

Made by the service from any wire form; the engine derives `TokenSampling` from it. Knows nothing of HTTP or torch.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, cast

import attrs

from ..errors import InvalidSamplingParams
from .guide import Guide

if TYPE_CHECKING:
    from .generation import GenerationConfig

LEAST_PENALTY = 0.01
"""Smaller divisors of logits make them infinite in the arithmetic of models."""

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
        guide: what the text must be; for backends that can guide.

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
    repetition_penalty: float = attrs.field(default=1.0, validator=_decimal(LEAST_PENALTY, 10))
    presence_penalty: float = attrs.field(default=0.0, validator=_decimal(-2, 2))
    frequency_penalty: float = attrs.field(default=0.0, validator=_decimal(-2, 2))
    logit_bias: dict[int, float] = attrs.field(factory=dict[int, float], converter=_as_bias, validator=_check_bias)
    seed: int | None = attrs.field(default=None, validator=_integer(-(2**63), 2**63 - 1))
    stop: tuple[str, ...] = attrs.field(default=(), converter=_strings, validator=_check_stop)
    stop_token_ids: tuple[int, ...] = attrs.field(default=(), converter=tuple[int, ...], validator=_check_ids)
    ignore_eos: bool = attrs.field(default=False, validator=attrs.validators.instance_of(bool))
    logprobs: int | None = attrs.field(default=None, validator=_integer(0, 20))
    guide: Guide | None = None

    def __attrs_post_init__(self) -> None:
        """Check what needs two fields."""
        if self.max_tokens is not None and self.min_tokens > self.max_tokens:
            raise InvalidSamplingParams(
                f"min_tokens must be <= max_tokens ({self.max_tokens}).",
                param="min_tokens",
                code="integer_above_max_value",
            )

    @classmethod
    def from_generation_config(cls, config: GenerationConfig, **values: Any) -> SamplingParams:
        """Sample as a generation configuration says, save what `values` say; None is not said.

        Args:
            values: fields, and 0.3.5's: `max_new_tokens` for `max_tokens`, `best_of` where it equals `n`,
                `use_beam_search=False`.

        Raises:
            ValueError: both `max_tokens` and `max_new_tokens`.
            InvalidSamplingParams: `param` names the field.
        """
        said = {name: value for name, value in values.items() if value is not None}
        if "max_tokens" in said and "max_new_tokens" in said:
            raise ValueError("max_tokens and max_new_tokens are one thing; give one.")
        fields: dict[str, Any] = {
            "max_tokens": said.pop("max_new_tokens", config.max_new_tokens),
            "min_tokens": config.min_new_tokens or 0,
            **{name: getattr(config, name) for name in ("temperature", "top_k", "top_p", "repetition_penalty")},
        }
        if said.pop("use_beam_search", False):
            raise InvalidSamplingParams("Beam search is not offered.", param="use_beam_search")
        best_of = said.pop("best_of", None)
        if best_of is not None and best_of != said.get("n", 1):
            raise InvalidSamplingParams("best_of must equal n.", param="best_of")
        if unknown := sorted(said.keys() - {a.name for a in attrs.fields(cls)}):
            raise InvalidSamplingParams(f"{unknown[0]} is not a sampling field.", param=unknown[0])
        return cls(**fields | said)

    def as_dict(self) -> dict[str, Any]:
        """Plain data: every field by name."""
        return attrs.asdict(self)

    def to_vllm(self) -> Any:
        """The same as `vllm.SamplingParams`.

        Raises:
            MissingDependency: vllm is not installed.
        """
        from .. import _bridges

        return _bridges.vllm_sampling_params(self)
