"""Requests -> SamplingParams: the one place where wire fields become sampling, for every route.

Called by the service. `to_sampling_params` reads the `llm_config` of `/v1/generate*`, `sampling_from_openai` the OpenAI
routes. What a backend cannot do is refused by the table in `table.py`, with the field named. Knows nothing of HTTP.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any, cast

import attrs

from ..config.generation import GENERATION_FIELDS, SAMPLING_FIELDS, GenerationConfig, SamplingConfig
from ..config.llm import LLMConfig
from ..config.sampling import BAN, SamplingParams
from ..config.shape import own_fields_of, read_own
from ..errors import InvalidRequest, InvalidSamplingParams, UnsupportedFeature
from ..families import registry
from ..families.spec import FamilySpec
from ..schema import ChatCompletionRequest, CompletionRequest
from ..serde import field, structure
from .guides import GUIDE_FIELDS, guide_of
from .table import can_do, column_of, refuse, settle

PREFIX = "llm_config"


@attrs.frozen(kw_only=True)
class ExtraFields:
    """Sampling fields `/v1/generate*` takes beside those of 0.3.5."""

    max_tokens: int | None = field(default=None, help="Newer name of max_new_tokens.")
    min_tokens: int | None = field(default=None, help="Newer name of min_new_tokens.")
    seed: int | None = field(default=None, ge=-(2**63), le=2**63 - 1, help="Makes sampling repeatable.")
    min_p: float | None = field(default=None, ge=0, le=1, help="Share of the best token's probability a token needs.")
    logit_bias: dict[str, float] | None = field(default=None, help="Token id -> bias, -100..100.")
    stop_token_ids: list[int] | None = field(default=None, ge=0, help="Ids that end the text.")
    response_format: dict[str, Any] | None = field(default=None, help="Form of the text, as OpenAI's routes take it.")
    guided_json: dict[str, Any] | str | None = field(default=None, help="JSON schema that the text must fit.")
    guided_regex: str | None = field(default=None, help="Regular expression that the text must match.")
    guided_choice: list[str] | None = field(default=None, help="Texts of which the answer is one.")
    guided_grammar: str | None = field(default=None, help="Grammar (EBNF) that the text must follow.")
    structured_outputs: dict[str, Any] | None = field(default=None, help="One of the above, in vLLM's newer form.")


EXTRA_FIELDS: tuple[str, ...] = tuple(a.name for a in attrs.fields(ExtraFields))


# -- /v1/generate* --------------------------------------------------------------------------------------------------


@attrs.define
class _Said:
    """What a request stated: validated values by name, and the path each was sent at."""

    values: dict[str, Any] = attrs.Factory(dict[str, Any])
    paths: dict[str, str] = attrs.Factory(dict[str, str])

    def one_of(self, names: Iterable[str], defaults: Mapping[str, Any]) -> tuple[str, Any] | None:
        """The stated value among names that mean one thing; one that only repeats the default gives way.

        Raises:
            InvalidRequest: two of them differ from the default and from each other.
        """
        stated = [(name, self.values[name]) for name in names if name in self.values]
        changed = [pair for pair in stated if pair[1] != defaults.get(pair[0])]
        for name, value in changed[1:]:
            if value != changed[0][1]:
                first = changed[0][0]
                raise InvalidRequest(
                    f"{self.paths[name]} and {self.paths[first]} mean the same and differ.", param=self.paths[name]
                )
        return next(iter(changed or stated), None)


def to_sampling_params(
    llm_config: Mapping[str, Any],
    *,
    family: FamilySpec | str,
    backend: str = "pt",
    defaults: LLMConfig | None = None,
) -> tuple[SamplingParams, LLMConfig, list[str]]:
    """Read the `llm_config` of a `/v1/generate*` request.

    Args:
        llm_config: own, generation and sampling fields, flat or with `generation_config` nested; null is "not said".
        family: of the served model; the own fields are those of its compat family.
        defaults: the server's configuration, as `fields.settle` gave it; default: the family's.

    Returns:
        Sampling, whose `max_tokens` is None unless the request asked for other than the default: then
        `effective["max_new_tokens"]` is a default, which a short context may cut; the effective configuration; paths of what was accepted but has no effect on a server.

    Raises:
        InvalidRequest: unknown field, wrong type or range; `param` is `llm_config.<field>`.
        UnsupportedFeature: a value that the backend cannot do.
    """
    spec = family if isinstance(family, FamilySpec) else registry.find(family)
    if defaults is None:
        defaults, _ = settle(LLMConfig.for_model(spec, environ={}), backend)
    said, own = _read(llm_config, spec)
    column = column_of(backend, spec)
    refused = [(name, value) for name, value in said.values.items() if not can_do(name, value, column)]
    for name, value in refused:
        if value == {**spec.generation, **spec.sampling}.get(name):
            del said.values[name]  # a client that repeats the family's default asks for nothing new
        else:
            refuse(name, value, column, said.paths[name])
    sampling, effective = _compose(said, defaults, spec)
    ignored = [f"{PREFIX}.{name}" for name, value in own.items() if value != defaults.own.get(name)]
    return sampling, effective.with_values(own), ignored


def _read(llm_config: Mapping[str, Any], spec: FamilySpec) -> tuple[_Said, dict[str, Any]]:
    """Check names and types; a flat field beats the nested one of the same name."""
    own_fields = own_fields_of(spec)
    flat = {key: value for key, value in llm_config.items() if key != "generation_config"}
    nested = llm_config.get("generation_config")
    if nested is not None and not isinstance(nested, dict):
        param = f"{PREFIX}.generation_config"
        raise InvalidRequest(f"{param} must be an object.", code="invalid_type", param=param)
    said = _Said()
    raw: dict[str, Any] = {}
    known = (*GENERATION_FIELDS, *SAMPLING_FIELDS, *EXTRA_FIELDS, *own_fields)
    for prefix, names, values in (
        (f"{PREFIX}.generation_config", GENERATION_FIELDS, cast("dict[str, Any]", nested or {})),
        (PREFIX, known, flat),
    ):
        for name, value in values.items():
            if name not in names:
                raise _unknown(prefix, str(name), known)
            if value is not None:
                if name in raw:  # it gives way, and must be sound all the same
                    _check(name, raw[name], said.paths[name])
                raw[name], said.paths[name] = value, f"{prefix}.{name}"
    if isinstance(raw.get("stop"), str):
        raw["stop"] = [raw["stop"]]
    own: dict[str, Any] = {}
    try:
        for cls, names in (
            (GenerationConfig, GENERATION_FIELDS),
            (SamplingConfig, SAMPLING_FIELDS),
            (ExtraFields, EXTRA_FIELDS),
        ):
            stated = {name: raw[name] for name in names if name in raw}
            made = structure(stated, cls)
            said.values.update({name: getattr(made, name) for name in stated})
        own.update({name: read_own(name, fact, raw[name]) for name, fact in own_fields.items() if name in raw})
    except InvalidRequest as error:
        raise _at(error, said.paths) from None
    return said, own


def _check(name: str, value: Any, path: str) -> None:
    """Refuse a value of `generation_config` that its field cannot have."""
    try:
        structure({name: value}, GenerationConfig)
    except InvalidRequest as error:
        raise _at(error, {name: path}) from None


def _unknown(prefix: str, name: str, known: Iterable[str]) -> InvalidRequest:
    near = get_close_matches(name, known, n=2)
    shown = name[:100]
    return InvalidRequest(
        f"{prefix}.{shown} is not a known field.",
        code="unknown_parameter",
        hint=f"Did you mean {' or '.join(near)}?" if near else None,
        param=f"{prefix}.{shown}",
    )


def _at(error: InvalidRequest, paths: Mapping[str, str]) -> InvalidRequest:
    """The same error, its field named by the path it was sent at."""
    param = error.param or ""
    name = re.split(r"[.\[]", param, maxsplit=1)[0]
    where = paths.get(name, name) + param[len(name) :]
    return type(error)(
        error.message.replace(param, where, 1), hint=error.hint, code=error.wire_code, param=where or None
    )


def _compose(said: _Said, defaults: LLMConfig, spec: FamilySpec) -> tuple[SamplingParams, LLMConfig]:
    base = defaults.flat()
    values = {**base, **said.values}
    limit = said.one_of(("max_tokens", "max_new_tokens"), base)
    max_tokens: int = limit[1] if limit else base["max_new_tokens"]
    count = said.one_of(("n", "num_return_sequences"), base)
    n: int = count[1] if count else max(base["n"], base["num_return_sequences"])
    _check_best_of(said, base, n)
    floor = said.one_of(("min_tokens", "min_new_tokens"), base)
    if floor is None or floor[1] == base.get(floor[0]):  # a default gives way to a smaller limit
        min_tokens: int = min(base["min_new_tokens"] or 0, max_tokens)
    else:
        min_tokens = floor[1]
    if spec.model_type == "seq2seq_lm":  # its length counts the decoder's start token
        min_tokens = max(min_tokens, values["min_length"] - 1)
    arguments: dict[str, Any] = {
        "n": n,
        "max_tokens": max_tokens if limit and limit[1] != base.get(limit[0]) else None,
        "min_tokens": min_tokens,
        **{name: values[name] for name in _SAME},
        "top_k": max(values["top_k"], 0),
        "min_p": values.get("min_p", 0.0),
        "seed": values.get("seed"),
        "guide": guide_of(said.values, said.paths),
        "stop": values["stop"] or (),
        "stop_token_ids": (*_ids(values["eos_token_id"]), *values.get("stop_token_ids", ())),
    }
    sent_as = {"max_tokens": limit[0] if limit else "max_new_tokens", "n": count[0] if count else "n"}
    sent_as["min_tokens"] = floor[0] if floor else ("min_length" if "min_length" in said.values else "min_new_tokens")
    try:
        bias = _bias(values.get("logit_bias")) | dict.fromkeys(values["suppress_tokens"] or (), BAN)
        sampling = SamplingParams(**arguments, logit_bias=bias)
    except InvalidSamplingParams as error:
        paths = {name: said.paths.get(sent_as.get(name, name), name) for name in {*arguments, "logit_bias"}}
        raise _at(error, paths) from None
    shared = {"max_new_tokens": max_tokens, "n": n, "num_return_sequences": n}
    if floor is not None:
        shared["min_new_tokens"] = floor[1]
    effective = defaults.with_values({**said.values, **{k: v for k, v in shared.items() if v != base[k]}})
    if "best_of" not in said.values and base["best_of"] not in (None, n):
        effective = effective.with_values({"best_of": None})
    effective.extras.update({k: said.values[k] for k in EXTRA_FIELDS if k in said.values and not k.endswith("_tokens")})
    return sampling, effective


_SAME = (
    "temperature",
    "top_p",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
    "ignore_eos",
    "logprobs",
)


def _check_best_of(said: _Said, base: Mapping[str, Any], n: int) -> None:
    best_of = said.values.get("best_of")
    if best_of is None or best_of == n:
        return
    if best_of == base["best_of"]:  # the family's own value, repeated by a client that sends every field
        del said.values["best_of"]
        return
    raise UnsupportedFeature(
        f"{said.paths['best_of']} must equal n ({n}).",
        hint="Ask for n answers and choose among them.",
        param=said.paths["best_of"],
    )


def _ids(value: int | list[int] | None) -> tuple[int, ...]:
    if value is None:
        return ()
    return (value,) if isinstance(value, int) else tuple(value)


def _bias(raw: Mapping[str, float] | None) -> dict[int, float]:
    """`logit_bias` as sent: keys are token ids in text, values -100..100.

    Raises:
        InvalidSamplingParams: `param` names the entry.
    """
    bias: dict[int, float] = {}
    for key, value in (raw or {}).items():
        param = f"logit_bias.{key[:40]}"
        if not (key.isascii() and key.isdecimal() and len(key) <= 10):
            raise InvalidSamplingParams(f"{param}: the key must be a token id.", param=param, code="invalid_value")
        if not -100 <= value <= 100:
            side, code = (
                ("<= 100", "decimal_above_max_value") if value > 100 else (">= -100", "decimal_below_min_value")
            )
            raise InvalidSamplingParams(f"{param} must be {side}.", param=param, code=code)
        bias[int(key)] = float(value)
    return bias


# -- OpenAI routes --------------------------------------------------------------------------------------------------

_FROM_FAMILY = ("temperature", "top_p", "top_k", "repetition_penalty", "eos_token_id", "suppress_tokens")
_FROM_OPERATOR = ("presence_penalty", "frequency_penalty", "stop", "min_new_tokens", "ignore_eos")


def openai_defaults(config: LLMConfig | None) -> dict[str, Any]:
    """SamplingParams fields that hold on the OpenAI routes when a request does not say.

    What the family recommends or the operator set; never 0.3.5's class defaults (`top_k` 50), which no OpenAI client
    expects. `max_tokens` is absent: the server's own limit holds.
    """
    if config is None:
        return {}
    values, sources = config.flat(), config.sources
    told = {name: values[name] for name in _FROM_FAMILY if sources.get(name, "default") != "default"}
    told |= {name: values[name] for name in _FROM_OPERATOR if sources.get(name) in ("explicit", "environment")}
    told = {name: value for name, value in told.items() if value is not None}
    found = {name: told[name] for name in told if name not in ("eos_token_id", "suppress_tokens", "min_new_tokens")}
    if "top_k" in found:
        found["top_k"] = max(found["top_k"], 0)
    if "min_new_tokens" in told:
        found["min_tokens"] = told["min_new_tokens"]
    if "eos_token_id" in told:
        found["stop_token_ids"] = _ids(told["eos_token_id"])
    if "suppress_tokens" in told:
        found["logit_bias"] = dict.fromkeys(told["suppress_tokens"], BAN)
    return found


def sampling_from_openai(
    request: ChatCompletionRequest | CompletionRequest, *, defaults: LLMConfig | None = None, backend: str = "pt"
) -> SamplingParams:
    """Read the sampling fields of a chat or completion request; None means the server's default.

    Args:
        defaults: the server's configuration; see `openai_defaults`.

    Raises:
        InvalidRequest: fields that contradict each other, or out of range; `param` is the field.
        UnsupportedFeature: `best_of` other than `n`, a `suffix`, or what the backend cannot do.
    """
    base = openai_defaults(defaults)
    column = column_of(backend, defaults.family if defaults else None)
    arguments = dict(base)
    for name in _OPENAI_SAME:
        value = getattr(request, name)
        if value is not None:
            refuse(name, value, column, name)
            arguments[name] = value
    arguments["top_k"] = max(arguments.get("top_k", 0), 0)
    if request.stop_token_ids is not None:
        arguments["stop_token_ids"] = (*base.get("stop_token_ids", ()), *request.stop_token_ids)
    arguments["logit_bias"] = base.get("logit_bias", {}) | _bias(request.logit_bias)
    arguments["max_tokens"] = _max_tokens(request)
    arguments["logprobs"] = _logprobs(request)
    guides = {name: getattr(request, name) for name in GUIDE_FIELDS}
    for name, value in guides.items():
        refuse(name, value, column, name)
    arguments["guide"] = guide_of(guides)
    if request.min_tokens is None and arguments["max_tokens"] is not None:
        arguments["min_tokens"] = min(base.get("min_tokens", 0), arguments["max_tokens"])
    if isinstance(request, CompletionRequest):
        n = request.n or 1
        if request.best_of not in (None, n):
            raise UnsupportedFeature(f"best_of must equal n ({n}).", hint="Ask for n answers.", param="best_of")
        if request.suffix:
            raise UnsupportedFeature("suffix is not supported; leave it out.", param="suffix")
    return SamplingParams(**arguments)


_OPENAI_SAME = (
    "n",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
    "seed",
    "stop",
    "ignore_eos",
    "min_tokens",
)


def _max_tokens(request: ChatCompletionRequest | CompletionRequest) -> int | None:
    newer = request.max_completion_tokens if isinstance(request, ChatCompletionRequest) else None
    if newer is not None and request.max_tokens not in (None, newer):
        raise InvalidRequest("max_tokens and max_completion_tokens mean the same and differ.", param="max_tokens")
    return request.max_tokens if newer is None else newer


def _logprobs(request: ChatCompletionRequest | CompletionRequest) -> int | None:
    if isinstance(request, CompletionRequest):
        return request.logprobs
    if request.logprobs:
        return request.top_logprobs or 0
    if request.top_logprobs:
        raise InvalidRequest("top_logprobs needs logprobs to be true.", param="top_logprobs")
    return None
