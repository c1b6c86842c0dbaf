"""SamplingParams: how to draw one request's tokens and when to stop, validated once, text level.

Made by the service from any wire form; the engine derives `TokenSampling` from it. Knows nothing of HTTP or torch.
"""

from __future__ import annotations

import math
from typing import Any

import attrs

from ..errors import InvalidSamplingParams


def _number(low: float | None = None, high: float | None = None, *, above: float | None = None) -> Any:
    """Validator: a finite number within [low, high] and above `above`."""

    def check(instance: object, attribute: attrs.Attribute[Any], value: Any) -> None:
        if value is None:
            return
        name = attribute.name
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise InvalidSamplingParams(f"{name} must be a number.", param=name)
        if isinstance(value, float) and not math.isfinite(value):
            raise InvalidSamplingParams(f"{name} must be finite.", param=name)
        kind = "integer" if isinstance(value, int) and attribute.type in ("int", "int | None") else "decimal"
        if low is not None and value < low:
            raise InvalidSamplingParams(f"{name} must be >= {low:g}.", param=name, code=f"{kind}_below_min_value")
        if above is not None and value <= above:
            raise InvalidSamplingParams(f"{name} must be > {above:g}.", param=name, code=f"{kind}_below_min_value")
        if high is not None and value > high:
            raise InvalidSamplingParams(f"{name} must be <= {high:g}.", param=name, code=f"{kind}_above_max_value")

    return check


@attrs.frozen(kw_only=True)
class SamplingParams:
    """How to sample one request.

    Attributes:
        max_tokens: tokens to generate at most; None lets the engine use the rest of the context.
        temperature: 0 (greedy) to 2.
        top_k: 0 or -1 keeps all tokens.
        logit_bias: token id -> bias added to the logit.
        stop: strings that end the text, matched across token borders, not returned.
        stop_token_ids: ids that end the text besides the model's own.
        logprobs: None = none; k = the drawn token's and the k most likely ones'.
    """

    n: int = attrs.field(default=1, validator=_number(1, 128))
    max_tokens: int | None = attrs.field(default=None, validator=_number(1))
    min_tokens: int = attrs.field(default=0, validator=_number(0))
    temperature: float = attrs.field(default=1.0, validator=_number(0, 2))
    top_p: float = attrs.field(default=1.0, validator=_number(high=1, above=0))
    top_k: int = attrs.field(default=0, validator=_number(-1))
    min_p: float = attrs.field(default=0.0, validator=_number(0, 1))
    repetition_penalty: float = attrs.field(default=1.0, validator=_number(high=10, above=0))
    presence_penalty: float = attrs.field(default=0.0, validator=_number(-2, 2))
    frequency_penalty: float = attrs.field(default=0.0, validator=_number(-2, 2))
    logit_bias: dict[int, float] = attrs.field(factory=dict)
    seed: int | None = attrs.field(default=None, validator=_number(-(2**63), 2**63 - 1))
    stop: tuple[str, ...] = attrs.field(default=(), converter=tuple)
    stop_token_ids: tuple[int, ...] = attrs.field(default=(), converter=tuple)
    ignore_eos: bool = False
    logprobs: int | None = attrs.field(default=None, validator=_number(0, 20))
