"""What a config class declares: the facts of its models (`__config__`), its defaults and its own fields.

Called by `LLMConfig` when a class is made and when its fields are first needed. A class of a known family names the family
instead; both end as a FamilySpec and a table of own fields. Runs nothing and reads no file.
"""

from __future__ import annotations

import functools
import re
import typing
from collections.abc import Callable, Mapping
from typing import Any, Literal

import attrs

from ..errors import InvalidRequest, MissingAnnotationAttributeError
from ..families.spec import FamilySpec, OwnField
from ..serde import field as wire_field
from ..serde import structure, structure_value
from .env import field_env_key
from .fine_tune import strategies
from .generation import GENERATION_FIELDS, SAMPLING_FIELDS, GenerationConfig, SamplingConfig

_KEY = "own"
OWN_TYPES: dict[str, type[Any]] = {"bool": bool, "int": int, "float": float, "str": str}


@attrs.frozen(kw_only=True)
class ModelSettings:
    """Keys of a config class's `__config__`; each is an item of its instances (`config["architecture"]`)."""

    default_id: str = wire_field(help="Hub id used when none is given.")
    model_ids: list[str] = wire_field(help="Known hub ids.")
    architecture: str = wire_field(help="Class name in config.json.")
    default_backend: dict[str, str] = wire_field(attrs.Factory(lambda: {"cpu": "pt", "nvidia.com/gpu": "pt"}))
    url: str = wire_field("")
    serialisation: Literal["legacy", "safetensors"] = wire_field("safetensors")
    trust_remote_code: bool = wire_field(False)
    requirements: list[str] | None = wire_field(None)
    model_type: Literal["causal_lm", "seq2seq_lm"] = wire_field("causal_lm")
    name_type: Literal["dasherize", "lowercase"] | None = wire_field("dasherize")
    model_name: str | None = wire_field(None)
    start_name: str | None = wire_field(None)
    service_name: str | None = wire_field(None)
    timeout: int = wire_field(36_000_000, ge=1)
    workers_per_resource: float = wire_field(1.0)
    fine_tune_strategies: list[dict[str, Any]] = wire_field(attrs.Factory(list[dict[str, Any]]))
    tokenizer_class: str | None = wire_field(None)

    def names(self, class_name: str) -> tuple[str, str]:
        """(model_name, start_name): as given when both are, else from the name of the class."""
        if self.model_name and self.start_name:
            return self.model_name, self.start_name
        bare = class_name.removesuffix("Config") or class_name
        if self.name_type == "lowercase":
            return bare.lower(), bare.lower()
        words = re.sub(r"(?<=[A-Z])(?=[A-Z][a-z])|(?<=[a-z0-9])(?=[A-Z])", "_", bare).lower()
        return words, words.replace("_", "-")

    def spec(self, class_name: str, generation: Mapping[str, Any], sampling: Mapping[str, Any]) -> FamilySpec:
        """The same facts as a FamilySpec."""
        model_name, start_name = self.names(class_name)
        facts: dict[str, Any] = {**spec_fields(attrs.asdict(self)), "name": start_name}
        return FamilySpec(
            **facts,
            compat_family=model_name,
            sources={"*": f"class {class_name}"},
            config_class=class_name,
            backends=list(dict.fromkeys(self.default_backend.values())),
            name_type=self.name_type or "dasherize",
            generation=dict(generation),
            sampling=dict(sampling),
        )


@attrs.frozen(kw_only=True)
class OwnFact:
    """What is known of one own field besides its name.

    Attributes:
        type: its type.
        default: its value when nothing says otherwise.
        factory: makes that value for each instance.
        ge, le, choices: range, or allowed values.
        check: raises ValueError or TypeError for a value that will not do.
        env: its variable.
    """

    type: Any = str
    default: Any = None
    factory: Callable[[], Any] | None = None
    ge: float | None = None
    le: float | None = None
    choices: tuple[Any, ...] | None = None
    check: Callable[[Any], object] | None = None
    env: str = ""
    help: str = ""

    def make_default(self) -> Any:
        """The default, a new one where it can change."""
        return self.default if self.factory is None else self.factory()

    def read(self, name: str, value: Any) -> Any:
        """Check a value.

        Raises:
            InvalidRequest: `param` is the field's name.
        """
        found = structure_value(value, self.type, path=name, ge=self.ge, le=self.le, choices=self.choices)
        if self.check is not None:
            try:
                self.check(found)
            except (ValueError, TypeError) as error:
                raise InvalidRequest(f"{name} is not valid: {str(error)[:200]}.", param=name) from None
        return found


def field(
    default: Any = None,
    *,
    description: str = "",
    ge: float | None = None,
    le: float | None = None,
    choices: typing.Sequence[Any] | None = None,
    validator: Callable[[Any], object] | None = None,
    env: str | None = None,
    factory: Callable[[], Any] | None = None,
) -> Any:
    """Declare an own field of a config class: `layers: int = LLMConfig.Field(12, ge=1)`.

    Args:
        default: value when nothing says otherwise.
        description: one line for help texts.
        ge, le: range of a number, or of each number of a list.
        choices: allowed values; a `Literal` annotation says the same.
        validator: called with the value; raises ValueError or TypeError if it will not do.
        env: variable that sets it; `OPENLLM_<NAME>` when None.
        factory: makes the default of each instance.

    Raises:
        RuntimeError: both a default and a factory.
    """
    if factory is not None and default is not None:
        raise RuntimeError("A field has a default or a factory, not both.")
    fact = OwnFact(
        default=default,
        factory=factory,
        ge=ge,
        le=le,
        choices=None if choices is None else tuple(choices),
        check=validator,
        env=env or "",
        help=description,
    )
    return attrs.field(default=default, metadata={_KEY: fact})


def read_settings(cls: type[Any], declared: Any) -> ModelSettings:
    """Check a class's `__config__`.

    Raises:
        ValueError: a required key is missing, or `generation_class` is there.
        TypeError: an unknown key, or a value of a wrong type.
        RuntimeError: no `__config__`.
    """
    if not isinstance(declared, Mapping):
        raise RuntimeError(f"{cls.__name__} needs a dict __config__ with default_id, model_ids and architecture.")
    given = dict(typing.cast("Mapping[str, Any]", declared))
    if "generation_class" in given:
        raise ValueError(f"{cls.__name__}: generation defaults stand in an inner class GenerationConfig.")
    required = [a.name for a in attrs.fields(ModelSettings) if a.default is attrs.NOTHING]
    if missing := [name for name in required if given.get(name) is None]:
        raise ValueError(f"Missing required fields: {', '.join(missing)} in __config__ of {cls.__name__}.")
    try:
        return structure(given, ModelSettings)
    except InvalidRequest as error:
        raise TypeError(f"{cls.__name__}.__config__: {error.message}") from None


def read_facts(given: Mapping[str, Any]) -> dict[str, Any]:
    """Check some keys of `__config__` alone.

    Raises:
        TypeError: a value of a wrong type.
    """
    rest = {"default_id": "x", "model_ids": ["x"], "architecture": "x"}
    try:
        settings = structure(rest | dict(given), ModelSettings)
    except InvalidRequest as error:
        raise TypeError(error.message) from None
    return {name: getattr(settings, name) for name in given}


def spec_fields(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of FamilySpec that keys of `__config__` stand for; some keys stand for none."""
    direct = ("default_id", "model_ids", "url", "trust_remote_code", "model_type", "timeout", "tokenizer_class")
    fields = {name: facts[name] for name in direct if name in facts}
    if "architecture" in facts:
        fields["architectures"] = [facts["architecture"]]
    if "requirements" in facts:
        fields["requirements"] = facts["requirements"] or []
    if facts.get("start_name"):
        fields["name"] = facts["start_name"]
    if "fine_tune_strategies" in facts:
        fields["fine_tune"] = _fine_tune(facts["fine_tune_strategies"])
    return fields


def read_defaults(cls: type[Any], inner: Any, target: type[GenerationConfig] | type[SamplingConfig]) -> dict[str, Any]:
    """Defaults that an inner class GenerationConfig or SamplingParams sets.

    Raises:
        TypeError: an unknown field or a wrong value; names it.
    """
    names = [name for name in dir(inner) if not name.startswith("_")] if inner is not None else []
    defaults = {name: getattr(inner, name) for name in names}
    try:
        structure(defaults, target)
    except InvalidRequest as error:
        raise TypeError(f"{cls.__name__}: {error.message}") from None
    return defaults


def make_attrs(cls: type[Any]) -> None:
    """Make an attrs class of a config class, in place: its annotated fields are its own fields.

    Raises:
        MissingAnnotationAttributeError: a `Field` without a type.
        TypeError: a field has the name of a generation or sampling field.
    """
    try:
        attrs.define(
            cls,
            slots=False,
            init=False,
            repr=False,
            eq=False,
            kw_only=True,
            auto_attribs=True,
            on_setattr=attrs.setters.NO_OP,
        )
    except attrs.exceptions.UnannotatedAttributeError as error:
        raise MissingAnnotationAttributeError(f"{cls.__name__}: {error}") from None
    for attribute in attrs.fields(cls):
        if attribute.name in GENERATION_FIELDS or attribute.name in SAMPLING_FIELDS:
            inner = "GenerationConfig" if attribute.name in GENERATION_FIELDS else "SamplingParams"
            raise TypeError(f"{cls.__name__}.{attribute.name}: its default stands in an inner class {inner}.")


@functools.cache
def own_fields(cls: type[Any]) -> dict[str, OwnFact]:
    """Own fields of a config class that declares them itself."""
    hints = typing.get_type_hints(cls)
    found: dict[str, OwnFact] = {}
    for attribute in attrs.fields(cls):
        fact: OwnFact = attribute.metadata.get(_KEY) or OwnFact(default=_default_of(attribute))
        env = fact.env or field_env_key(attribute.name)
        found[attribute.name] = attrs.evolve(fact, type=hints[attribute.name], env=env)
    return found


def own_fields_of_family(table: Mapping[str, OwnField]) -> dict[str, OwnFact]:
    """The same of a family file's table."""
    return {
        name: OwnFact(
            type=OWN_TYPES[fact.type],
            default=fact.default,
            choices=None if fact.choices is None else tuple(fact.choices),
            env=field_env_key(name),
            help=fact.help,
        )
        for name, fact in table.items()
    }


def check_name(cls: type[Any]) -> None:
    """A config class should be called …Config; say so where it is not, and add it."""
    if not cls.__name__.endswith("Config"):
        import logging  # rarely needed, and slow to load

        log = logging.getLogger("openllm")
        log.warning("config class %s is called %sConfig: such names end in Config", cls.__name__, cls.__name__)
        cls.__name__ += "Config"


def _default_of(attribute: attrs.Attribute[Any]) -> Any:
    return None if attribute.default is attrs.NOTHING else attribute.default


def _fine_tune(declared: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    table: dict[str, dict[str, Any]] = {}
    for entry in declared:
        settings = dict(entry)
        kind = settings.pop("adapter_type", None)
        if not isinstance(kind, str):
            raise TypeError("fine_tune_strategies: each needs an adapter_type.")
        table[kind] = settings.pop("adapter_config", None) or settings
    strategies(table, "causal_lm")  # refuses unknown kinds where the class is declared
    return table
