"""What a check looks at and what it says. Shared by the checks of a start; knows none of them.

A `Situation` can be made up in a test: machine, packages and model are all given, nothing is read behind its back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from importlib import metadata
from typing import TYPE_CHECKING, Any, Literal

import attrs

from openllm.backends import installed
from openllm_core.errors import OpenLLMError
from openllm_core.options import EngineOptions, ServerOptions, StoreOptions
from openllm_core.resources import detect

if TYPE_CHECKING:
    from openllm.serialisation import ResolvedModel

Level = Literal["ok", "note", "warn", "red"]
CONFIGURATION, RESOURCES = 78, 71


@attrs.frozen
class Finding:
    """One line of a report.

    Attributes:
        name: what was looked at, in a word or two.
        level: `red` stops a start; `warn` may hurt later; `note` could not be decided yet; `ok` says what is so.
        text: what was found, one line.
        fix: the command or change that mends it.
        exit_code: of a start that nothing but this stops: 71 where the machine lacks something, else 78.
        data: numbers and names, for `-o json`.
        error: what a start raises for it.
    """

    name: str
    level: Level
    text: str
    fix: str = ""
    exit_code: int = attrs.field(default=0, kw_only=True)
    data: dict[str, Any] = attrs.field(factory=dict[str, Any], kw_only=True)
    error: OpenLLMError | None = attrs.field(default=None, kw_only=True)


def red(name: str, error: OpenLLMError, **data: Any) -> Finding:
    """A finding that stops a start with this error."""
    code = RESOURCES if error.exit_code == RESOURCES else CONFIGURATION
    return Finding(name, "red", error.message, error.hint or "", exit_code=code, data=data, error=error)


def declared_requirements(distribution: str) -> list[str]:
    """Requirement lines of an installed distribution; none when it is not installed."""
    try:
        return metadata.requires(distribution) or []
    except metadata.PackageNotFoundError:
        return []


@attrs.define(kw_only=True)
class Situation:
    """A start that is about to be made.

    Attributes:
        engine, server, store: as the start would use them.
        sources: for each setting, where its value came from.
        model, model_id: as typed.
        resolved: the model's folder; None while it is not on this machine, and for the echo backend.
        version: distribution -> installed version or None.
        requirements: distribution -> requirement lines.
    """

    engine: EngineOptions = attrs.field(factory=EngineOptions)
    server: ServerOptions = attrs.field(factory=ServerOptions)
    store: StoreOptions = attrs.field(factory=StoreOptions)
    sources: Mapping[str, str] = attrs.field(factory=dict[str, str])
    model: str | None = None
    model_id: str | None = None
    resolved: ResolvedModel | None = None
    version: installed.Version = installed.version
    requirements: Callable[[str], list[str]] = declared_requirements
    _machine: detect.Machine | None = attrs.field(default=None, alias="machine")

    @property
    def machine(self) -> detect.Machine:
        """What there is to compute with; looked at once."""
        if self._machine is None:
            self._machine = detect.machine()
        return self._machine

    @property
    def needs_no_model(self) -> bool:
        """The echo backend without a model."""
        return self.engine.backend == "echo" and self.model is None and self.model_id is None


Check = Callable[[Situation], Iterable[Finding]]
"""Looks at one thing. Raising an `OpenLLMError` is a red finding named after the function."""
