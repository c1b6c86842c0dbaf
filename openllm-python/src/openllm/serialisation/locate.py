"""What a model's text means: folder, store or Bento tag, family, folder of that name, hub id - in this order, tried one by one.

Called by `lookup.py`. Decides by files and tables on this machine alone; fetches nothing and opens no model.
"""

from __future__ import annotations

import os
from difflib import get_close_matches
from pathlib import Path

import attrs

from openllm_core.errors import ModelNotFound, UnknownModel
from openllm_core.families import registry

from . import bento_record, hub
from .store import Store, StoreEntry

_TEXT_LIMIT = 4096


@attrs.frozen(kw_only=True)
class Located:
    """What a text was taken for; exactly one of folder, entry and hub id is set.

    Attributes:
        family: set where the text was a family's name.
        bento: tag of the Bento whose model `entry` is, where the text named one.
    """

    text: str
    folder: Path | None = None
    entry: StoreEntry | None = None
    hub_id: hub.HubId | None = None
    family: str | None = None
    bento: str | None = None


def locate(text: str, store: Store) -> Located:
    """Decide what a text names, by files and tables on this machine alone.

    Raises:
        UnknownModel: it can name nothing.
        ModelNotFound: it is a path, and nothing is there.
    """
    if not text.strip() or "\0" in text or len(os.fsencode(text)) > _TEXT_LIMIT:
        raise UnknownModel("The model's name is empty, too long or holds a NUL.", hint="`openllm models` lists names.")
    bento = str(bento_record.root(store.options) or "")
    if text.startswith(("/", ".", "~")) or text.count("/") > 1:
        return Located(text=text, folder=_must_exist(text, bento))
    if "/" in text and (folder := _existing(text, bento)) is not None:
        return Located(text=text, folder=folder)
    if "/" not in text and (entry := store.find(text) or _in_bento(text, store)) is not None:
        return Located(text=text, entry=entry)
    if "/" not in text and (built := bento_record.find(store.options, text)) is not None:
        return Located(text=text, entry=built.model(store), bento=built.tag)
    family = registry.get(text)
    if family is not None and text.lower().partition(":")[0] not in [i.lower() for i in family.model_ids]:
        return Located(text=text, hub_id=hub.HubId(family.default_id), family=family.name)
    if (folder := _existing(text, bento)) is not None:
        return Located(text=text, folder=folder)
    if "/" not in text:
        from . import removal  # only where nothing else was found

        removal.refuse_earlier(store, text)
    hub_id = hub.HubId.parse(text)
    if hub_id is None:
        raise UnknownModel(f"{text[:200]!r} names no model.", hint=near_names(text, store))
    return Located(text=text, hub_id=hub_id)


def _in_bento(text: str, store: Store) -> StoreEntry | None:
    """A Bento carries its models in the layout of a store."""
    bento = bento_record.root(store.options)
    return Store(attrs.evolve(store.options, home=str(bento))).find(text) if bento is not None else None


def _existing(text: str, bento: str = "") -> Path | None:
    """An absolute path to what a text names; from the working directory, else from the root of the Bento we run in."""
    path = Path(os.path.abspath(os.path.expanduser(text)))
    try:
        if path.exists():
            return path
        inside = Path(os.path.abspath(Path(bento) / text))
        return inside if bento and inside.exists() else None
    except OSError:
        return None


def _must_exist(text: str, bento: str) -> Path:
    folder = _existing(text, bento)
    if folder is None:
        raise ModelNotFound(
            f"There is no folder {text[:300]}.",
            hint="Check the path. An id of the hub is written org/name, without a leading dot or slash.",
            param="model",
        )
    return folder


def near_names(text: str, store: Store) -> str:
    """A hint with names that look like a wrong one: families, stored models, ids."""
    stored = {name: name for e in store.entries() for name in (e.model_id, e.tag.partition(":")[0])}
    name = text.partition(":")[0]
    near = registry.suggest(name) + get_close_matches(name, stored, n=3, cutoff=0.6)
    if near:
        return f"Did you mean {' or '.join(dict.fromkeys(near[:3]))}?"
    return "`openllm models` lists families and stored models; a folder or an org/name of the hub will do too."
