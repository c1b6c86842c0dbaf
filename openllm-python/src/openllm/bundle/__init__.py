"""Bentos and containers: what `openllm build` makes, with its parts: the model, our service, its bill of materials.

Called by the command line; the only folder besides `serialisation` that imports bentoml. Importing it is cheap.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .base_images import (
        CONTAINER_NAMES,
        RefResolver,
        build_container,
        get_base_container_name,
        get_base_container_tag,
        supported_registries,
    )
    from .containers import containerize

__all__ = [
    "CONTAINER_NAMES",
    "RefResolver",
    "build_container",
    "containerize",
    "get_base_container_name",
    "get_base_container_tag",
    "supported_registries",
]
_HOMES = dict.fromkeys(__all__, "base_images") | {"containerize": "containers"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
