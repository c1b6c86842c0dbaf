"""Environment variables of configuration fields: their names, their syntax, and EnvVarMixin.

Called by `config/llm.py` at construction. The environment is always an argument, so nothing is read at import.
"""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Mapping
from types import ModuleType
from typing import Any

import orjson

from ..errors import InvalidRequest, InvalidSetting, MalformedSetting, WrongSettingType


def field_env_key(name: str, suffix: str | None = None) -> str:
    """Variable of a configuration field: `OPENLLM_[SUFFIX_]NAME`."""
    return "_".join(part.upper() for part in ("openllm", suffix, name) if part)


def parse_value(variable: str, text: str) -> Any:
    """Value of a field's variable: JSON, in which `True`, `False` and `None` count too.

    Raises:
        MalformedSetting: not JSON; names the variable and the text.
    """
    for candidate in (text, {"true": "true", "false": "false", "none": "null"}.get(text.strip().lower())):
        if candidate is None:
            continue
        try:
            return orjson.loads(candidate)
        except orjson.JSONDecodeError:
            continue
    raise MalformedSetting(
        f"{variable}: {text[:200]!r} is not JSON.",
        hint='Write numbers plainly and text in quotes, as in 0.2, true, "word" or [1, 2].',
        param=variable,
    )


def invalid(error: InvalidRequest, origins: Mapping[str, str] | None = None) -> InvalidSetting:
    """A refused field as the error of a setting.

    Args:
        origins: field -> variable it came from, which the error then names.
    """
    kind = WrongSettingType if error.wire_code == "invalid_type" else InvalidSetting
    variable = (origins or {}).get(re.split(r"[.\[]", error.param or "")[0])
    message = error.message if variable is None else f"{variable}: {error.message}"
    return kind(message, code=error.wire_code, param=variable or error.param)


class EnvVarMixin(Mapping[str, Any]):
    """Names and values of the variables that choose a model, as `config.env` shows them.

    `env["model_id"]` is the variable's name, `env["model_id_value"]` its value: the environment's, else the argument's.

    A mapping of the names; `start_docstring` and `module` are attributes alone.

    Args:
        model_name: family in snake case.
        backend, model_id, quantize: values when the environment has none.
        environ: the environment; default `os.environ`, read at each look-up.
    """

    config = "OPENLLM_CONFIG"
    model_id = "OPENLLM_MODEL_ID"
    quantize = "OPENLLM_QUANTIZE"
    backend = "OPENLLM_BACKEND"

    def __init__(
        self,
        model_name: str,
        backend: str = "pt",
        model_id: str | None = None,
        quantize: str | None = None,
        *,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self.model_name = model_name
        self._given: dict[str, str | None] = {"backend": backend, "model_id": model_id, "quantize": quantize}
        self._environ = environ

    @property
    def start_docstring(self) -> str:
        """Help of `openllm start` for the family; empty where it is not known."""
        from ..families import registry  # whose specs need this module

        family = registry.get(self.model_name)
        return family.start_docstring if family is not None else ""

    @property
    def module(self) -> ModuleType:
        """What runs the model: the package of the backend asked for. 0.3.5 had one module for each family here.

        Raises:
            MissingDependency: openllm is not installed.
            KeyError: no such backend.
        """
        from .. import _bridges

        return _bridges.backend_module(self["backend_value"])

    def __getitem__(self, item: str) -> Any:
        environ = os.environ if self._environ is None else self._environ
        if item in ("config", "model_id", "quantize", "backend", "model_name"):
            return getattr(self, item)
        name = item.removesuffix("_value")
        if name == item or name not in self._given:
            raise KeyError(item)
        return environ.get(getattr(self, name), self._given[name])

    def __iter__(self) -> Any:
        return iter(("config", "model_id", "quantize", "backend", "model_name"))

    def __len__(self) -> int:
        return 5


def __getattr__(name: str) -> Any:
    if name == "ModelEnv":
        warnings.warn("ModelEnv is called EnvVarMixin.", DeprecationWarning, stacklevel=2)
        return EnvVarMixin
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
