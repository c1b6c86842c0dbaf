"""Stored models as one file: `.tar.gz` with the layout BentoML's own `models export` and `models import` use.

Called by `lookup.py` for a path that is an archive, and behind `openllm export`. Every file is hashed on its way out and
in; links, absolute names and `..` are refused. Knows nothing of networks or formats.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import tarfile
import uuid
import zlib
from collections.abc import Generator
from contextlib import contextmanager, suppress
from lzma import LZMAError
from pathlib import Path, PurePosixPath
from typing import IO

import attrs

from openllm_core.errors import CorruptModel, StoreError

from . import disk, formats, safety
from . import manifest as manifests
from .importing import Trust
from .manifest import FileRecord, Manifest
from .store import Progress, Store, StoreEntry
from .tags import TAG, TAG_LENGTH

_LEVEL = 1  # weights hardly compress; a higher level costs minutes for a few percent
_BLOCK_BYTES = 1 << 20
_FILES_LIMIT = 10_000
_TEXT_LIMIT = 16 << 20  # bytes of manifest.json or model.yaml


# -- out ----------------------------------------------------------------------------------------------------------


def export(entry: StoreEntry, target: Path, progress: Progress | None = None) -> Path:
    """Write a stored model into one `.tar.gz`.

    Args:
        target: the file to write, or a folder for `<name>-<version>.tar.gz`; relative to the working directory.

    Returns:
        the file written, absolute. One that was there is replaced, at once and only by a whole one.

    Raises:
        CorruptModel: a file is not what was imported.
        StoreError: the disk refused.
    """
    target = Path(os.path.abspath(target))
    if target.is_dir():
        target /= f"{entry.tag.replace(':', '-')}.tar.gz"
    draft = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.partial")
    try:
        with open(draft, "xb") as raw:
            with gzip.GzipFile("", "wb", _LEVEL, raw, mtime=0) as packed, tarfile.open(fileobj=packed, mode="w") as tar:
                _pack(entry, tar, progress)
            raw.flush()
            os.fsync(raw.fileno())
        os.replace(draft, target)
        disk.sync_folder(target.parent)
    except OSError as error:
        raise disk.failed(f"{target} could not be written", error) from None
    finally:
        with suppress(OSError):  # a disk that refused the archive may refuse this too
            draft.unlink(missing_ok=True)
    return target


def _pack(entry: StoreEntry, tar: tarfile.TarFile, progress: Progress | None) -> None:
    # Where the model came from on this machine is nobody's business on another.
    manifest = attrs.evolve(entry.manifest, sources=(), source=_public_source(entry.manifest))
    texts = {manifests.MODEL_FILE: manifests.model_yaml(manifest), manifests.MANIFEST_FILE: manifest.to_json()}
    for name, content in texts.items():
        tar.addfile(_member(name, len(content), manifest), io.BytesIO(content))
    done = 0
    for record in manifest.files:
        if progress is not None:
            progress(f"packing {entry.tag}", done, manifest.size_bytes)
        with open(entry.path / record.path, "rb") as file:
            hashed = _Hashed(file)
            if os.fstat(file.fileno()).st_size == record.size:
                tar.addfile(_member(record.path, record.size, manifest), hashed)
        if hashed.digest.hexdigest() != record.sha256:
            raise CorruptModel(
                f"{entry.tag}: {record.path} has another content than was imported.",
                hint=f"openllm prune {entry.tag}, then import the model again.",
            )
        done += record.size


def _public_source(manifest: Manifest) -> str:
    return "" if manifest.origin == "folder" else manifest.source


def _member(name: str, size: int, manifest: Manifest) -> tarfile.TarInfo:
    """The same bytes from every machine: no owner, no time but the model's own."""
    member = tarfile.TarInfo(name)
    member.size, member.mode, member.mtime = size, 0o644, int(manifest.created.timestamp())
    return member


class _Hashed(io.RawIOBase):
    """A file that hashes what is read from it."""

    def __init__(self, file: IO[bytes]) -> None:
        super().__init__()
        self.file = file
        self.digest = hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        block = self.file.read(size)
        self.digest.update(block)
        return block


# -- in -----------------------------------------------------------------------------------------------------------


def import_archive(store: Store, path: Path, *, trust: Trust, progress: Progress | None = None) -> StoreEntry:
    """Bring an archive's model into the store under the tag it had; at once when the same model is there.

    Raises:
        CorruptModel: it is damaged, holds links or foreign paths, no whole safetensors, or is no archive of ours.
        UnsafeConfiguration: it carries code, and that was not trusted.
        StoreError: the store has other files under this tag, or the disk refused.
    """
    with _readable(path), store.staging() as out:
        known = _unpack(store, path, out, progress)
        manifest = _checked(path, out, known)
        _check_model(path, out, manifest.model_id, trust)
        (out / manifests.MANIFEST_FILE).unlink()
        (out / manifests.MODEL_FILE).unlink(missing_ok=True)
        with store.lock(manifest.tag.partition(":")[0], progress):
            entry = store.publish(out, manifest, known)
    if _contents(entry.manifest) != _contents(manifest):
        raise StoreError(
            f"The store has {manifest.tag} already, with other files than {path.name}.",
            hint=f"openllm prune {manifest.tag}, then import the archive again.",
        )
    return store.settled(entry)


def _contents(manifest: Manifest) -> dict[str, str]:
    return {record.path: record.sha256 for record in manifest.files}


@contextmanager
def _readable(path: Path) -> Generator[None]:
    try:
        yield
    except (tarfile.TarError, EOFError, zlib.error, LZMAError, gzip.BadGzipFile) as error:
        raise CorruptModel(f"{path.name} is no readable archive: {error}.", hint="Fetch or export it again.") from None
    except OSError as error:
        raise disk.failed(f"{path.name} could not be unpacked", error) from None


def _unpack(store: Store, path: Path, out: Path, progress: Progress | None) -> dict[str, FileRecord]:
    known: dict[str, FileRecord] = {}
    total = 0
    with tarfile.open(path, "r|*") as tar:
        for member in tar:
            name = _safe_name(member, path)
            if name is None:
                continue
            total += member.size
            if name in known or len(known) >= _FILES_LIMIT:
                raise CorruptModel(f"{path.name} holds {name} twice, or more than {_FILES_LIMIT:,} files.")
            if name in (manifests.MANIFEST_FILE, manifests.MODEL_FILE) and member.size > _TEXT_LIMIT:
                raise CorruptModel(f"{path.name}: {name} is larger than {_TEXT_LIMIT:,} bytes.")
            store.need_space(member.size, path.name)
            if progress is not None:
                progress(f"unpacking {path.name}", total, None)
            content = tar.extractfile(member)
            assert content is not None  # a regular file has one
            known[name] = _unpack_one(content, out / name, name, member.size)
    return known


def _safe_name(member: tarfile.TarInfo, path: Path) -> str | None:
    """The member's path below the model's folder; None for a folder."""
    name = PurePosixPath(member.name)
    bad = name.is_absolute() or ".." in name.parts or "\\" in member.name or "\0" in member.name
    if bad or not (member.isdir() or member.isreg()) or member.issparse():
        raise CorruptModel(f"{path.name} holds {member.name[:100]!r}, which is no plain file inside it.")
    return None if member.isdir() else name.as_posix()


def _unpack_one(content: IO[bytes], target: Path, name: str, size: int) -> FileRecord:
    target.parent.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256()
    fd = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    try:
        while block := content.read(_BLOCK_BYTES):
            digest.update(block)
            disk.write_all(fd, memoryview(block))
        facts = os.fstat(fd)
    finally:
        os.close(fd)
    if facts.st_size != size:
        raise CorruptModel(f"{name} is cut off in the archive.", hint="Fetch or export it again.")
    return FileRecord(name, facts.st_size, digest.hexdigest(), facts.st_mtime_ns)


def _checked(path: Path, out: Path, known: dict[str, FileRecord]) -> Manifest:
    """The archive's manifest, every file of which is there with its hash, and none besides."""
    if manifests.MANIFEST_FILE not in known:
        raise CorruptModel(
            f"{path.name} was not made by `openllm export`: it has no {manifests.MANIFEST_FILE}.",
            hint="Unpack it and import the folder: `openllm import ./folder`.",
        )
    manifest = manifests.read(out)
    words = manifest.tag.split(":")
    if len(words) != 2 or any(not TAG.fullmatch(w) or len(w) > TAG_LENGTH for w in words):
        raise CorruptModel(f"{path.name}: {manifest.tag[:100]!r} is no tag.")
    found = {n: r.sha256 for n, r in known.items() if n not in (manifests.MANIFEST_FILE, manifests.MODEL_FILE)}
    wrong = sorted(set(found.items()) ^ set(_contents(manifest).items()))
    if wrong:
        raise CorruptModel(f"{path.name}: {wrong[0][0]} is not what its manifest says.", hint="Export it again.")
    return manifest


def _check_model(path: Path, out: Path, model_id: str, trust: Trust) -> None:
    """The archive holds what the store holds, weights as safetensors and no code that was not trusted, whoever packed it."""
    contents = formats.inspect(out)
    if contents.kind != "safetensors" or contents.config is None:
        raise CorruptModel(
            f"{path.name} holds no config.json with *.safetensors: it was not made by `openllm export`.",
            hint="Unpack it and import the folder: `openllm import ./folder`.",
        )
    formats.check_weights(contents)
    safety.check_code(out, trust_remote_code=trust.remote_code, name=model_id)
