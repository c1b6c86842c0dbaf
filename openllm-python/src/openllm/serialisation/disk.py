"""Files that outlive a crash: copied and hashed in one pass, fsynced, moved by one rename, cleaned up when nobody owns them.

Called by `store.py`, `importing.py` and `archive.py`. Knows nothing of tags, formats or where models come from.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import hashlib
import os
import shutil
import stat
import time
import uuid
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from openllm_core.errors import CorruptModel, StoreError

from .manifest import MANIFEST_FILE, MODEL_FILE, FileRecord, sha256_of

_BLOCK_BYTES = 1 << 20
_RESUMABLE_S = 7 * 24 * 3600
AT_FDCWD, RENAME_EXCHANGE = -100, 2  # of <fcntl.h> and <linux/fs.h>
KEPT = "keep-"
"""How staging folders begin that a later attempt may go on with."""


def failed(what: str, error: OSError) -> StoreError:
    """The error for a disk that refused."""
    if error.errno == errno.EROFS or isinstance(error, PermissionError):
        return StoreError(f"{what}: {error.strerror or error}.", hint="Mend the permissions, or set BENTOML_HOME.")
    return StoreError(f"{what}: {error.strerror or error}.", hint="Free space, then run it again.")


def write(path: Path, content: bytes) -> None:
    """Write and fsync: without it a full disk may show only at the close, where the error is lost."""
    with open(path, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def write_all(fd: int, block: memoryview) -> None:
    """Write a whole block: the kernel may take less than it was given when the disk is nearly full."""
    while block:
        block = block[os.write(fd, block) :]


def copy(source: Path, target: Path) -> FileRecord:
    """Copy a file's content, links followed, and hash it on the way; what was hashed is what was written.

    Returns:
        the copy's record, its path being the bare name.
    """
    digest = hashlib.sha256()
    block = memoryview(bytearray(_BLOCK_BYTES))
    fd = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    try:
        with open(source, "rb", buffering=0) as file:
            while count := file.readinto(block):
                digest.update(block[:count])
                write_all(fd, block[:count])
        facts = os.fstat(fd)
    finally:
        os.close(fd)
    return FileRecord(target.name, facts.st_size, digest.hexdigest(), facts.st_mtime_ns)


def seal(folder: Path, known: Mapping[str, FileRecord]) -> Iterator[FileRecord]:
    """Hash and fsync every file below, refuse links, fsync the folders below.

    Args:
        known: records by path; a file that still has its record's size and time is not hashed again.
    """
    for root, folders_here, files in os.walk(folder, followlinks=False):
        folders_here.sort()
        for name in sorted(folders_here + files):
            path = Path(root) / name
            mode = path.lstat().st_mode
            relative = path.relative_to(folder).as_posix()
            if stat.S_ISDIR(mode):
                continue
            if not stat.S_ISREG(mode):
                raise CorruptModel(f"{relative} is a link or a special file; a stored model holds plain files only.")
            if relative not in (MANIFEST_FILE, MODEL_FILE):
                yield _sealed(path, relative, known.get(relative))
        if Path(root) != folder:
            sync_folder(Path(root))


def _sealed(path: Path, relative: str, record: FileRecord | None) -> FileRecord:
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        os.fchmod(fd, 0o644)
        facts = os.fstat(fd)
        if record is None or (record.size, record.mtime_ns) != (facts.st_size, facts.st_mtime_ns):
            record = FileRecord(relative, facts.st_size, sha256_of(path), facts.st_mtime_ns)
        os.fsync(fd)
    finally:
        os.close(fd)
    return record


def sync_folder(folder: Path) -> None:
    """fsync a folder, so that names made, moved or removed in it stay so."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def put(folder: Path, target: Path) -> None:
    """Rename a folder to `target`; what stands there stays until the new one is in, and is deleted then.

    Raises:
        OSError: the disk refused; what stood at `target` stands there still.
    """
    if not os.path.lexists(target):
        os.rename(folder, target)
    elif _exchange(folder, target):
        shutil.rmtree(folder, ignore_errors=True)
    else:
        # Two steps, where the disk knows no better: a crash between them loses the old one, an error does not.
        aside = folder.with_name(str(uuid.uuid4()))
        os.rename(target, aside)
        try:
            os.rename(folder, target)
        except OSError:
            os.rename(aside, target)
            raise
        shutil.rmtree(aside, ignore_errors=True)


def _exchange(one: Path, other: Path) -> bool:
    """Let two paths of one disk change places in one step (Linux's renameat2); whether that could be done."""
    renameat2 = getattr(ctypes.CDLL(None), "renameat2", None)  # not every C library has it
    if renameat2 is None:
        return False
    return renameat2(AT_FDCWD, os.fsencode(one), AT_FDCWD, os.fsencode(other), RENAME_EXCHANGE) == 0


def folders(root: Path) -> list[Path]:
    """Folders in a folder, by name, hidden ones left out; none where it cannot be read."""
    try:
        return sorted(p for p in root.iterdir() if not p.name.startswith(".") and p.is_dir())
    except OSError:
        return []


@contextmanager
def locked(root: Path) -> Generator[None]:
    """A short lock around making and cleaning staging folders, so that a new one is never taken for a leftover."""
    fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def clean(root: Path) -> None:
    """Remove what dead processes left; the root is locked."""
    for path in root.iterdir():
        if path.is_symlink() or not path.is_dir():
            path.unlink(missing_ok=True)
            continue
        if path.name.startswith(KEPT) and time.time() - path.stat().st_mtime < _RESUMABLE_S:
            continue
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(path, ignore_errors=True)
        except BlockingIOError:
            continue  # its maker lives
        finally:
            os.close(fd)
