"""Adapters of the store: `$BENTOML_HOME/adapters/<name>/<digest>/`, plain files with their hashes; found, added, removed.

Called by `compose` for `--adapter-id` and for a server that loads adapters by name, and by `openllm adapters`. Copies the two
files of a PEFT adapter and nothing else; whether they are an adapter is for the caller to have looked at. It also keeps
which adapters a server had loaded, so that the next one of the same model begins with them.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Generator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import attrs

from openllm_core.errors import (
    AdapterIncompatible,
    AdapterNotFound,
    CorruptModel,
    InvalidSetting,
    StoreError,
    UnknownModel,
)
from openllm_core.options import StoreOptions

from . import disk, hub
from .manifest import sha256_of
from .store import Store

FILES = ("adapter_config.json", "adapter_model.safetensors")
RECORD_FILE = "adapter.json"
FORMAT = 1
KEPT_VERSIONS = 2  # of one name: a server that runs the one before may have to load it into a new host
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}")
RESERVED = ("base",)  # what requests call the model without any adapter


def check_name(name: str) -> str:
    """An adapter's name as given, if it is one.

    Raises:
        InvalidSetting: it is not, or it is reserved.
    """
    if not NAME.fullmatch(name) or name in RESERVED:
        raise InvalidSetting(
            f"{name[:96]!r} is no name for an adapter.",
            hint="Letters, digits, dots, dashes and underscores, at most 96; `base` means the model itself.",
            param="adapter_id",
        )
    return name


@attrs.frozen(kw_only=True)
class StoredAdapter:
    """One adapter of the store.

    Attributes:
        path: folder with its files.
        source: folder or id it was made from.
        sha256: file -> hash, as it was when it was added.
        created: aware, UTC.
    """

    name: str
    path: Path
    source: str
    sha256: dict[str, str]
    size_bytes: int
    created: datetime


class AdapterStore:
    """The folder of adapters. Cheap to make: touches nothing until asked."""

    def __init__(self, options: StoreOptions) -> None:
        self._store = Store(options)
        self._options = options
        self.root = self._store.home / "adapters"

    # -- reading ------------------------------------------------------------------------------------------------------

    def entries(self) -> list[StoredAdapter]:
        """The newest version of every adapter, by name."""
        newest = (self._newest(folder) for folder in disk.folders(self.root))
        return [entry for entry in newest if entry is not None]

    def find(self, name: str) -> StoredAdapter | None:
        """An adapter by its name; what is no name finds nothing."""
        return self._newest(self.root / name) if NAME.fullmatch(name) else None

    def get(self, name: str) -> StoredAdapter:
        """The same, its files compared with their hashes.

        Raises:
            AdapterNotFound: the store has none of that name.
            AdapterIncompatible: its files are not what was added.
        """
        entry = self.find(name)
        if entry is None:
            raise AdapterNotFound(f"The store has no adapter {name[:96]!r}.", param="adapter_name")
        for file, digest in entry.sha256.items():
            if not _holds(entry.path / file, digest):
                raise AdapterIncompatible(
                    f"The adapter {name} is damaged: {file} is not what was added.",
                    hint=f"Add it again: openllm adapters add {entry.source}:{name}",
                    param="adapter_name",
                )
        return entry

    def differs(self, name: str, folder: Path) -> bool:
        """Whether the store has an adapter of that name with other files than those in a folder."""
        entry = self.find(name)
        return entry is not None and any(
            not (folder / file).is_file() or sha256_of(folder / file) != digest for file, digest in entry.sha256.items()
        )

    def _newest(self, folder: Path) -> StoredAdapter | None:
        versions = [entry for f in disk.folders(folder) if (entry := _entry(f)) is not None]
        return max(versions, key=lambda entry: entry.created, default=None)

    def folder_of(self, source: str) -> tuple[Path, str]:
        """Folder of what a user calls an adapter, and what it was taken for: folder, stored adapter or hub id.

        Raises:
            AdapterNotFound: nothing is called so, or the hub cannot be asked.
            AdapterIncompatible: a stored one is damaged.
        """
        given = Path(os.path.abspath(os.path.expanduser(source)))
        inside = Path(os.path.abspath(Path(self._options.bento_path) / source)) if self._options.bento_path else given
        for path in (given, inside):
            if path.is_dir():
                return path, "folder"
        if self.find(source) is not None:
            return self.get(source).path, "stored"
        hub_id = hub.HubId.parse(source)
        if hub_id is None or "/" not in hub_id.id:
            raise AdapterNotFound(
                f"There is no adapter {source[:200]!r}: neither a folder nor a stored adapter.",
                hint="`openllm adapters ls` lists the stored ones.",
                param="adapter_id",
            )
        return self._from_hub(hub_id), "hub id"

    def _from_hub(self, hub_id: hub.HubId) -> Path:
        """The adapter's files in the hub's cache on this machine, fetched where they are not there."""
        try:
            return hub.adapter_folder(hub_id, FILES, offline=self._options.offline)
        except (StoreError, UnknownModel) as error:
            raise AdapterNotFound(
                f"The adapter {hub_id} is no folder here, and not to be had from the hub: {error.message}",
                hint=error.hint,
                param="adapter_id",
            ) from None

    # -- writing ------------------------------------------------------------------------------------------------------

    def add(self, name: str, folder: Path, source: str) -> StoredAdapter:
        """Copy an adapter's files in under a name; what had the name before stays until it is removed or twice replaced.

        Raises:
            StoreBusy, StoreError: another process writes this name, or the disk refused.
            CorruptModel: a file is missing.
        """
        with self.adding(name, folder, source) as entry:
            return entry

    @contextmanager
    def adding(self, name: str, folder: Path, source: str) -> Generator[StoredAdapter]:
        """`add`, for a body that puts the new version to use: where it raises, the store is as it was before.

        Nobody else adds under the name meanwhile; everybody finds the new version there already.
        """
        check_name(name)
        with self._store.lock(f"adapter-{name.lower()}"), self._store.staging() as out:
            for file in FILES:
                if not (folder / file).is_file():
                    raise CorruptModel(f"{folder} has no {file}.")
                disk.copy(folder / file, out / file)
            records = {record.path: record for record in disk.seal(out, {})}
            sha256 = {file: records[file].sha256 for file in FILES}
            digest = hashlib.sha256("".join(sha256.values()).encode()).hexdigest()[:16]
            record = {
                "format": FORMAT,
                "source": source,
                "created": datetime.now(UTC).isoformat(),
                "size_bytes": sum(records[file].size for file in FILES),
                "sha256": sha256,
            }
            disk.write(out / RECORD_FILE, json.dumps(record, indent=1).encode())
            disk.sync_folder(out)
            target = self.root / name / digest
            target.parent.mkdir(parents=True, exist_ok=True)
            before = _read_record(target)
            if target.exists():  # the same files again: what was damaged is mended, and the newer record counts
                for file in FILES:
                    if not _holds(target / file, sha256[file]):
                        os.replace(out / file, target / file)
                os.replace(out / RECORD_FILE, target / RECORD_FILE)
                disk.sync_folder(target)
            else:
                os.rename(out, target)
            disk.sync_folder(target.parent)
            found = _entry(target)
            if found is None:
                raise StoreError(f"The adapter {name} changed while it was stored.", hint="Add it again.")
            try:
                yield found
            except BaseException:
                self._take_back(target, before)
                raise
            self._drop_old(target.parent)

    def _take_back(self, version: Path, before: bytes | None) -> None:
        """Undo the adding of a version, which had the record `before`, if any."""
        if before is not None:
            draft = version / f".{RECORD_FILE}"
            disk.write(draft, before)
            os.replace(draft, version / RECORD_FILE)
        else:
            (version / RECORD_FILE).unlink()  # unlisted by this
            shutil.rmtree(version, ignore_errors=True)
            with suppress(OSError):  # of another version
                version.parent.rmdir()

    def _drop_old(self, folder: Path) -> None:
        versions = [entry for f in disk.folders(folder) if (entry := _entry(f)) is not None]
        versions.sort(key=lambda entry: entry.created, reverse=True)
        for entry in versions[KEPT_VERSIONS:]:
            shutil.rmtree(entry.path, ignore_errors=True)

    def remove(self, name: str) -> None:
        """Delete an adapter, all its versions: unlisted by one rename, then freed.

        Raises:
            AdapterNotFound: the store has none of that name.
            StoreBusy, StoreError: another process writes this name, or the disk refused.
        """
        if self.find(name) is None:
            raise AdapterNotFound(
                f"The store has no adapter {name[:96]!r}.",
                hint="`openllm adapters ls` lists them.",
                param="adapter_name",
            )
        with self._store.lock(f"adapter-{name.lower()}"), self._store.staging() as trash:
            os.rename(self.root / name, trash / "removed")
            disk.sync_folder(self.root)
        with self._changing_kept() as kept:  # no start looks for it any more
            for names in kept.values():
                names[:] = [other for other in names if other != name]

    # -- what was loaded ----------------------------------------------------------------------------------------------

    def kept(self, model: str) -> list[str]:
        """Names of the adapters that a server of this model had loaded on request, in that order."""
        found: Any = self._read_kept().get(model)
        return [str(name) for name in cast("list[Any]", found)] if isinstance(found, list) else []

    def keep(self, model: str, name: str) -> None:
        """Remember one for the next start."""
        with self._changing_kept() as kept:
            names = kept.setdefault(model, [])
            if name not in names:
                names.append(name)

    def drop(self, model: str, name: str) -> None:
        """Remember one no longer; the others stay, also those that another server of the model loaded."""
        with self._changing_kept() as kept:
            kept[model] = [other for other in kept.get(model, []) if other != name]

    @contextmanager
    def _changing_kept(self) -> Generator[dict[str, list[str]]]:
        """Model -> names, to be changed in place and then written."""
        with self._store.lock("adapters-kept"):
            kept = {model: self.kept(model) for model in self._read_kept()}
            yield kept
            self.root.mkdir(parents=True, exist_ok=True)
            draft = self.root / ".kept.json"
            disk.write(draft, json.dumps(kept, indent=1).encode())
            os.replace(draft, self.root / "kept.json")

    def _read_kept(self) -> dict[str, Any]:
        try:
            data: Any = json.loads((self.root / "kept.json").read_bytes())
        except (OSError, ValueError):
            return {}
        return cast("dict[str, Any]", data) if isinstance(data, dict) else {}


def _holds(path: Path, digest: str) -> bool:
    """Whether a file is there itself, no link, with the content of this hash."""
    return not path.is_symlink() and path.is_file() and sha256_of(path) == digest


def _read_record(version: Path) -> bytes | None:
    """The record of a version that is there and whole."""
    return (version / RECORD_FILE).read_bytes() if _entry(version) is not None else None


def _entry(folder: Path) -> StoredAdapter | None:
    """A version by its folder; None where it is not whole."""
    try:
        data: Any = json.loads((folder / RECORD_FILE).read_bytes())
        if data["format"] != FORMAT or not all((folder / file).is_file() for file in FILES):
            return None
        return StoredAdapter(
            name=folder.parent.name,
            path=folder,
            source=str(data["source"]),
            sha256={str(k): str(v) for k, v in data["sha256"].items()},
            size_bytes=int(data["size_bytes"]),
            created=datetime.fromisoformat(data["created"]),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def split(text: str) -> tuple[str, str | None]:
    """`PATH_OR_ID[:NAME]`, split at the last colon; a folder whose own name has a colon is taken whole.

    Raises:
        InvalidSetting: the name is none.
    """
    source, colon, name = text.rpartition(":")
    if not colon or not source or Path(os.path.expanduser(text)).is_dir():
        return text, None
    return source, check_name(name)
