"""Bentos of this machine, read from their files: `$BENTOML_HOME/bentos/<name>/<version>/bento.yaml`.

Called by `containers.py`, the extensions `list-bentos`, `dive-bentos`, `get-containerfile`, and whoever asks what a Bento
holds. Imports no bentoml: listing takes milliseconds, its import seconds. Writes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import attrs

from openllm.serialisation import disk
from openllm.serialisation.store import Store
from openllm.serialisation.tags import TAG
from openllm_core.errors import CorruptModel, ModelNotFound
from openllm_core.options import StoreOptions

BUNDLER = "openllm.bundle"
"""The label by which a Bento of ours is known."""
YAML_LIMIT_BYTES = 16 << 20


@attrs.frozen
class BentoModel:
    """A model that a Bento needs: name and version of the store."""

    name: str
    version: str

    @property
    def tag(self) -> str:
        """`name:version`."""
        return f"{self.name}:{self.version}"

    def find(self, options: StoreOptions) -> Path:
        """Its folder in the store.

        Raises:
            ModelNotFound: it is not there.
        """
        path = Store(options).models / self.name / self.version
        if not path.is_dir():
            raise ModelNotFound(
                f"The Bento's model {self.tag} is not in the store.",
                hint="Build the Bento again, or import its archive.",
            )
        return path

    def size_bytes(self, options: StoreOptions) -> int:
        """Bytes of its files; 0 where it is not in the store."""
        return size_bytes(Store(options).models / self.name / self.version)


@attrs.frozen(kw_only=True)
class Bento:
    """One Bento.

    Attributes:
        path: its folder.
        info: the content of its bento.yaml.
    """

    name: str
    version: str
    path: Path
    info: dict[str, Any] = attrs.field(repr=False, eq=False)

    @property
    def tag(self) -> str:
        """`name:version`."""
        return f"{self.name}:{self.version}"

    @property
    def labels(self) -> dict[str, str]:
        """Its labels, as text."""
        found = self.info.get("labels")
        items = cast("dict[Any, Any]", found) if isinstance(found, dict) else {}
        return {str(key): str(value) for key, value in items.items()}

    @property
    def ours(self) -> bool:
        """Whether this program built it."""
        return self.labels.get("bundler") == BUNDLER

    @property
    def start_name(self) -> str:
        """What `openllm build` was called with: the family, or the model."""
        return self.labels.get("start_name", self.name)

    @property
    def models(self) -> list[BentoModel]:
        """The models of the store it was built with."""
        found: Any = self.info.get("models")
        entries = cast("list[Any]", found) if isinstance(found, list) else []
        tags = [str(cast("dict[str, Any]", entry).get("tag", "")) for entry in entries if isinstance(entry, dict)]
        parts = [tag.partition(":") for tag in tags]
        return [BentoModel(n, v) for n, _, v in parts if TAG.fullmatch(n) and TAG.fullmatch(v)]

    @property
    def size_bytes(self) -> int:
        """Bytes of its own files; its models are counted where they lie."""
        return size_bytes(self.path)


def find_all(options: StoreOptions) -> Iterator[Bento]:
    """Every Bento that this program built, by name, then version."""
    for name in disk.folders(Store(options).home / "bentos"):
        for folder in disk.folders(name):
            found = _read(folder)
            if found is not None and found.ours:
                yield found


def get(tag: str, options: StoreOptions) -> Bento:
    """A Bento of any maker.

    Args:
        tag: `name:version`; `name` or `name:latest` is the one built last.

    Raises:
        ModelNotFound: there is none of that tag.
        CorruptModel: its bento.yaml cannot be read.
    """
    name, _, version = tag.partition(":")
    root = Store(options).home / "bentos"
    if TAG.fullmatch(name) and version in ("", "latest"):
        version = _latest(root / name)
    folder = root / name / version
    if not (TAG.fullmatch(name) and TAG.fullmatch(version) and folder.is_dir()):
        raise ModelNotFound(
            f"There is no Bento {tag!r} in {root}.", hint="`openllm list-bentos` lists what is there.", param="BENTO"
        )
    found = _read(folder)
    if found is None:
        raise CorruptModel(f"The Bento {tag} has no readable bento.yaml.", hint="Build it again.")
    return found


def size_bytes(folder: Path) -> int:
    """Bytes of the files in a folder."""
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file())


def _latest(folder: Path) -> str:
    """The version that BentoML's file `latest` names, else the folder written last; empty without any."""
    try:
        return (folder / "latest").read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        there = disk.folders(folder)
        return max(there, key=lambda path: path.stat().st_mtime).name if there else ""


def _read(folder: Path) -> Bento | None:
    """The Bento in a folder; None where its bento.yaml is missing, too large, or no YAML mapping."""
    import yaml

    path = folder / "bento.yaml"
    try:
        if path.stat().st_size > YAML_LIMIT_BYTES:
            return None
        data: Any = yaml.safe_load(path.read_bytes())
    except (OSError, yaml.YAMLError, ValueError, RecursionError):
        return None
    if not isinstance(data, dict):
        return None
    return Bento(name=folder.parent.name, version=folder.name, path=folder, info=cast("dict[str, Any]", data))
