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

    from .archive import export
    from .formats import ensure_tokenizer
    from .importing import Recipe
    from .loading import bento_model, get, load_model, load_tokenizer
    from .lookup import ResolvedModel, import_model, resolve
    from .store import StoreEntry
    from .tokenizers import open_tokenizer

__all__ = [
    "Recipe",
    "ResolvedModel",
    "StoreEntry",
    "bento_model",
    "ensure_tokenizer",
    "export",
    "get",
    "import_model",
    "list_models",
    "load_model",
    "load_tokenizer",
    "open_tokenizer",
    "resolve",
    "verify",
]

_HOMES = {
    "Recipe": "importing",
    "ResolvedModel": "lookup",
    "StoreEntry": "store",
    "bento_model": "loading",
    "ensure_tokenizer": "formats",
    "export": "archive",
    "get": "loading",
    "import_model": "lookup",
    "load_model": "loading",
    "load_tokenizer": "loading",
    "open_tokenizer": "tokenizers",
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
