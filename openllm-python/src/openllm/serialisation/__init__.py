"""The model store: what a name means, where models live, how they get there.

Called by whatever starts or imports a model. Importing this package is cheap: its parts load when used, and none of
them imports bentoml, torch or transformers into the calling process.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from openllm_core.options import StoreOptions

    from .formats import ensure_tokenizer
    from .lookup import ResolvedModel, import_model, resolve
    from .store import StoreEntry

__all__ = ["ResolvedModel", "StoreEntry", "ensure_tokenizer", "get", "import_model", "list_models", "resolve", "verify"]

_HOMES = {
    "ResolvedModel": "lookup",
    "StoreEntry": "store",
    "ensure_tokenizer": "formats",
    "import_model": "lookup",
    "resolve": "lookup",
}


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{home}"), name)


def list_models(options: StoreOptions) -> list[StoreEntry]:
    """Every whole model of the store, by name, the newest of a name first."""
    from .store import Store

    return Store(options).entries()


def get(text: str, options: StoreOptions) -> StoreEntry:
    """The stored model of a tag (`name`, `name:version`, backend prefix given or not) or hub id.

    Raises:
        ModelNotFound: the store has no such model.
    """
    from .store import Store

    return Store(options).get(text)


def verify(text: str, options: StoreOptions) -> Path:
    """Compare every file of a stored model with its SHA-256; the model's folder when all agree.

    Raises:
        ModelNotFound: the store has no such model.
        CorruptModel: naming the first file that differs.
    """
    from .store import Store

    store = Store(options)
    entry = store.get(text)
    store.check(entry, hashes=True)
    return entry.path
