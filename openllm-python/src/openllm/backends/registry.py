"""Backends by name: the entry-point group `openllm.backends`, in which each value names a package.

The package offers `load(options, progress)` (see `backends.base.BackendFactory`) and a `launch` submodule that needs no
framework. The engine host calls `get(name).load`; the server process only ever touches `launch`. Ours are found the same
way as anyone else's, and also where the entry points of a source tree are not installed yet.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
from collections.abc import Callable
from difflib import get_close_matches
from importlib.metadata import entry_points
from typing import Any, cast

import attrs

from openllm_core.errors import MissingDependency, UnknownBackend
from openllm_core.options import EngineOptions
from openllm_core.resources import detect

from . import installed
from .base import Backend, BackendFactory, Launch, MemoryEstimate, Progress

GROUP = "openllm.backends"
OURS = {"echo": "openllm.backends.echo", "pt": "openllm.backends.torch", "vllm": "openllm.backends.vllm"}
ALIASES = {"torch": "pt", "pytorch": "pt", "transformers": "pt"}


@attrs.frozen
class RegisteredBackend:
    """One backend, not imported until something of it is asked for.

    Attributes:
        name: what `--backend` says.
        package: dotted name of the package that holds it.
    """

    name: str
    package: str

    def load(self, options: EngineOptions, progress: Progress) -> Backend:
        """Import the framework and load the model; only ever called where the backend runs.

        Raises:
            MissingDependency: the framework is not installed.
        """
        factory = cast(BackendFactory, importlib.import_module(self.package))
        return factory.load(options, progress)

    def preload(self) -> None:
        """Import what `load` will need, where the backend's `launch` names it; only ever called where the backend runs."""
        module = getattr(self._launch(), "PRELOAD", None)
        if module is not None:
            importlib.import_module(module)

    def environment(self, options: EngineOptions, machine: Any = None) -> dict[str, str]:
        """Variables to set for the host process."""
        return self._launch().environment(options, machine)

    def estimate(self, options: EngineOptions, machine: Any = None) -> MemoryEstimate:
        """Memory needed against memory there, without loading."""
        return self._launch().estimate(options, machine)

    def check_here(
        self,
        options: EngineOptions,
        architecture: str,
        machine: detect.Machine | None = None,
        version: installed.Version | None = None,
    ) -> None:
        """Whether what is installed of it runs a model of that architecture, on this machine, with what was asked for; as far
        as that can be told without its framework.

        Raises:
            OpenLLMError: it does not; the hint names what does.
        """
        check = getattr(self._launch(), "check_here", None)
        if check is not None:
            check(options, architecture, machine, version)

    def why_not(
        self,
        options: EngineOptions,
        architecture: str,
        machine: detect.Machine | None = None,
        version: installed.Version | None = None,
    ) -> str | None:
        """Why `auto` had better take another backend, in a few words; None when nothing is known against this one."""
        judge = getattr(self._launch(), "why_not", None)
        return judge(options, architecture, machine, version) if judge is not None else None

    def check_arguments(self, options: EngineOptions) -> None:
        """Whether it takes every `--engine-arg`, as far as that can be told without its framework.

        Raises:
            InvalidSetting: a key it does not know (near names are told), or a value that is none.
        """
        check: Callable[[EngineOptions], None] | None = getattr(self._launch(), "check_arguments", None)
        if check is not None:
            check(options)

    def quantised(self, options: EngineOptions, machine: Any = None) -> str | None:
        """How the weights are quantised, for the start line; None when they are not.

        Raises:
            OpenLLMError: this backend cannot run them so; the hint names what can.
        """
        tell: Callable[[EngineOptions, Any], str | None] | None = getattr(self._launch(), "quantised", None)
        return tell(options, machine) if tell is not None else None

    def embeds(self, options: EngineOptions) -> bool | None:
        """Whether its engine makes embeddings with the model itself; None where only loading the model tells."""
        judge: Callable[[EngineOptions], bool | None] | None = getattr(self._launch(), "embeds", None)
        return judge(options) if judge is not None else False

    def _launch(self) -> Launch:
        return cast(Launch, importlib.import_module(self.package + ".launch"))


@functools.cache
def _packages() -> dict[str, str]:
    return OURS | {point.name: point.value.partition(":")[0] for point in entry_points(group=GROUP)}


def names() -> list[str]:
    """Names that `--backend` takes, sorted, `auto` not among them."""
    return sorted(_packages())


def get(name: str) -> RegisteredBackend:
    """The backend of that name (or alias), not imported yet.

    Raises:
        UnknownBackend: no such name; near ones are named.
    """
    found = ALIASES.get(name, name)
    package = _packages().get(found)
    if package is None and found == "ggml":
        raise UnknownBackend(
            "There is no backend 'ggml': no installed package runs ggml models as they are.",
            hint="pt serves GGUF files: `openllm import FILE.gguf` converts one. A package may add a backend of that name.",
            param="--backend",
        )
    if package is None:
        near = get_close_matches(name, names(), n=2)
        raise UnknownBackend(
            f"There is no backend {name[:64]!r}.",
            hint=f"Did you mean {' or '.join(near)}?" if near else f"Backends here: {', '.join(names())}.",
            param="--backend",
        )
    return RegisteredBackend(found, package)


def choose(
    options: EngineOptions,
    architecture: str | None = None,
    machine: detect.Machine | None = None,
    version: installed.Version | None = None,
) -> tuple[str, str]:
    """Which backend runs this model, and why, in a few words for the start line.

    Args:
        options: `backend` may be `auto`; with `model_path`, how its weights are quantised counts too.
        architecture: of the model's config; for backends that cannot run every one.
        machine, version: None looks at this machine, and at what is installed.

    Raises:
        UnknownBackend: the asked-for one does not exist.
        MissingDependency: `auto`, and no backend that can run models is installed.
    """
    if options.backend != "auto":
        return get(options.backend).name, "asked for"
    why_not = _no_vllm(options, architecture, machine, version)
    if why_not is None:
        return "vllm", f"installed, and runs {architecture}" if architecture else "installed"
    if importlib.util.find_spec("torch") is not None:
        return "pt", why_not
    raise MissingDependency(
        "No backend that can run a model is installed: torch is missing.",
        hint='pip install "openllm" torch transformers',
    )


def _no_vllm(
    options: EngineOptions,
    architecture: str | None,
    machine: detect.Machine | None,
    version: installed.Version | None,
) -> str | None:
    """Why `auto` does not take vLLM; None when it does."""
    if "vllm" not in _packages() or importlib.util.find_spec("vllm") is None:
        return f"the fastest installed{f' for {architecture}' if architecture else ''}; vllm is not"
    return get("vllm").why_not(options, architecture or "", machine, version)
