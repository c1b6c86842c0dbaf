"""What a start depends on, written down and compared: the model's files, its template, engine, packages and flags.

`openllm lock` writes a `Lock`; `openllm start --locked` observes what is here the same way and refuses what differs. Reads
files and metadata, loads no model. Must not know of the command line or of a running engine.
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Iterator, Mapping
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, cast

import attrs

from openllm_core.config.llm import LLMConfig
from openllm_core.errors import CorruptModel, InvalidSetting
from openllm_core.families import registry as families
from openllm_core.options import EngineOptions, ServerOptions, StoreOptions
from openllm_core.settings import flag_of, settings_of

from . import distributions
from .backends import registry
from .embedding_model import maker_of
from .serialisation import ResolvedModel, fetch, find_here, hub, manifest
from .serialisation.adapters import AdapterStore, split
from .serialisation.store import Progress
from .tokenizer import config_facts

LOCK_FILE = "openllm.lock.json"
FORMAT = 1
_LIMIT_BYTES = 16 << 20
_UNLOCKED = ("backend", "host", "port")
"""Settings that a lock leaves out: the engine has a line of its own, and where a server listens is its machine's business."""


@attrs.frozen(kw_only=True)
class Lock:
    """Everything that decides what a server answers.

    Attributes:
        model: what `openllm start` takes to find the model again.
        model_id: id as clients use it; never a path.
        revision: commit or wheel version; empty for a folder of one's own.
        files: SHA-256 of each file of the model, in hex, by its path in the folder.
        chat_template: SHA-256 of the template's text; empty when there is none.
        embedding_files: the same as `files`, of the sentence encoder that makes the embeddings: that of `--embedding-model`,
            or the default one where the model has none of its own; empty without, and before the default one is here.
        adapters: the same, for each `--adapter-id` as it was given; by its name where a Bento carries it.
        engine: name of the backend.
        python: version of Python.
        packages: version of each installed package that takes part.
        flags: setting -> value, those that are not the default.
        generation: generation field -> value, those that are not the family's.
    """

    model: str
    model_id: str
    revision: str = ""
    files: Mapping[str, str] = attrs.field(factory=dict[str, str])
    chat_template: str = ""
    embedding_files: Mapping[str, str] = attrs.field(factory=dict[str, str])
    adapters: Mapping[str, Mapping[str, str]] = attrs.field(factory=dict[str, Mapping[str, str]])
    engine: str = ""
    python: str = ""
    packages: Mapping[str, str] = attrs.field(factory=dict[str, str])
    flags: Mapping[str, Any] = attrs.field(factory=dict[str, Any])
    generation: Mapping[str, Any] = attrs.field(factory=dict[str, Any])

    def to_json(self) -> str:
        """The file's content, the same for equal locks."""
        return json.dumps({"format": FORMAT, **attrs.asdict(self)}, indent=1, sort_keys=True) + "\n"

    def settings(self) -> dict[str, Any]:
        """What a start takes over: the flags and the engine. What counts only when typed has to be typed again."""
        untyped = {name: value for name, value in self.flags.items() if not _facts()[name][1].typed_only}
        return untyped | {"backend": self.engine}


def read(path: Path) -> Lock:
    """Read a lock file.

    Raises:
        InvalidSetting: it is not there, too large, or no lock of this format.
    """
    hint = "`openllm lock MODEL` writes one."
    try:
        if path.stat().st_size > _LIMIT_BYTES:
            raise InvalidSetting(f"{path} is larger than {_LIMIT_BYTES:,} bytes.", hint=hint)
        data: Any = json.loads(path.read_bytes())
        return _structure(cast("dict[str, Any]", data))
    except OSError as error:
        raise InvalidSetting(f"{path} cannot be read: {error.strerror or error}.", hint=hint) from None
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise InvalidSetting(f"{path} is no lock file: {type(error).__name__}: {error}.", hint=hint) from None


def _structure(data: dict[str, Any]) -> Lock:
    if data["format"] != FORMAT:
        raise ValueError(f"format {data['format']!r} is not {FORMAT}")
    names = ("model", "model_id", "revision", "chat_template", "engine", "python")
    texts = {name: _text(data[name]) for name in names}
    flags, generation = dict(data["flags"]), dict(data["generation"])
    if unknown := [name for name in flags if name not in _facts()]:
        raise ValueError(f"no setting is called {unknown[0]!r}")
    adapters = {str(name): _texts(files) for name, files in data["adapters"].items()}
    return Lock(
        **texts,
        files=_texts(data["files"]),
        embedding_files=_texts(data["embedding_files"]),
        packages=_texts(data["packages"]),
        adapters=adapters,
        flags=flags,
        generation=generation,
    )


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value


def _texts(data: dict[str, Any]) -> dict[str, str]:
    return {name: _text(value) for name, value in data.items()}


# -- what is here ---------------------------------------------------------------------------------------------------------


def observe(
    model: ResolvedModel,
    engine: EngineOptions,
    server: ServerOptions,
    store: StoreOptions,
    config: LLMConfig,
    *,
    text: str | None,
    progress: Progress | None = None,
) -> Lock:
    """What a start with these settings would depend on, as it is on this machine now. Every file is read and hashed.

    Args:
        engine: `backend` is the chosen one.
        config: generation defaults of the server.
        text: what named the model; None for the default one.

    Raises:
        CorruptModel, StoreError: a file of the model or of an adapter cannot be read.
        AdapterNotFound, AdapterIncompatible: an adapter is not to be had.
    """
    known = _manifest(model.path)
    carried = {text: name for text in engine.adapter_id if (name := _carried(text, store)) is not None}
    own = tuple(text for text in engine.adapter_id if text not in carried)
    flags = attrs.evolve(engine, quantize=engine.quantize or model.quantize, adapter_id=own)
    encoder = _encoder(model.engine(engine), store)
    return Lock(
        model=_name(model, known, text),
        model_id=model.model_id,
        revision=_revision(model, known),
        files=_hashes(model.path, engine, progress),
        embedding_files=_hashes(encoder, engine, progress) if encoder is not None else {},
        chat_template=_template(model),
        adapters={carried.get(text, text): _adapter(text, store) for text in engine.adapter_id},
        engine=engine.backend,
        python=platform.python_version(),
        packages=distributions.versions([*distributions.ENGINE, *_brought_by(engine.backend)]),
        flags=_flags(flags) | _flags(server),
        generation=_given(config),
    )


def _manifest(folder: Path) -> manifest.Manifest | None:
    try:
        return manifest.read(folder)
    except CorruptModel:
        return None


def _encoder(engine: EngineOptions, store: StoreOptions) -> Path | None:
    """Folder of the sentence encoder that makes the embeddings; None where none does, or it is not on this machine yet."""
    if maker_of(engine) != "encoder":
        return None
    return find_here(engine.embedding_model or fetch.EMBEDDING_MODEL.model_id, store)


def _in_hub_cache(model: ResolvedModel) -> bool:
    return model.path.parent.name == "snapshots"


def _revision(model: ResolvedModel, known: manifest.Manifest | None) -> str:
    if known is not None:
        return known.revision
    return model.path.name if _in_hub_cache(model) else ""


def _name(model: ResolvedModel, known: manifest.Manifest | None, text: str | None) -> str:
    """What names the same model on another machine: an id of the hub with its commit, else what was said here."""
    if (known is not None and known.origin == "hub") or _in_hub_cache(model):
        return f"{model.model_id}:{_revision(model, known)}"
    if known is not None and known.origin == "index":
        return model.model_id
    return text or model.model_id


def _hashes(folder: Path, engine: EngineOptions, progress: Progress | None) -> dict[str, str]:
    """The files that an import of the folder would take, which are those that a load may read."""
    if folder.is_file():  # a GGUF file or an archive
        return {folder.name: manifest.sha256_of(folder)}
    names = hub.names_in(folder)
    chosen = hub.wanted(names, folder.name, trust=engine.trust_remote_code, allow_pickle=engine.converts_pickle)
    names = [name for name in sorted(set(chosen)) if name not in (manifest.MANIFEST_FILE, manifest.MODEL_FILE)]
    sizes = {name: (folder / name).stat().st_size for name in names}
    done, found = 0, dict[str, str]()
    for name in names:
        if progress is not None:
            progress(f"hashing {name}", done, sum(sizes.values()))
        found[name] = manifest.sha256_of(folder / name)
        done += sizes[name]
    return found


def _template(model: ResolvedModel) -> str:
    _, _, template = config_facts(model.path)
    if template is None and model.family is not None and (of_family := families.find(model.family).chat_template):
        template = of_family.text
    return hashlib.sha256(template.encode("utf-8", "surrogatepass")).hexdigest() if template is not None else ""


def _carried(text: str, store: StoreOptions) -> str | None:
    """Name of an adapter that the Bento we serve carries; None for any other. Where the Bento lies differs by machine."""
    source, name = split(text)
    inside = store.bento_path and Path(source).is_relative_to(store.bento_path)
    return name if inside else None


def _adapter(text: str, store: StoreOptions) -> dict[str, str]:
    folder, _ = AdapterStore(store).folder_of(split(text)[0])
    return {path.name: manifest.sha256_of(path) for path in sorted(folder.iterdir()) if path.is_file()}


def _facts() -> dict[str, Any]:
    return {name: fact for cls in (EngineOptions, ServerOptions) for name, fact in settings_of(cls).items()}


def _brought_by(backend: str) -> list[str]:
    """The package that a backend of somebody else's comes with."""
    return [point.dist.name for point in entry_points(group=registry.GROUP, name=backend) if point.dist is not None]


def _flags(options: EngineOptions | ServerOptions) -> dict[str, Any]:
    """Settings that are not the default: nothing secret, and nothing that the program fills in itself."""
    usual, found = type(options)(), dict[str, Any]()
    for name, (_, fact) in settings_of(type(options)).items():
        value: Any = getattr(options, name)
        if value != getattr(usual, name) and not fact.secret and flag_of(name, fact) and name not in _UNLOCKED:
            found[name] = [*cast("tuple[Any, ...]", value)] if isinstance(value, tuple) else value
    return found


def _given(config: LLMConfig) -> dict[str, Any]:
    """Generation fields whose value is not what the model's family says."""
    usual = LLMConfig.for_model(config.family, environ={}).model_dump(flatten=True)
    return {name: value for name, value in config.model_dump(flatten=True).items() if value != usual.get(name)}


# -- what differs ---------------------------------------------------------------------------------------------------------


def differences(locked: Lock, here: Lock) -> Iterator[tuple[str, str]]:
    """Each thing that is not as it was locked: (what differs, the command or change that mends it)."""
    again = f"openllm import {locked.model}"
    for name, mend in (
        ("model_id", f"openllm start {locked.model}"),
        ("revision", again),
        ("chat_template", again),
        ("engine", f"Use --backend {locked.engine}."),
        ("python", f"Run it with Python {locked.python}."),
    ):
        was, found = getattr(locked, name), getattr(here, name)
        if was != found:
            yield f"{name.replace('_', ' ')}: {_short(found)} here, {_short(was)} in the lock", mend
    yield from _of_files("file", locked.files, here.files, again)
    encoder = locked.flags.get("embedding_model") or here.flags.get("embedding_model")
    files = (locked.embedding_files, here.embedding_files)
    if encoder or locked.embedding_files:  # the default one may have come with a request since
        mend = f"openllm import {encoder or fetch.EMBEDDING_MODEL.model_id}"
        yield from _of_files("embedding model, file", *files, mend=mend)
    for name in sorted({*locked.adapters, *here.adapters}):
        files = (kind.get(name, {}) for kind in (locked.adapters, here.adapters))
        yield from _of_files(f"adapter {name}, file", *files, mend=f"Give the adapter {name} as it was locked.")
    for name, was, found in _unequal(locked.packages, here.packages):
        mend = f'pip install "{name}=={was}"' if was is not None else f"pip uninstall {name}"
        yield f"package {name}: {found or 'not installed'} here, {was or 'not there'} in the lock", mend
    for name, was, found in _unequal(locked.flags, here.flags):
        yield _of_flag(name, was, found)
    for name, was, found in _unequal(locked.generation, here.generation):
        text = f"--{name.replace('_', '-')}: {_said(found)} here, {_said(was)} in the lock"
        yield text, "Leave it out, in the environment too."


def _of_files(what: str, locked: Mapping[str, str], here: Mapping[str, str], mend: str) -> Iterator[tuple[str, str]]:
    for name, was, found in _unequal(locked, here):
        if was is None:
            yield f"{what} {name}: not in the lock", f"Remove {name}, or lock again."
        elif found is None:
            yield f"{what} {name}: not here", mend
        else:
            yield f"{what} {name}: SHA-256 {_short(found)} here, {_short(was)} in the lock", mend


def _of_flag(name: str, was: Any, found: Any) -> tuple[str, str]:
    _, fact = _facts()[name]
    flag = flag_of(name, fact)
    if fact.typed_only and found is None:
        return f"{flag}: not typed here, {_said(was)} in the lock", f"Type {flag}: it never comes out of a file."
    return f"{flag}: {_said(found)} here, {_said(was)} in the lock", f"Leave {flag} out, in the environment too."


def _unequal(locked: Mapping[str, Any], here: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    for name in sorted({*locked, *here}):
        if locked.get(name) != here.get(name):
            yield name, locked.get(name), here.get(name)


def _short(text: str) -> str:
    return f"{text[:12]}…" if len(text) > 40 else text or "none"


def _said(value: Any) -> str:
    return "not set" if value is None else json.dumps(value) if not isinstance(value, str) else value
