"""LLMConfig: one model family's configuration with its values and where each came from.

Made by the server at start (`for_model`), read by `/v1/metadata`, `/v1/generate*` and the client. A mapping of own,
generation and sampling fields. Precedence: explicit > environment (read at construction) > family > default.
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import attrs

from ..errors import ForbiddenAttributeError, InvalidRequest, InvalidSetting
from ..families import registry
from ..families.spec import FamilySpec, OwnField
from ..serde import dumps, structure, structure_value, unstructure
from .env import EnvVarMixin, field_env_key, parse_value
from .generation import GENERATION_FIELDS, SAMPLING_FIELDS, GenerationConfig, SamplingConfig

Source = Literal["explicit", "environment", "family", "default"]

_RESERVED = frozenset({"__config__", "GenerationConfig", "SamplingParams"})
_OWN_TYPES: dict[str, type[Any]] = {"bool": bool, "int": int, "float": float, "str": str}


class LLMConfig(Mapping[str, Any]):
    """Values of a family's own, generation and sampling fields. Immutable.

    Attributes:
        family: the true family; own fields are those of its `compat_family`.
        own: own fields and their values.
        generation_config, sampling_config: the shared fields.
        extras: keys given that no field takes.
        sources: field name -> where its value came from.
    """

    def __init__(
        self,
        family: FamilySpec,
        *,
        own: Mapping[str, Any],
        generation_config: GenerationConfig,
        sampling_config: SamplingConfig,
        extras: Mapping[str, Any] | None = None,
        sources: Mapping[str, Source] | None = None,
    ) -> None:
        self.family = family
        self.own = dict(own)
        self.generation_config = generation_config
        self.sampling_config = sampling_config
        self.extras = dict(extras or {})
        self.sources: dict[str, Source] = dict(sources or {})

    @classmethod
    def for_model(
        cls,
        family: str | FamilySpec,
        *,
        generation_config: Mapping[str, Any] | None = None,
        environ: Mapping[str, str] | None = None,
        **values: Any,
    ) -> LLMConfig:
        """Build the configuration of a family.

        Args:
            family: name, hub id, or spec.
            generation_config: generation fields; a flat value of the same name wins.
            environ: the environment; default `os.environ`. Only variables of this family's fields are read.
            values: own, generation and sampling fields; None means not given; unknown names become extras.

        Raises:
            UnknownModel: no such family.
            InvalidSetting: a value is of a wrong type or out of range; names the field or variable.
        """
        spec = family if isinstance(family, FamilySpec) else registry.find(family)
        own_fields = own_fields_of(spec)
        environ = os.environ if environ is None else environ
        explicit = {k: v for k, v in {**(generation_config or {}), **values}.items() if v is not None}
        chosen: dict[str, Any] = {}
        sources: dict[str, Source] = {}
        for name, variable, family_value in _candidates(spec, own_fields):
            if name in explicit:
                chosen[name], sources[name] = explicit.pop(name), "explicit"
            elif (text := environ.get(variable)) is not None and (found := parse_value(variable, text)) is not None:
                chosen[name], sources[name] = found, "environment"
            elif family_value is not None:
                chosen[name], sources[name] = family_value, "family"
            else:
                sources[name] = "default"
        return cls(
            spec,
            own=_read_own(own_fields, chosen, sources),
            generation_config=_read(GenerationConfig, GENERATION_FIELDS, "GENERATION", chosen, sources),
            sampling_config=_read(SamplingConfig, SAMPLING_FIELDS, "SAMPLING", chosen, sources),
            extras=explicit,
            sources=sources,
        )

    def with_values(self, values: Mapping[str, Any]) -> LLMConfig:
        """A copy in which some fields, named flat, have other (already validated) values; their source is explicit."""
        own = self.own | {k: v for k, v in values.items() if k in self.own}
        generation = {k: v for k, v in values.items() if k in GENERATION_FIELDS}
        sampling = {k: v for k, v in values.items() if k in SAMPLING_FIELDS}
        known = {*self.own, *GENERATION_FIELDS, *SAMPLING_FIELDS}
        said: dict[str, Source] = {name: "explicit" for name in values if name in known}
        return LLMConfig(
            self.family,
            own=own,
            generation_config=attrs.evolve(self.generation_config, **generation),
            sampling_config=attrs.evolve(self.sampling_config, **sampling),
            extras=self.extras,
            sources={**self.sources, **said},
        )

    # -- mapping --------------------------------------------------------------------------------------------------

    def flat(self) -> dict[str, Any]:
        """Every field and extra by name, own ones first, in a fixed order."""
        return {**self._fields, **self.extras}

    @functools.cached_property
    def _fields(self) -> dict[str, Any]:
        generation = {name: getattr(self.generation_config, name) for name in GENERATION_FIELDS}
        sampling = {name: getattr(self.sampling_config, name) for name in SAMPLING_FIELDS}
        return {**self.own, **generation, **sampling}

    def __getitem__(self, item: str) -> Any:
        """An own, generation or sampling field, a fact of the family, a fine-tune strategy, or an extra.

        No field has the name of a fact, so that it does not matter which is looked at first.

        Raises:
            KeyError: none of these.
            ForbiddenAttributeError: a reserved name.
        """
        if item in _RESERVED:
            raise ForbiddenAttributeError(f"{item} is reserved.", param=item)
        name = item if item in self._fields else _snake(item)
        if name not in self._fields:
            for found in (self._facts(), self.family.fine_tune, self.extras):
                if name in found:
                    return found[name]
            raise KeyError(item)
        return self._fields[name]

    def _facts(self) -> dict[str, Any]:
        compat = registry.find(self.family.compat_family)
        spec = self.family
        return {
            "default_id": spec.default_id,
            "model_ids": list(spec.model_ids),
            "architecture": spec.architectures[0],
            "default_backend": {"cpu": "pt", "nvidia.com/gpu": "pt"},
            "url": spec.url,
            "serialisation": "safetensors",
            "trust_remote_code": spec.trust_remote_code,
            "service_name": f"generated_{spec.model_name}_service.py",
            "requirements": list(spec.requirements) or None,
            "model_type": spec.model_type,
            "name_type": spec.name_type,
            "model_name": compat.model_name,
            "start_name": spec.name,
            "env": EnvVarMixin(compat.model_name),
            "timeout": spec.timeout,
            "workers_per_resource": 1.0,
            "fine_tune_strategies": spec.fine_tune,
            "tokenizer_class": spec.tokenizer_class,
            "generation_config": self.generation_config,
            "sampling_config": self.sampling_config,
            "extras": self.extras,
            "accepted_keys": {*self.own, *GENERATION_FIELDS, *SAMPLING_FIELDS},
        }

    def __iter__(self) -> Iterator[str]:
        return iter(self.flat())

    def __len__(self) -> int:
        return len(self.flat())

    def __contains__(self, item: object) -> bool:
        return item in self.flat()

    # -- out ------------------------------------------------------------------------------------------------------

    def model_dump(self, flatten: bool = False) -> dict[str, Any]:
        """Plain data, fields that are None left out.

        Args:
            flatten: generation fields beside the others instead of under `generation_config`.
        """
        generation = _stated(self.generation_config)
        nested = generation if flatten else {"generation_config": generation}
        return {**self.own, **nested, **_stated(self.sampling_config), **self.extras}

    def model_dump_json(self, flatten: bool = False) -> bytes:
        """The same as JSON."""
        return dumps(self.model_dump(flatten))

    def __repr__(self) -> str:
        return f"{self.family.config_class or 'LLMConfig'} {self.model_dump_json().decode()}"


def own_fields_of(family: FamilySpec) -> dict[str, OwnField]:
    """Own fields a configuration of this family has: those of its compat family, which its clients know."""
    return registry.find(family.compat_family).own_fields


def _candidates(spec: FamilySpec, own_fields: Mapping[str, OwnField]) -> Iterator[tuple[str, str, Any]]:
    """(field, its variable, the family's value or None) of every field."""
    for name, fact in own_fields.items():
        yield name, field_env_key(name), fact.default
    for name in GENERATION_FIELDS:
        yield name, field_env_key(name, "generation"), spec.generation.get(name)
    for name in SAMPLING_FIELDS:
        yield name, field_env_key(name, "sampling"), spec.sampling.get(name)


def _read(
    cls: type[Any], names: tuple[str, ...], suffix: str, chosen: Mapping[str, Any], sources: Mapping[str, Source]
) -> Any:
    try:
        return structure({name: chosen[name] for name in names if name in chosen}, cls)
    except InvalidRequest as error:
        raise _invalid(error, suffix, sources) from None


def _read_own(
    own_fields: Mapping[str, OwnField], chosen: Mapping[str, Any], sources: Mapping[str, Source]
) -> dict[str, Any]:
    own: dict[str, Any] = {}
    for name, fact in own_fields.items():
        try:
            own[name] = read_own(name, fact, chosen[name])
        except InvalidRequest as error:
            raise _invalid(error, None, sources) from None
    return own


def read_own(name: str, fact: OwnField, value: Any) -> Any:
    """Check the value of an own field.

    Raises:
        InvalidRequest: `param` is the field's name.
    """
    return structure_value(value, _OWN_TYPES[fact.type], path=name, choices=fact.choices)


def _invalid(error: InvalidRequest, suffix: str | None, sources: Mapping[str, Source]) -> InvalidSetting:
    name = re.split(r"[.\[]", error.param or "")[0]
    if sources.get(name) == "environment":
        variable = field_env_key(name, suffix)
        return InvalidSetting(f"{variable}: {error.message}", code=error.wire_code, param=variable)
    return InvalidSetting(error.message, code=error.wire_code, param=error.param)


def _stated(config: GenerationConfig | SamplingConfig) -> dict[str, Any]:
    return unstructure(config, omit_none=True)


def _snake(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).replace("-", "_").lower()
