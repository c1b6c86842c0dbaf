"""Where models live: `$BENTOML_HOME/models/<name>/<version>/`, plain files that BentoML can list and we can trust.

Called by `lookup.py` and `importing.py`. A model is built in a staging folder on the same disk, every file fsynced and
hashed, and published by one rename; one lock per name keeps processes apart. What is not whole is never listed.
Knows nothing of networks, weight formats or families, and never imports bentoml (its import costs seconds).
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import time
import uuid
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

import attrs

from openllm_core.errors import CorruptModel, ModelNotFound, StoreBusy, StoreError
from openllm_core.options import StoreOptions

from . import disk
from . import manifest as manifests
from .manifest import FileRecord, Manifest
from .tags import TAG, without_backend

Progress = Callable[[str, int, int | None], None]
"""progress(text, done_bytes, total_bytes or None when unknown); may be called from another thread."""

_POLL_S = 0.05


@attrs.frozen(kw_only=True)
class StoreEntry:
    """One whole model of the store. `path` is its folder; sizes are bytes; `created` is aware, UTC."""

    tag: str
    path: Path
    size_bytes: int
    model_id: str
    family: str | None
    created: datetime
    architecture: str | None = None
    manifest: Manifest = attrs.field(repr=False, eq=False)


# -- the store ----------------------------------------------------------------------------------------------------


class Store:
    """The folder of models. Cheap to make: touches nothing until asked."""

    def __init__(self, options: StoreOptions) -> None:
        self.options = options
        self.home = Path(os.path.abspath(os.path.expanduser(options.home)))
        self.models = self.home / "models"

    # reading

    def entries(self) -> list[StoreEntry]:
        """Every whole model, by name, newest first within one name."""
        found = [
            e for name in disk.folders(self.models) for v in disk.folders(name) if (e := self._entry(v)) is not None
        ]
        found.sort(key=lambda e: e.created, reverse=True)
        found.sort(key=lambda e: e.tag.partition(":")[0])
        return found

    def _entry(self, folder: Path) -> StoreEntry | None:
        try:
            manifest = manifests.read(folder)
        except CorruptModel:
            return None
        if manifest.tag != f"{folder.parent.name}:{folder.name}" or not manifests.is_whole(folder, manifest):
            return None
        return StoreEntry(
            tag=manifest.tag,
            path=folder,
            size_bytes=manifest.size_bytes,
            model_id=manifest.model_id,
            family=manifest.family,
            created=manifest.created,
            architecture=manifest.architecture,
            manifest=manifest,
        )

    def find(self, text: str) -> StoreEntry | None:
        """The entry of a tag: `name`, `name:latest` or `name:version`, the backend prefix given or not."""
        name, _, version = text.lower().partition(":")
        if not TAG.fullmatch(name) or (version and not TAG.fullmatch(version)):
            return None
        same = [e for e in self.entries() if e.tag.partition(":")[0] == name]
        same = same or [e for e in self.entries() if without_backend(e.tag.partition(":")[0]) == without_backend(name)]
        if version and version != "latest":
            return next((e for e in same if e.tag.partition(":")[2] == version), None)
        return max(same, key=lambda e: e.created, default=None)

    def find_id(
        self, model_id: str, revision: str = "", quantize: str | None = None, *, quantised: bool = False
    ) -> StoreEntry | None:
        """The newest entry made from a hub id; a revision matches what was asked for or the commit (or its start).

        An id without a revision means `main`, as the hub has it: an entry of another branch or tag counts only where the
        store has none of `main`, or where `fast` takes whatever is newest.

        An id means the weights as they were published: an entry that was imported to be loaded quantised has a tag of its
        own, and counts here only for who asks for the same `quantize`.

        Args:
            quantised: look at entries of any quantisation instead.
        """
        same = [e for e in self.entries() if e.manifest.origin != "folder" and e.model_id.lower() == model_id.lower()]
        same = [e for e in same if (e.manifest.quantize != "" if quantised else e.manifest.quantize in ("", quantize))]
        if revision:
            same = [e for e in same if _is_revision(e.manifest, revision)]
        elif not self.options.fast:
            same = [e for e in same if e.manifest.requested_revision in ("", "main")] or same
        return max(same, key=lambda e: e.created, default=None)

    def get(self, text: str) -> StoreEntry:
        """`find` and `find_id`, or ModelNotFound."""
        model_id, _, revision = text.partition(":")
        entry = self.find(text) or self.find_id(model_id, revision)
        if entry is None:
            raise ModelNotFound(f"The store {self.models} has no {text!r}.", hint="`openllm models` lists what it has.")
        return entry

    def check(self, entry: StoreEntry, *, hashes: bool = False) -> None:
        """Compare an entry with its manifest.

        Raises:
            CorruptModel: naming the first difference.
        """
        wrong = manifests.problems(entry.path, entry.manifest, hashes=hashes)
        if wrong:
            raise CorruptModel(
                f"{entry.tag}: {wrong[0]}" + (f", and {len(wrong) - 1} more." if wrong[1:] else "."),
                hint=f"openllm prune {entry.tag}, then import the model again.",
            )

    # writing

    @contextmanager
    def lock(self, name: str, progress: Progress | None = None) -> Generator[None]:
        """Hold the one lock of a model's name, across processes and threads; freed by the kernel when its holder dies.

        Names that differ in their backend alone have one lock: look-ups take one for the other.

        Raises:
            StoreBusy: not free within `lock_timeout` seconds.
            StoreError: the body, which writes under the lock, was refused by the disk.
        """
        folder = self._writable(self.home / ".locks")
        fd = -1
        try:
            # The file is never removed: a waiter may hold it open, and a new one would be another lock.
            fd = os.open(folder / f"{without_backend(name)}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            self._wait_for(fd, name, progress)
            os.ftruncate(fd, 0)
            os.pwrite(fd, str(os.getpid()).encode(), 0)
            yield
        except OSError as error:
            raise disk.failed(f"{name} could not be stored", error) from None
        finally:
            if fd >= 0:
                os.close(fd)

    def _wait_for(self, fd: int, name: str, progress: Progress | None) -> None:
        deadline = time.monotonic() + self.options.lock_timeout
        told = False
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                pid = os.pread(fd, 20, 0).decode("ascii", "replace") or "unknown"
            if time.monotonic() >= deadline:
                raise StoreBusy(
                    f"Process {pid} holds the lock of {name} for more than {self.options.lock_timeout:g} s.",
                    hint="Wait for it, or set OPENLLM_LOCK_TIMEOUT to more seconds.",
                    retry_after_s=self.options.lock_timeout,
                )
            if progress is not None and not told:
                progress(f"waiting for process {pid}, which imports {name}", 0, None)
                told = True
            time.sleep(_POLL_S)

    @contextmanager
    def staging(self, key: str | None = None) -> Generator[Path]:
        """A private folder on the store's disk, removed on exit unless published.

        Args:
            key: names a folder that survives a failure for at most a week, so that a download can go on where it
                stopped; the caller holds the lock that belongs to it.
        """
        root = self._writable(self._staging_root())
        folder = root / (f"{disk.KEPT}{uuid.uuid5(uuid.NAMESPACE_URL, key)}" if key else str(uuid.uuid4()))
        with disk.locked(root):
            disk.clean(root)
            folder.mkdir(exist_ok=key is not None)
            # The lock lies on the folder itself: whoever can take it knows that its maker is gone.
            fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        done = False
        try:
            yield folder
            done = True
        finally:
            if (done or key is None) and folder.exists():
                shutil.rmtree(folder, ignore_errors=True)
            os.close(fd)

    def _staging_root(self) -> Path:
        # Not under models/: BentoML takes every folder there for a model name and its `models list` fails on a
        # leading dot. Only where models/ is a disk of its own must the staging folder be on that disk.
        models = self._writable(self.models)
        same_disk = models.stat().st_dev == self.home.stat().st_dev
        return (self.home if same_disk else models) / ".staging"

    def _writable(self, folder: Path) -> Path:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise disk.failed(f"{folder} cannot be made", error) from None
        return folder

    def need_space(self, need_bytes: int, what: str) -> None:
        """Refuse before the work when the disk lacks room.

        Raises:
            StoreError: naming need and have in bytes.
        """
        have = shutil.disk_usage(self._writable(self.models)).free
        if have < need_bytes:
            raise StoreError(
                f"{what} needs {need_bytes:,} bytes and the disk of {self.models} has {have:,}.",
                hint="Free the space, or set BENTOML_HOME to a folder on another disk.",
            )

    def publish(self, folder: Path, manifest: Manifest, known: Mapping[str, FileRecord] | None = None) -> StoreEntry:
        """Make a staged folder a model: hash and fsync its files, write manifest and model.yaml, rename once.

        The caller holds the lock of the name. After a crash at any point the store lists what it listed before, or
        the new model whole.

        Args:
            known: records of files that were hashed when they were written.

        Raises:
            CorruptModel: the folder holds a link or something that is no plain file.
            OSError: the disk refused; the staged folder stays unpublished, and `lock` turns this into a StoreError.
        """
        manifest = attrs.evolve(manifest, files=tuple(disk.seal(folder, known or {})))
        disk.write(folder / manifests.MANIFEST_FILE, manifest.to_json())
        disk.write(folder / manifests.MODEL_FILE, manifests.model_yaml(manifest))
        disk.sync_folder(folder)
        return self._move_in(folder, manifest)

    def _move_in(self, folder: Path, manifest: Manifest) -> StoreEntry:
        name, _, version = manifest.tag.partition(":")
        target = self.models / name / version
        whole = self._entry(target)
        if whole is not None:
            return whole
        self.place(folder, target)
        entry = self._entry(target)
        if entry is None:
            raise CorruptModel(f"{manifest.tag} changed while it was published.", hint="Import the model again.")
        return entry

    def place(self, folder: Path, target: Path) -> None:
        """Make a staged folder the version `target` of its name, by one rename; what stood there is deleted after it.

        The caller holds the lock of the name, and has fsynced what is in the folder.
        """
        parent = self._writable(target.parent)
        disk.sync_folder(parent.parent)
        disk.put(folder, target)
        disk.sync_folder(parent)
        _point_latest(parent, target.name)

    def settled(self, entry: StoreEntry) -> StoreEntry:
        """The entry itself; what a crash between its publication and the file `latest` left undone is done first."""
        name = entry.tag.partition(":")[0]
        newest = self.find(name)
        latest = self.models / name / "latest"
        version = newest.path.name if newest is not None else entry.path.name
        try:
            if latest.exists() and latest.read_text() == version:
                return entry
            with self.lock(name):
                _point_latest(latest.parent, version)
        except (OSError, StoreError):
            return entry  # a read-only store: only BentoML's `name:latest` misses it
        return entry

    def remove(self, folder: Path) -> None:
        """Delete one version of a model: unlisted by one rename, then freed. Who has its files open keeps them.

        Args:
            folder: `models/<name>/<version>`, whole or not, or a Bento of the same home.

        Raises:
            StoreBusy, StoreError: the lock is held, or the disk refused.
        """
        name = folder.parent
        with self.lock(name.name), self.staging() as trash:
            os.rename(folder, trash / "removed")
            self._settle_latest(name)
            disk.sync_folder(name.parent)

    def tidy(self) -> None:
        """Mend what a removal that was cut off leaves for BentoML: an empty name, or a `latest` that is gone."""
        for name in disk.folders(self.models):
            latest = name / "latest"
            try:
                gone = latest.exists() and not (name / latest.read_text().strip()).is_dir()
            except (OSError, ValueError):
                continue
            if gone or not disk.folders(name):
                with self.lock(name.name):
                    self._settle_latest(name)

    def _settle_latest(self, name: Path) -> None:
        """After a removal: `latest` names the newest version left, or the empty name goes."""
        left = sorted(disk.folders(name), key=lambda p: p.stat().st_mtime_ns)
        whole = [e for e in self.entries() if e.path.parent == name]
        if not left:
            (name / "latest").unlink(missing_ok=True)
            (name / ".latest").unlink(missing_ok=True)
            with suppress(OSError):  # somebody keeps a file of his own there
                name.rmdir()
            return
        newest = max(whole, key=lambda e: e.created).path.name if whole else left[-1].name
        _point_latest(name, newest)


def _point_latest(folder: Path, version: str) -> None:
    """Write BentoML's file with the version that `name:latest` means; the folder's lock is held."""
    draft = folder / ".latest"
    disk.write(draft, version.encode())
    os.replace(draft, folder / "latest")
    disk.sync_folder(folder)


def _is_revision(manifest: Manifest, revision: str) -> bool:
    if revision == manifest.requested_revision:
        return True
    is_commit = len(revision) >= 7 and re.fullmatch(r"[0-9a-f]+", revision) is not None
    return manifest.revision == revision or (is_commit and manifest.revision.startswith(revision))
