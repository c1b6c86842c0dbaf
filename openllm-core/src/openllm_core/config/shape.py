"""Which fields a configuration has, their types and options, and the facts of its models that are items of it.

Called by `LLMConfig`, whose instances hold the values; and by whoever checks the own fields of a request.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any, get_type_hints

import attrs

from ..families import registry
from ..families.spec import FamilySpec, OwnField
from ..serde import rule_of, structure_value
from . import click_options, declare
from .declare import ModelSettings, OwnFact
from .env import EnvVarMixin, field_env_key
from .fine_tune import strategies
from .generation import GENERATION_FIELDS, GenerationConfig, SamplingConfig

_HELP = {field.name: rule_of(field).help for made in (GenerationConfig, SamplingConfig) for field in attrs.fields(made)}
_GROUPS = {"": "{} options", "generation": "{} generation options", "sampling": "{} sampling options"}


@functools.cache
def _shared_hints() -> dict[str, Any]:
    found: dict[str, Any] = {}
    for made in (GenerationConfig, SamplingConfig):
        hints = get_type_hints(made)
        found |= {field.name: click_options.without_none(hints[field.name]) for field in attrs.fields(made)}
    return found


def own_facts(cls: type[Any], spec: FamilySpec) -> dict[str, OwnFact]:
    """Own fields of a class's configurations: those it declares, and those of its family."""
    of_family = declare.own_fields_of_family(own_fields_of(spec))
    adds = attrs.has(cls) and any(field.name not in of_family for field in attrs.fields(cls))
    return (declare.own_fields(cls) if adds else {}) | of_family


def own_fields_of(family: FamilySpec) -> dict[str, OwnField]:
    """Own fields a configuration of this family has: those of its compat family, which its clients know."""
    compat = registry.get(family.compat_family) if family.compat_family != family.model_name else None
    return (compat or family).own_fields


def read_own(name: str, fact: OwnField, value: Any) -> Any:
    """Check the value of an own field.

    Raises:
        InvalidRequest: `param` is the field's name.
    """
    return structure_value(value, declare.OWN_TYPES[fact.type], path=name, choices=fact.choices)


def hints(own: Mapping[str, OwnFact]) -> dict[str, Any]:
    """Type of each field, its None aside."""
    return {**{name: click_options.without_none(fact.type) for name, fact in own.items()}, **_shared_hints()}


def options(
    own: Mapping[str, OwnFact], values: Mapping[str, Any], *, prefix: str, shown: str
) -> list[click_options.ClickOption]:
    """The option of each field whose type is no union.

    Args:
        values: every field and its value, which is the option's default.
        prefix: what the parameters' names begin with.
        shown: name of the configuration in headings.
    """
    types = hints(own)
    made: list[click_options.ClickOption] = []
    for name in values:
        if click_options.is_union(types[name]):
            continue
        kind = "" if name in own else "generation" if name in GENERATION_FIELDS else "sampling"
        fact = own.get(name)
        made.append(
            click_options.option(
                name,
                types[name],
                identifier="_".join(part for part in (prefix, kind, name) if part),
                default=values[name],
                env=fact.env if fact else field_env_key(name, kind),
                help=fact.help if fact else _HELP[name],
                group=_GROUPS[kind].format(shown),
                choices=fact.choices if fact else None,
            )
        )
    return made


def facts(
    spec: FamilySpec, declared: tuple[FamilySpec, ModelSettings] | None, changed: Mapping[str, Any]
) -> dict[str, Any]:
    """Facts of a family's models by the names 0.3.5 gave them.

    Args:
        declared: what the config class declares, where it is of no known family.
        changed: facts that one instance has otherwise.
    """
    compat = registry.get(spec.compat_family) if declared is None else None
    found: dict[str, Any] = {
        "default_id": spec.default_id,
        "model_ids": list(spec.model_ids),
        "architecture": spec.architectures[0],
        "default_backend": {"cpu": "pt", "nvidia.com/gpu": "pt"},
        "url": spec.url,
        "serialisation": "safetensors",
        "trust_remote_code": spec.trust_remote_code,
        "requirements": list(spec.requirements) or None,
        "model_type": spec.model_type,
        "name_type": spec.name_type,
        "model_name": (compat or spec).model_name,
        "start_name": spec.name,
        "timeout": spec.timeout,
        "workers_per_resource": 1.0,
        "tokenizer_class": spec.tokenizer_class,
    }
    if declared is not None:
        found |= attrs.asdict(declared[1]) | {"model_name": declared[0].compat_family, "start_name": spec.name}
    found |= changed
    return found | {
        "env": EnvVarMixin(found["model_name"]),
        "fine_tune_strategies": strategies(spec.fine_tune, spec.model_type),
        "service_name": f"generated_{spec.model_name}_service.py",
    }
