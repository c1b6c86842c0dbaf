"""The model store: what a name means, where models live, how they get there.

Called by whatever starts or imports a model. Importing this package is cheap: its parts load when used, and none of
them imports bentoml, torch or transformers into the calling process.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from openllm_core.errors import OpenLLMError

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
    "find_here",
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


def find_here(text: str, options: StoreOptions) -> Path | None:
    """The folder of a model that needs no fetching, as far as its name tells; None where it must be fetched."""
    from .locate import locate
    from .store import Store

    store = Store(options)
    try:
        located = locate(text, store)
    except OpenLLMError:
        return None
    if located.folder is not None:
        return located.folder
    entry = located.entry
    if entry is None and located.hub_id is not None:
        entry = store.find_id(located.hub_id.id, located.hub_id.revision)
    return entry.path if entry is not None else None


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
