"""LLMConfig: one model family's configuration with its values and where each came from.

Made by the server at start (`for_model`), read by `/v1/metadata`, `/v1/generate*` and the client; subclassed by whoever
adds a model. A mapping of own, generation and sampling fields. Precedence: explicit > environment (read at construction)
> family > default.
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Self, cast

import attrs

from ..errors import ForbiddenAttributeError, InvalidRequest, MalformedSetting
from ..families import registry
from ..families.spec import FamilySpec
from ..prompts import answer_of, prompt_of
from ..serde import dumps, loads, unstructure
from . import click_options, declare, shape
from .declare import ModelSettings
from .fine_tune import peft_task_type, strategies
from .generation import GENERATION_FIELDS, SAMPLING_FIELDS, GenerationConfig, SamplingConfig
from .resolve import Resolved, Source, resolve
from .sampling import SamplingParams
from .shape import own_facts

_RESERVED = frozenset({"__config__", "GenerationConfig", "SamplingParams"})
_SETTINGS = frozenset(a.name for a in attrs.fields(ModelSettings))
_FACTS = _SETTINGS | {
    "accepted_keys",
    "env",
    "extras",
    "generation_class",
    "generation_config",
    "hints",
    "sampling_class",
    "sampling_config",
}


class LLMConfig(Mapping[str, Any]):
    """Values of a family's own, generation and sampling fields. Immutable.

    A subclass declares `__config__` (keys of `ModelSettings`), annotated own fields, and defaults in inner classes
    `GenerationConfig` and `SamplingParams`:

        class TinyConfig(LLMConfig):
            __config__ = {"default_id": "me/tiny", "model_ids": ["me/tiny"], "architecture": "OPTForCausalLM"}
            layers: int = LLMConfig.Field(2, ge=1, description="Layers used.")

            class GenerationConfig:
                temperature = 0.2

    Args:
        generation_config: generation fields; a flat value of the same name wins.
        values: own, generation and sampling fields; None means not given; unknown names become extras.

    Attributes:
        family: the true family; own fields are those of its `compat_family`.
        own: own fields and their values.
        generation_config, sampling_config: the shared fields.
        extras: keys given that no field takes.
        sources: field name -> where its value came from.

    Raises:
        InvalidSetting: a value is malformed, of a wrong type or out of range; names the field or variable.
    """

    Field: ClassVar[Callable[..., Any]] = staticmethod(declare.field)

    family: FamilySpec
    own: dict[str, Any]
    generation_config: GenerationConfig
    sampling_config: SamplingConfig
    extras: dict[str, Any]
    sources: dict[str, Source]
    _family: ClassVar[str | None] = None
    _declared: ClassVar[tuple[FamilySpec, ModelSettings] | None] = None
    _changed: dict[str, Any]

    def __init_subclass__(cls, *, family: str | None = None, **kwargs: Any) -> None:
        """Read what a subclass declares; `family` names a known family, whose facts are used instead."""
        super().__init_subclass__(**kwargs)
        inner = {name: cls.__dict__.get(name) for name in _RESERVED}
        for name, value in inner.items():
            if value is not None:
                delattr(cls, name)  # so that instances refuse it
            cls.__annotations__.pop(name, None)
        if hidden := sorted(set(cls.__annotations__) & _TAKEN):
            raise TypeError(f"{cls.__name__}.{hidden[0]}: every configuration has something of that name.")
        declare.make_attrs(cls)
        if family is not None:
            cls._family = family
        elif inner["__config__"] is not None or (cls._family is None and cls._declared is None):
            declare.check_name(cls)
            settings = declare.read_settings(cls, inner["__config__"])
            generation = declare.read_defaults(cls, inner["GenerationConfig"], GenerationConfig)
            sampling = declare.read_defaults(cls, inner["SamplingParams"], SamplingConfig)
            cls._family, cls._declared = None, (settings.spec(cls.__name__, generation, sampling), settings)

    def __init__(self, *, generation_config: Mapping[str, Any] | None = None, **values: Any) -> None:
        spec = self._own_spec()
        self._fill(
            spec, resolve(spec, own_facts(type(self), spec), {**(generation_config or {}), **values}, os.environ)
        )

    @classmethod
    def for_model(
        cls,
        family: str | FamilySpec,
        *,
        generation_config: Mapping[str, Any] | None = None,
        environ: Mapping[str, str] | None = None,
        **values: Any,
    ) -> LLMConfig:
        """Build the configuration of a family, of its class where it has one.

        Args:
            family: name, hub id, or spec.
            generation_config: generation fields; a flat value of the same name wins.
            environ: the environment; default `os.environ`. Only `OPENLLM_CONFIG` and variables of this family's fields
                are read.
            values: own, generation and sampling fields; None means not given; unknown names become extras.

        Raises:
            UnknownModel: no such family.
            InvalidSetting: a value is of a wrong type or out of range; names the field or variable.
        """
        from .auto import class_of  # imports this module

        spec = family if isinstance(family, FamilySpec) else registry.find(family)
        made = class_of(spec)
        explicit = {**(generation_config or {}), **values}
        environ = os.environ if environ is None else environ
        return made._make(spec, resolve(spec, own_facts(made, spec), explicit, environ, read_config=True))

    @classmethod
    def model_construct_env(cls, **values: Any) -> Self:
        """Build from arguments and the environment, `OPENLLM_CONFIG` included.

        Args:
            values: as for the class; here a field in `generation_config` beats the flat one, as in 0.3.5.

        Raises:
            MalformedSetting: `generation_config` is no mapping, or `OPENLLM_CONFIG` no JSON object.
            InvalidSetting: a value is of a wrong type or out of range.
        """
        nested = values.pop("generation_config", None)
        if nested is not None and not isinstance(nested, Mapping):
            raise MalformedSetting("generation_config must be a mapping.", param="generation_config")
        given = {k: v for k, v in cast("Mapping[str, Any]", nested or {}).items() if v is not None}
        spec = cls._own_spec()
        return cls._make(spec, resolve(spec, own_facts(cls, spec), values | given, os.environ, read_config=True))

    @classmethod
    def model_construct_json(cls, text: str | bytes) -> Self:
        """Build from a JSON object, as `model_dump_json` writes it.

        Raises:
            ValidationError: not JSON.
            MalformedSetting: not an object.
            InvalidSetting: a value is of a wrong type or out of range.
        """
        try:
            data = loads(text.encode() if isinstance(text, str) else text)
        except InvalidRequest as error:
            raise MalformedSetting(f"The configuration is not JSON: {error.message}") from None
        if not isinstance(data, dict):
            raise MalformedSetting("The configuration is not a JSON object.")
        return cls(**cast("dict[str, Any]", data))

    @classmethod
    def model_derivate(cls, name: str | None = None, **changes: Any) -> Self:
        """An instance with other facts of the model, other values, or both.

        Args:
            name: name it shows; default `<Base>DerivateConfig`.
            changes: keys of `ModelSettings`, and fields.

        Raises:
            TypeError: a fact of a wrong type.
            InvalidSetting: a value is of a wrong type or out of range.
        """
        facts = declare.read_facts({key: changes.pop(key) for key in list(changes) if key in _SETTINGS})
        made = cls(**changes)
        shown = name or f"{cls.__name__.removesuffix('Config')}DerivateConfig"
        spec = attrs.evolve(made.family, config_class=shown, **declare.spec_fields(facts))
        vars(made).update(family=spec, _changed=facts)
        return made

    @classmethod
    def model_validate_click(cls, **values: Any) -> tuple[Self, dict[str, Any]]:
        """Build from the parameters of a command that `to_click_options` gave its options.

        Returns:
            The configuration, and the parameters that were not its.

        Raises:
            InvalidSetting: a value is malformed, of a wrong type or out of range.
        """
        fields, left = click_options.read(values, cls().to_click_options())
        return cls.model_construct_env(**fields), left

    @classmethod
    def _own_spec(cls) -> FamilySpec:
        """The spec of this class's models."""
        if cls._declared is not None and cls._family is None:
            return cls._declared[0]
        if cls._family is None:
            raise TypeError("LLMConfig is made by for_model, or by a family's class.")
        return registry.find(cls._family)

    @classmethod
    def _make(cls, spec: FamilySpec, resolved: Resolved) -> Self:
        made = cls.__new__(cls)
        made._fill(spec, resolved)
        return made

    def _fill(self, spec: FamilySpec, resolved: Resolved) -> None:
        """Set everything an instance has; afterwards it does not change."""
        values = {field.name: getattr(resolved, field.name) for field in attrs.fields(Resolved)}
        vars(self).update({**resolved.own, **values, "family": spec, "_changed": {}})

    def with_values(self, values: Mapping[str, Any]) -> Self:
        """A copy in which some fields, named flat, have other (already validated) values; their source is explicit."""
        own = self.own | {k: v for k, v in values.items() if k in self.own}
        generation = {k: v for k, v in values.items() if k in GENERATION_FIELDS}
        sampling = {k: v for k, v in values.items() if k in SAMPLING_FIELDS}
        said: dict[str, Source] = {name: "explicit" for name in values if name in self._fields}
        made = self._make(
            self.family,
            Resolved(
                own=own,
                generation_config=attrs.evolve(self.generation_config, **generation),
                sampling_config=attrs.evolve(self.sampling_config, **sampling),
                extras=dict(self.extras),
                sources={**self.sources, **said},
            ),
        )
        vars(made).update(_changed=self._changed)
        return made

    # -- attributes -----------------------------------------------------------------------------------------------

    if not TYPE_CHECKING:  # pragma: no branch - a checker must see the declared attributes alone

        def __getattr__(self, name: str) -> Any:
            """What is not there: a reserved name is refused, any other is missing."""
            if name in _RESERVED:
                raise ForbiddenAttributeError(f"{name} is reserved.", param=name)
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _RESERVED:
            raise ForbiddenAttributeError(f"{name} is reserved.", param=name)
        raise attrs.exceptions.FrozenInstanceError

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
        """A fact of the model, an own, generation or sampling field, a fine-tune strategy, or an extra; in this order.

        Raises:
            TypeError: not text.
            KeyError: none of these.
            ForbiddenAttributeError: a reserved name.
        """
        if not isinstance(item, str):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"Items are named by text, not {type(item).__name__}.")
        if item == "__config__":
            raise ForbiddenAttributeError(f"{item} is reserved.", param=item)
        name = _snake(item)
        if name in _FACTS:
            return self._facts()[name]
        for found in (self._fields, strategies(self.family.fine_tune, self.family.model_type), self.extras):
            if name in found:
                return found[name]
        if item in self.extras:
            return self.extras[item]
        raise KeyError(item)

    def _facts(self) -> dict[str, Any]:
        given: dict[str, Any] = {
            "generation_class": GenerationConfig,
            "generation_config": self.generation_config,
            "sampling_class": SamplingConfig,
            "sampling_config": self.sampling_config,
            "extras": self.extras,
            "accepted_keys": set(self._fields),
            "hints": self._hints(),
        }
        return given | shape.facts(self.family, type(self)._declared, self._changed)

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
        own = {name: unstructure(value) for name, value in self.own.items() if value is not None}
        generation = _stated(self.generation_config)
        nested = generation if flatten else {"generation_config": generation}
        return {**own, **nested, **_stated(self.sampling_config), **self.extras}

    def model_dump_json(self, flatten: bool = False) -> bytes:
        """The same as JSON."""
        return dumps(self.model_dump(flatten))

    def to_generation_config(self, return_as_dict: bool = False) -> Any:
        """Generation fields that are set.

        Args:
            return_as_dict: plain data; otherwise a `transformers.GenerationConfig`.

        Raises:
            MissingDependency: transformers is not installed.
        """
        if return_as_dict:
            return _stated(self.generation_config)
        from .. import _bridges

        return _bridges.generation_config(self)

    def to_sampling_config(self, return_as_dict: bool = False) -> Any:
        """Sampling parameters of a request that says nothing.

        Args:
            return_as_dict: plain data; otherwise a `vllm.SamplingParams`.

        Raises:
            MissingDependency: vllm is not installed.
            InvalidSamplingParams: a value that sampling cannot do (`use_beam_search`).
        """
        params = SamplingParams.from_generation_config(self.generation_config, **_stated(self.sampling_config))
        return params.as_dict() if return_as_dict else params.to_vllm()

    def to_click_options(self, command: Callable[..., Any] | None = None) -> Any:
        """Options of a command line: one per field whose type is no union.

        Args:
            command: a function to decorate with click's form of them.

        Returns:
            A list of ClickOption; with `command`, the decorated command.
        """
        own = own_facts(type(self), self.family)
        made = shape.options(own, self._fields, prefix=self["model_name"], shown=self._shown_name())
        if command is None:
            return made
        from .. import _bridges

        return _bridges.click_decorator(made)(command)

    def peft_task_type(self) -> str:
        """peft's name of the task these models are trained for."""
        return peft_task_type(self.family.model_type)

    def default_backend(self) -> str:
        """Backend that runs these models when none is named."""
        return self["default_backend"]["cpu"]

    # -- prompts --------------------------------------------------------------------------------------------------

    def sanitize_parameters(self, prompt: str, **values: Any) -> tuple[str, dict[str, Any], dict[str, Any]]:
        """Make a prompt and the values of one generation; a subclass may do it its own way.

        Args:
            values: fields; those of `openllm_core.prompts.prompt_of` and the template's variables make the prompt.

        Returns:
            The prompt, the fields for generating, and what `postprocess_generate` is told.

        Raises:
            InvalidRequest: a variable of the prompt template is missing.
        """
        made, left = prompt_of(self.family, prompt, values, own=self.own)
        history = left.pop("chat_history", None)
        return made, left, {} if history is None else {"chat_history": history}

    def postprocess_generate(self, prompt: str, generation_result: Any, **values: Any) -> Any:
        """What an answer is for the caller; a subclass may do it its own way.

        Args:
            generation_result: what 0.3.5's models return: texts, or the shape of the family's `response_style`.
            values: third result of `sanitize_parameters`.

        Raises:
            ValueError: a history is to be kept and none was given.
        """
        if type(self)._declared is not None:
            return generation_result
        return answer_of(self.family, generation_result, own=self.own, prompt=prompt, **values)

    # -- shown ----------------------------------------------------------------------------------------------------

    def _hints(self) -> dict[str, Any]:
        """Type of each field, its None aside."""
        return shape.hints(own_facts(type(self), self.family))

    def _shown_name(self) -> str:
        return self.family.config_class or type(self).__name__

    def __repr__(self) -> str:
        return f"{self._shown_name()} {self.model_dump_json().decode()}"

    def __str__(self) -> str:
        return " ".join(f"{name}={value!r}" for name, value in self.flat().items())


_TAKEN = frozenset(dir(LLMConfig)) | frozenset(LLMConfig.__annotations__) | _FACTS


def _stated(config: GenerationConfig | SamplingConfig) -> dict[str, Any]:
    return unstructure(config, omit_none=True)


def _snake(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).replace("-", "_").lower()
