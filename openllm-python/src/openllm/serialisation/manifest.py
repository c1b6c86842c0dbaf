"""manifest.json of a stored model: what each file must be, where it came from, what made it; and the check against it.

Written by `store.py` when a model is published, read whenever one is listed or started. Sizes and times are compared
at every start, hashes on demand or where a time differs. Knows nothing of formats, networks or locks.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path, PurePosixPath
from typing import Any, cast

import attrs

from openllm_core.errors import CorruptModel

from .tags import normalise

MANIFEST_FILE = "manifest.json"
MODEL_FILE = "model.yaml"
FORMAT = 1
_BLOCK_BYTES = 1 << 20


@attrs.frozen
class FileRecord:
    """One file of the model: path relative to its folder in POSIX form, size in bytes, SHA-256 in hex, mtime."""

    path: str
    size: int
    sha256: str
    mtime_ns: int


@attrs.frozen
class SourceRecord:
    """One file the model was made from, as it was then; a difference means the model has to be made again."""

    path: str
    size: int
    mtime_ns: int


@attrs.frozen(kw_only=True)
class Manifest:
    """Everything we know of a stored model.

    Attributes:
        tag: `<name>:<version>`.
        model_id: id as clients may use it; for a folder its basename, never a path.
        revision: commit, wheel version or empty.
        requested_revision: what was asked for (`main`, a tag); empty when nothing was.
        origin: `index`, `hub`, `folder`, or `made` here from another model.
        source: absolute folder or file for origin `folder`, tag or id of that model for `made`, else the requirement or id.
        sources: files at `source`, for origin `folder`.
        quantize: quantisation to load it with, as asked for at its import; empty for none.
        tools: distribution name -> version of what made the files.
    """

    tag: str
    model_id: str
    origin: str
    source: str = ""
    revision: str = ""
    requested_revision: str = ""
    family: str | None = None
    architecture: str | None = None
    weights: str = "safetensors"
    quantize: str = ""
    created: datetime = attrs.field(factory=lambda: datetime.now(UTC))
    tools: dict[str, str] = attrs.field(factory=dict[str, str])
    sources: tuple[SourceRecord, ...] = ()
    files: tuple[FileRecord, ...] = ()

    @property
    def size_bytes(self) -> int:
        """Bytes of all files together, the manifest itself not counted."""
        return sum(f.size for f in self.files)

    def to_json(self) -> bytes:
        """The file's content, stable for equal values."""
        data = {"format": FORMAT, **attrs.asdict(self), "created": self.created.isoformat()}
        return (json.dumps(data, indent=1, sort_keys=True) + "\n").encode("ascii")


def read(folder: Path) -> Manifest:
    """Read `folder/manifest.json`.

    Raises:
        CorruptModel: missing, not JSON, of another format, or naming files outside the folder.
    """
    path = folder / MANIFEST_FILE
    try:
        data: Any = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise CorruptModel(f"{folder.name} has no {MANIFEST_FILE}.") from None
    except (OSError, ValueError, RecursionError) as error:
        raise CorruptModel(f"{path} cannot be read: {error}.") from None
    try:
        return _structure(cast("dict[str, Any]", data))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CorruptModel(f"{path} is malformed: {type(error).__name__} {error}.") from None


def _structure(data: dict[str, Any]) -> Manifest:
    if data["format"] != FORMAT:
        raise ValueError(f"format {data['format']!r} is not {FORMAT}")
    files = tuple(
        FileRecord(_inside(f["path"]), int(f["size"]), str(f["sha256"]), int(f["mtime_ns"])) for f in data["files"]
    )
    sources = tuple(SourceRecord(str(s["path"]), int(s["size"]), int(s["mtime_ns"])) for s in data["sources"])
    words = {name: str(data[name]) for name in ("tag", "model_id", "origin", "source", "revision", "weights")}
    return Manifest(
        **words,
        requested_revision=str(data["requested_revision"]),
        family=data["family"],
        architecture=data["architecture"],
        quantize=str(data.get("quantize", "")),
        created=datetime.fromisoformat(data["created"]),
        tools=dict(data["tools"]),
        sources=sources,
        files=files,
    )


def _inside(text: str) -> str:
    path = PurePosixPath(text)
    if path.is_absolute() or ".." in path.parts or not path.parts:
        raise ValueError(f"{text!r} is not inside the model")
    return text


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's content, in hex."""
    with open(path, "rb", buffering=0) as file:
        return hashlib.file_digest(file, hashlib.sha256).hexdigest()


def problems(folder: Path, manifest: Manifest, *, hashes: bool = False) -> list[str]:
    """What differs from the manifest, one line per file; empty when the model is whole.

    Args:
        hashes: compare every SHA-256. Without it only files whose modification time differs are hashed; one that
            proves equal gets its recorded time back, so that the next check is cheap again.
    """
    return list(_problems(folder, manifest, hashes))


def _problems(folder: Path, manifest: Manifest, hashes: bool) -> Iterator[str]:
    for record in manifest.files:
        path = folder / record.path
        try:
            found = path.lstat()
        except OSError:
            yield f"{record.path} is missing"
            continue
        if not path.is_file() or path.is_symlink():
            yield f"{record.path} is not a plain file"
        elif found.st_size != record.size:
            yield f"{record.path} has {found.st_size:,} bytes instead of {record.size:,}"
        elif hashes or found.st_mtime_ns != record.mtime_ns:
            if sha256_of(path) != record.sha256:
                yield f"{record.path} has another content than was imported (SHA-256 differs)"
            elif found.st_mtime_ns != record.mtime_ns:
                _restore_time(path, record.mtime_ns)


def _restore_time(path: Path, mtime_ns: int) -> None:
    try:
        os.utime(path, ns=(mtime_ns, mtime_ns))
    except OSError:
        return  # a read-only store is checked the slow way each time, nothing worse


def is_whole(folder: Path, manifest: Manifest) -> bool:
    """Whether all files are there with their sizes; the cheapest check, for listings."""
    for record in manifest.files:
        try:
            if (folder / record.path).lstat().st_size != record.size:
                return False
        except OSError:
            return False
    return bool(manifest.files)


def sources_of(paths: Mapping[str, Path]) -> tuple[SourceRecord, ...]:
    """Size and time of the files a model is made from, by name."""
    stats = {name: path.stat() for name, path in sorted(paths.items())}
    return tuple(SourceRecord(name, s.st_size, s.st_mtime_ns) for name, s in stats.items())


def model_yaml(manifest: Manifest) -> bytes:
    """The fields `bentoml.models.get` of 1.4 reads. Every value is JSON, which is YAML."""
    name, _, version = manifest.tag.partition(":")
    labels = {
        "framework": "openllm",
        "backend": name.partition("-")[0],
        "model_name": normalise(manifest.family or "unknown"),
        "architecture": normalise(manifest.architecture or "unknown"),
        "serialisation": "safetensors" if manifest.weights == "safetensors" else "legacy",
    }
    fields: dict[str, Any] = {
        "name": name,
        "version": version,
        "module": "openllm.serialisation",
        "labels": labels,
        "options": {},
        "metadata": {
            "model_id": manifest.model_id.encode("utf-8", "replace").decode(),
            "revision": manifest.revision,
            "safe_serialisation": manifest.weights == "safetensors",
            "_framework": "pt",
            **({"_quantize": manifest.quantize} if manifest.quantize else {}),
        },
        "context": {
            "framework_name": "openllm",
            "framework_versions": manifest.tools,
            "bentoml_version": installed("bentoml") or "1.4.39",
            "python_version": manifest.tools.get("python", ""),
        },
        "signatures": {"generate": {"batchable": False}},
        "api_version": "v2",
        "creation_time": manifest.created.isoformat(),
    }
    return "".join(f"{key}: {json.dumps(value, ensure_ascii=False)}\n" for key, value in fields.items()).encode()


def installed(distribution: str) -> str | None:
    """Version of an installed distribution, without importing it."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None
