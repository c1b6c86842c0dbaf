"""Variables that are set and look like ours, but that nothing reads: misspelt ones, and those of 0.3.5 that are gone.

Called by `openllm start`, which says so instead of leaving them aside in silence. Reads no environment of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches

from ..families import registry
from ..options import EngineOptions, ServerOptions, StoreOptions
from ..settings import settings_of
from .env import EnvVarMixin, field_env_key
from .generation import GENERATION_FIELDS, SAMPLING_FIELDS

GONE = {
    "OPENLLM_SERIALIZATION_WARNING": "weights are always stored as safetensors, so there is nothing to warn of",
    "OPENLLM_DEV_BUILD": "a Bento is built from the packages that are installed",
    "OPENLLMDEVDEBUG": "--debug and BENTOML_DEBUG show the log",
    "CONVERTER": "an import needs no converter",
    "USE_TF": "TensorFlow models are not run",
    "USE_FLAX": "Flax models are not run",
    "FORCE_TF_AVAILABLE": "TensorFlow models are not run",
}
"""Variable of 0.3.5 -> why nothing reads it."""

_BENTO = frozenset({"OPENLLM_MODEL", "OPENLLM_ADAPTER_MAP"})  # set inside a Bento of 0.3.5, for its service

_NEAR = 0.88  # a swapped, missing or doubled letter; more is another word, such as what Kubernetes sets for a service


def known() -> set[str]:
    """Variables of all settings and fields, those that own fields of every family have included."""
    settings = [
        fact.env for cls in (EngineOptions, ServerOptions, StoreOptions) for _, fact in settings_of(cls).values()
    ]
    own = [field_env_key(name) for family in registry.all() for name in family.own_fields]
    generation = [field_env_key(name, "generation") for name in GENERATION_FIELDS]
    sampling = [field_env_key(name, "sampling") for name in SAMPLING_FIELDS]
    of_model = [EnvVarMixin.config, EnvVarMixin.model_id, EnvVarMixin.backend, EnvVarMixin.quantize]
    return {name for name in (*settings, *own, *generation, *sampling, *of_model) if name}


def unread(environ: Mapping[str, str]) -> list[str]:
    """What to tell of variables that are set for nothing, a line each.

    Args:
        environ: the environment. A variable without a near one of ours may be another program's, and is left alone.
    """
    lines = [f"{name}: nothing reads it any more; {why}" for name, why in GONE.items() if environ.get(name)]
    ours = [name for name in sorted(environ) if name.startswith("OPENLLM_") and name not in _BENTO]
    names = known() if ours else set[str]()
    for name in ours:
        near = get_close_matches(name, names, n=1, cutoff=_NEAR)
        if near and near[0] != name:
            lines.append(f"{name}: no setting is called so; did you mean {near[0]}?")
    return lines
