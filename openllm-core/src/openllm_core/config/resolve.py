"""Where the value of each field of a configuration comes from: explicit > environment > family > default.

Called by `LLMConfig`. A field's own variable beats `OPENLLM_CONFIG`, the JSON object that sets many. The environment is an
argument; nothing is read at import.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal, cast

import attrs

from ..errors import InvalidRequest, MalformedSetting
from ..families.spec import FamilySpec
from ..serde import structure
from .declare import OwnFact
from .env import EnvVarMixin, field_env_key, invalid, parse_value
from .generation import GENERATION_FIELDS, SAMPLING_FIELDS, GenerationConfig, SamplingConfig

Source = Literal["explicit", "environment", "family", "default"]


@attrs.frozen(kw_only=True)
class Resolved:
    """Checked values of all fields, what no field takes, and where each value came from."""

    own: dict[str, Any]
    generation_config: GenerationConfig
    sampling_config: SamplingConfig
    extras: dict[str, Any]
    sources: dict[str, Source]


def resolve(
    spec: FamilySpec,
    own_fields: Mapping[str, OwnFact],
    explicit: Mapping[str, Any],
    environ: Mapping[str, str],
    *,
    read_config: bool = False,
) -> Resolved:
    """Choose and check the value of every field.

    Args:
        spec: whose defaults count.
        own_fields: its own fields.
        explicit: what the caller said, flat; None is not said.
        environ: the environment; only variables of these fields are read.
        read_config: whether `OPENLLM_CONFIG` counts too.

    Raises:
        InvalidSetting: a value is malformed, of a wrong type or out of range; names the field or the variable.
    """
    said = {name: value for name, value in explicit.items() if value is not None}
    general = general_config(environ) if read_config else {}
    chosen: dict[str, Any] = {}
    origins: dict[str, str] = {}
    sources: dict[str, Source] = {}
    for name, variable, family_value in _candidates(spec, own_fields):
        beside = general.pop(name, None)
        if name in said:
            chosen[name], sources[name] = said.pop(name), "explicit"
        elif (text := environ.get(variable)) is not None and (found := parse_value(variable, text)) is not None:
            chosen[name], sources[name], origins[name] = found, "environment", variable
        elif beside is not None:
            chosen[name], sources[name], origins[name] = beside, "environment", EnvVarMixin.config
        elif family_value is not None:
            chosen[name], sources[name] = family_value, "family"
        else:
            sources[name] = "default"
    return Resolved(
        own=_read_own(own_fields, chosen, origins),
        generation_config=_read(GenerationConfig, GENERATION_FIELDS, chosen, origins),
        sampling_config=_read(SamplingConfig, SAMPLING_FIELDS, chosen, origins),
        extras=general | said,
        sources=sources,
    )


def general_config(environ: Mapping[str, str]) -> dict[str, Any]:
    """What `OPENLLM_CONFIG` says, flat; nothing when it is unset or empty.

    Raises:
        MalformedSetting: not a JSON object.
    """
    text = environ.get(EnvVarMixin.config)
    if not text:
        return {}
    data = parse_value(EnvVarMixin.config, text)
    nested: Any = cast("dict[str, Any]", data).pop("generation_config", None) if isinstance(data, dict) else text
    if not isinstance(nested or {}, dict):
        raise MalformedSetting(f"{EnvVarMixin.config}: {text[:200]!r} is not a JSON object.", param=EnvVarMixin.config)
    return {**(nested or {}), **data}


def _candidates(spec: FamilySpec, own_fields: Mapping[str, OwnFact]) -> Iterator[tuple[str, str, Any]]:
    """(field, its variable, the family's value or None) of every field."""
    for name, fact in own_fields.items():
        yield name, fact.env, fact.make_default()
    for name in GENERATION_FIELDS:
        yield name, field_env_key(name, "generation"), spec.generation.get(name)
    for name in SAMPLING_FIELDS:
        yield name, field_env_key(name, "sampling"), spec.sampling.get(name)


def _read(cls: type[Any], names: tuple[str, ...], chosen: Mapping[str, Any], origins: Mapping[str, str]) -> Any:
    try:
        return structure({name: chosen[name] for name in names if name in chosen}, cls)
    except InvalidRequest as error:
        raise invalid(error, origins) from None


def _read_own(
    own_fields: Mapping[str, OwnFact], chosen: Mapping[str, Any], origins: Mapping[str, str]
) -> dict[str, Any]:
    own: dict[str, Any] = {}
    for name, fact in own_fields.items():
        try:
            own[name] = fact.read(name, chosen[name]) if name in chosen else None
        except InvalidRequest as error:
            raise invalid(error, origins) from None
    return own
