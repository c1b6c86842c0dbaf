"""The model store from Python: `openllm.import_model`, `openllm.list_models`, `openllm.build`, as the commands do it.

For programs and notebooks. Takes the place of a command line, so what is typed here counts as typed; bentoml is imported
when a model is handed out.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from openllm_core.errors import InvalidSetting
from openllm_core.options import EngineOptions, StoreOptions
from openllm_core.settings import read

from . import serialisation as store


def import_model(
    model: str | None = None,
    /,
    *,
    model_id: str | None = None,
    model_version: str | None = None,
    backend: str = "pt",
    quantize: str | None = None,
    serialisation: str = "safetensors",
    trust_remote_code: bool = False,
    options: StoreOptions | None = None,
    additional_args: Sequence[str] | None = None,
) -> Any:
    """Bring a model into the store, at once when it is there.

    Args:
        model: family name, hub id (`id:revision`), folder, .gguf file or archive; None for the default model.
        model_id: id or folder, where `model` is a family name.
        model_version: version of the tag for a folder, revision for a hub id.
        backend: prefix of the tag; every backend reads the same files.
        quantize: quantisation to load it with from now on.
        serialisation: `legacy` lets pickle weights be read, to be converted.
        options: where models are kept; default: from the environment.
        additional_args: flags of `openllm import` that have no argument here; none are left.

    Returns:
        its `bentoml.Model`: `.tag`, `.path`, `.info`.

    Raises:
        InvalidSetting: an argument does not fit.
        OpenLLMError: as `openllm.serialisation.import_model`.
    """
    if additional_args:
        raise InvalidSetting(f"import_model has an argument for each flag; {additional_args[0]!r} is none of them.")
    wanted = {"quantize": quantize, "serialisation": serialisation, "trust_remote_code": trust_remote_code}
    engine: EngineOptions = read(EngineOptions, explicit={k: v for k, v in wanted.items() if v is not None}).options
    home = options if options is not None else read(StoreOptions).options
    entry = store.import_model(
        model,
        model_id=model_id,
        options=home,
        trust_remote_code=engine.trust_remote_code,
        allow_pickle_weights=engine.converts_pickle,
        recipe=store.Recipe(backend=backend, version=model_version, quantize=engine.quantize),
    )
    return store.bento_model(entry, home)


def list_models() -> dict[str, Any]:
    """Every family with architecture, ids, backends and installation; `local` and `store` say what is on this machine."""
    from .cli.models import as_data, local_data

    return as_data() | local_data()


def build(
    model: str | None = None,
    /,
    *,
    model_id: str | None = None,
    model_version: str | None = None,
    bento_version: str | None = None,
    backend: str | None = None,
    quantize: str | None = None,
    adapter_map: Mapping[str, str | None] | None = None,
    build_ctx: str | os.PathLike[str] | None = None,
    enable_features: Sequence[str] = (),
    workers_per_resource: str | float | None = None,
    dockerfile_template: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
    container_registry: str | None = None,
    container_version_strategy: str | None = None,
    push: bool = False,
    force_push: bool = False,
    containerize: bool = False,
    serialisation: str | None = None,
    additional_args: Sequence[str] = (),
) -> Any:
    """Make a Bento that serves a model, as `openllm build` does; at once when it is there, built the same way.

    Args:
        model: family name, hub id, tag, folder or .gguf file; None for the default model.
        adapter_map: adapter (folder, stored name, hub id) -> its name; None for the default one.
        build_ctx: folder that relative adapter paths start from.
        dockerfile_template: file that extends `bento_base_template`.
        containerize, push: make an image of it too, or send the Bento to BentoCloud; one of them.
        additional_args: more flags of `openllm build`, as words: `["--temperature", "0.2"]`.

    Returns:
        its `bentoml.Bento`: `.tag`, `.path`, `.info`.

    Raises:
        InvalidSetting: an argument does not fit.
        OpenLLMError: as the command.
    """
    options = {
        "model_id": model_id,
        "model_version": model_version,
        "bento_version": bento_version,
        "backend": backend,
        "quantize": quantize,
        "build_ctx": build_ctx,
        "workers_per_resource": workers_per_resource,
        "dockerfile_template": dockerfile_template,
        "container_registry": container_registry,
        "container_version_strategy": container_version_strategy,
        "serialisation": serialisation,
    }
    flags = {"overwrite": overwrite, "push": push, "force_push": force_push, "containerize": containerize}
    adapters = list((adapter_map or {}).items())
    words = [] if model is None else [model]
    for name, value in options.items():
        words += [] if value is None else [f"--{name.replace('_', '-')}={value}"]
    words += [f"--adapter-id={path}:{name}" if name else f"--adapter-id={path}" for path, name in adapters]
    words += [f"--enable-features={feature}" for feature in enable_features]
    words += [f"--{name.replace('_', '-')}" for name, wanted in flags.items() if wanted]
    from .bundle.build import as_bentoml
    from .cli.build import build_in_process

    return as_bentoml(build_in_process([*words, *additional_args]).bento)
