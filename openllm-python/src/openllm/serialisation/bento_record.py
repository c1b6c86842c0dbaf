"""Bentos of this program as files: which there are, and what stands in each of how its model is to be served.

Called by whatever starts, lists or prunes them, and by `bundle`, which writes them. Reads the folders of a store, of an
exported Bento and of the container we run in. Never imports bentoml, and runs nothing that a Bento brings.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, cast

import attrs

from openllm_core.errors import CorruptModel, ModelNotFound
from openllm_core.options import StoreOptions

from . import disk
from .store import Store, StoreEntry
from .tags import TAG, TAG_LENGTH

BENTO_FILE = "bento.yaml"
RECORD_FILE = "openllm.json"
SOURCES = "src"  # BentoML's name for the folder of the service's own files
FORMAT = 1
IN_DOCKER = Path("/.dockerenv")
IN_CONTAINER = Path("/home/bentoml/bento")
"""Where BentoML's images keep their Bento, whatever is left of their environment."""
_RECORD_LIMIT_BYTES = 4 << 20


@attrs.frozen(kw_only=True)
class BentoAdapter:
    """One adapter that a Bento carries.

    Attributes:
        name: as requests know it.
        path: folder, relative to the Bento's sources, POSIX form.
        files: SHA-256 of each file, by its path in the folder.
    """

    name: str
    path: str
    files: Mapping[str, str] = attrs.field(factory=dict[str, str])


@attrs.frozen(kw_only=True)
class BentoRecord:
    """How a Bento serves its model: all that was given to `openllm build`, as data.

    Attributes:
        tag: the Bento's own.
        model: tag of the stored model.
        model_id: its id; never a path.
        family: name of its family, None for none of ours.
        architecture: of its config.json.
        settings: setting -> value, those that were given.
        fields: generation field -> value, those that were given.
        features: extras of `openllm` asked for.
        image: what the container is made of: `base`, `named` (the base, where it was asked for), `python`, `commands`,
            `packages`, `wheels` (whether our own are embedded), `template` (SHA-256 of one's own).
    """

    tag: str
    model: str
    model_id: str
    family: str | None = None
    architecture: str | None = None
    settings: Mapping[str, Any] = attrs.field(factory=dict[str, Any])
    fields: Mapping[str, Any] = attrs.field(factory=dict[str, Any])
    adapters: tuple[BentoAdapter, ...] = ()
    features: tuple[str, ...] = ()
    image: Mapping[str, Any] = attrs.field(factory=dict[str, Any])

    def to_json(self) -> bytes:
        """The file's content, stable for equal values."""
        data = {"format": FORMAT, **attrs.asdict(self)}
        return (json.dumps(data, indent=1, sort_keys=True) + "\n").encode("ascii")

    @property
    def models(self) -> tuple[str, ...]:
        """Tags of the stored models it needs: its own, and its sentence encoder where it has one."""
        encoder = self.settings.get("embedding_model")
        return tuple(dict.fromkeys([self.model, *([str(encoder)] if encoder else [])]))

    def asked(self) -> dict[str, Any]:
        """What makes two Bentos the same: everything but what depended on the day, as versions of packages do."""
        data = json.loads(self.to_json())
        data["image"] = {key: value for key, value in data["image"].items() if key in ("named", "template")}
        return data


@attrs.frozen(kw_only=True)
class BuiltBento:
    """One Bento that we made. `path` is its folder."""

    path: Path
    record: BentoRecord

    @property
    def tag(self) -> str:
        """`name:version`."""
        return self.record.tag

    @property
    def sources(self) -> Path:
        """Folder of the service and what it needs."""
        return self.path / SOURCES

    def model(self, store: Store) -> StoreEntry:
        """Its model: what it carries itself (exported, or in a container), else the store's.

        Raises:
            ModelNotFound: neither has it.
        """
        for home in (store, Store(attrs.evolve(store.options, home=str(self.path)))):
            if (entry := home.find(self.record.model)) is not None:
                return entry
        raise ModelNotFound(
            f"The Bento {self.tag} needs the model {self.record.model}, which is not in the store {store.models}.",
            hint="Import the model again, or `bentoml import` the Bento's archive, which carries it.",
        )

    def settings(self) -> dict[str, Any]:
        """What it says of settings; its adapters as `--adapter-id` takes them: absolute folder and name."""
        adapters = [f"{self.sources / adapter.path}:{adapter.name}" for adapter in self.record.adapters]
        return {**self.record.settings, **({"adapter_id": adapters} if adapters else {})}


def read(path: Path) -> BuiltBento:
    """The Bento of a folder.

    Raises:
        CorruptModel: it is none of ours, or its record is damaged.
    """
    file = path / SOURCES / RECORD_FILE
    try:
        if file.stat().st_size > _RECORD_LIMIT_BYTES:
            raise ValueError("it is too large")
        record = _structure(json.loads(file.read_bytes()))
    except FileNotFoundError:
        raise CorruptModel(
            f"{path} was not made by `openllm build`: it has no {SOURCES}/{RECORD_FILE}.", hint=f"bentoml serve {path}"
        ) from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CorruptModel(f"{file} cannot be read: {type(error).__name__} {error}.") from None
    return BuiltBento(path=path, record=record)


def _structure(data: Any) -> BentoRecord:
    fields = cast("dict[str, Any]", data)
    if fields["format"] != FORMAT:
        raise ValueError(f"format {fields['format']!r} is not {FORMAT}")
    adapters = tuple(
        BentoAdapter(name=str(a["name"]), path=_inside(a["path"]), files=dict(a["files"])) for a in fields["adapters"]
    )
    return BentoRecord(
        tag=_tag(fields["tag"]),
        model=_tag(fields["model"]),
        model_id=str(fields["model_id"]),
        family=fields["family"],
        architecture=fields["architecture"],
        settings=dict(fields["settings"]),
        fields=dict(fields["fields"]),
        adapters=adapters,
        features=tuple(map(str, fields["features"])),
        image=dict(fields["image"]),
    )


def _tag(text: str) -> str:
    words = text.split(":")
    if len(words) != 2 or any(not TAG.fullmatch(word) or len(word) > TAG_LENGTH for word in words):
        raise ValueError(f"{text!r} is no tag")
    return text


def _inside(text: str) -> str:
    path = PurePosixPath(text)
    if path.is_absolute() or ".." in path.parts or not path.parts:
        raise ValueError(f"{text!r} is not inside the Bento")
    return text


def folder_of(store: Store, text: str) -> Path | None:
    """Folder of the Bento that a tag names in the store (`name`, `name:latest`, `name:version`), whoever made it."""
    name, _, version = text.lower().partition(":")
    if not TAG.fullmatch(name) or (version and not TAG.fullmatch(version)):
        return None
    parent = store.home / "bentos" / name
    if version in ("", "latest"):
        version = _latest(parent)
    folder = parent / version
    return folder if version and (folder / BENTO_FILE).is_file() else None


def _latest(parent: Path) -> str:
    try:
        version = (parent / "latest").read_text().strip()
    except (OSError, ValueError):
        return ""
    return version if TAG.fullmatch(version) else ""


def root(options: StoreOptions) -> Path | None:
    """Folder of the Bento that this process runs in: BENTO_PATH says it, or that this is a container of BentoML's."""
    if options.bento_path:
        return Path(options.bento_path)
    return IN_CONTAINER if IN_DOCKER.exists() and (IN_CONTAINER / BENTO_FILE).is_file() else None


def find(options: StoreOptions, text: str | None) -> BuiltBento | None:
    """The Bento that a text names: a tag of the store, or a Bento's folder; without a text, the one we run in.

    Raises:
        CorruptModel: there is a Bento of that name, and it is none of ours.
    """
    if text is None:
        home = root(options)
        return read(home) if home is not None and (home / SOURCES / RECORD_FILE).is_file() else None
    if text.startswith(("/", ".", "~")) or "/" in text:
        folder = Path(text).expanduser().absolute()
        return read(folder) if (folder / BENTO_FILE).is_file() else None
    store = Store(options)
    if store.find(text) is not None:  # a model's tag means the model
        return None
    found = folder_of(store, text)
    return read(found) if found is not None else None


def entries(store: Store) -> Iterator[BuiltBento]:
    """Every Bento of the store that `openllm build` made, by tag; a damaged one is left out."""
    for name in disk.folders(store.home / "bentos"):
        for folder in disk.folders(name):
            try:
                yield read(folder)
            except CorruptModel:
                continue


def users(store: Store) -> dict[str, tuple[str, ...]]:
    """Tag of a stored model -> tags of the Bentos that need it."""
    found: dict[str, tuple[str, ...]] = {}
    for bento in entries(store):
        for tag in bento.record.models:
            found[tag] = (*found.get(tag, ()), bento.tag)
    return found
