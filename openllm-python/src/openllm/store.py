"""The model store from Python: `openllm.import_model` and `openllm.list_models`, as `openllm import` and `openllm models` do.

For programs and notebooks. Takes the place of a command line, so what is typed here counts as typed; bentoml is imported
when a model is handed out.
"""

from __future__ import annotations

from collections.abc import Sequence
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
