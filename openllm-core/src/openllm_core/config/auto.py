"""AutoConfig and CONFIG_MAPPING: from a family's name to its config class.

Called by whoever knows a family by name only. `register` adds a class of one's own; classes load at the first look-up.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Any

from ..errors import UnknownModel
from ..families import registry
from ..families.spec import FamilySpec
from .family_names import CONFIG_MAPPING_NAMES
from .llm import LLMConfig


class _ConfigMapping(Mapping[str, type[LLMConfig]]):
    """Family in snake case -> config class: the eleven of 0.3.5 in its order, ours, then registered ones."""

    def __init__(self, names: Mapping[str, str]) -> None:
        self._names = names
        self._registered: dict[str, type[LLMConfig]] = {}

    def __getitem__(self, key: str) -> type[LLMConfig]:
        name = key if key in self._names else _snake(key)
        if name in self._registered:
            return self._registered[name]
        if name not in self._names:
            raise KeyError(key)
        return getattr(import_module(".classes", __package__), self._names[name])

    def __iter__(self) -> Iterator[str]:
        return iter([*self._names, *self._registered])

    def __len__(self) -> int:
        return len(self._names) + len(self._registered)

    def register(self, key: str, config_class: type[LLMConfig]) -> None:
        """Add a class.

        Raises:
            ValueError: the key is taken.
        """
        if _snake(key) in self:
            raise ValueError(f"{key!r} has a config class already.")
        self._registered[_snake(key)] = config_class

    def __repr__(self) -> str:
        return f"CONFIG_MAPPING({', '.join(self)})"


CONFIG_MAPPING = _ConfigMapping(CONFIG_MAPPING_NAMES)


class AutoConfig:
    """Chooses a config class by name; not made itself."""

    def __init__(self, *args: Any, **values: Any) -> None:
        raise OSError("AutoConfig is not made itself; use AutoConfig.for_model(name).")

    @classmethod
    def for_model(cls, model_name: str, /, **values: Any) -> LLMConfig:
        """Configuration of a family, from the environment and `values`; see `LLMConfig.model_construct_env`.

        Args:
            model_name: family in any spelling, or a hub id.

        Raises:
            UnknownModel: no such family; also a ValueError; names those there are, and near ones.
            InvalidSetting: a value is of a wrong type or out of range.
        """
        found = registry.get(model_name) if _snake(model_name) not in CONFIG_MAPPING else None
        if found is not None and found.model_name not in CONFIG_MAPPING:
            return LLMConfig.for_model(found, **values)  # a family of another package
        name = model_name if found is None else found.model_name
        return cls.infer_class_from_name(name).model_construct_env(**values)

    @classmethod
    def infer_class_from_name(cls, name: str) -> type[LLMConfig]:
        """Config class of a family's name in any spelling (`flan-t5`, `FlanT5`, `GPTNeoX`, `chat-glm`).

        Raises:
            UnknownModel: no such family; also a ValueError; names those there are, and near ones.
        """
        snake = _snake(name)
        found = registry.get(name)
        for key in (snake, found.model_name if found else snake):
            if key in CONFIG_MAPPING:
                return CONFIG_MAPPING[key]
        near = registry.suggest(name)
        raise UnknownModel(
            f"{name[:200]!r} is no known family; there are: {', '.join(CONFIG_MAPPING)}.",
            hint=f"Did you mean {' or '.join(near)}?" if near else "`openllm models` lists the families.",
            param="model",
        )


def class_of(spec: FamilySpec) -> type[LLMConfig]:
    """Config class of a family; LLMConfig itself where it has none, or another family took its name."""
    if spec.model_name not in CONFIG_MAPPING_NAMES or registry.get(spec.name) is not spec:
        return LLMConfig
    return CONFIG_MAPPING[spec.model_name]


def _snake(name: str) -> str:
    words = re.sub(r"(?<=[A-Z])(?=[A-Z][a-z])|(?<=[a-z0-9])(?=[A-Z])", "_", name)
    return words.replace("-", "_").lower()
