"""The file of `--api-key-file`: one key a line, as JSON, digests only. Read whole and strictly; written by one rename.

`Access` reads it at the start and when it changes; `openllm keys` edits it. Lines that are empty or begin with # stay as they are.
"""

from __future__ import annotations

import fcntl
import os
import stat
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import attrs

from openllm_core.errors import InvalidRequest, InvalidSetting, UnsafeConfiguration
from openllm_core.serde import dumps, loads, structure, unstructure

from .keys import ADMIN, NAME, UNNAMED, Key

FLAG = "--api-key-file"
MAX_KEYS = 1000  # each request is compared with all of them
MAX_BYTES = 4 * 1024 * 1024
MODE = 0o600


@attrs.define
class KeyFile:
    """What stands in a key file: its lines, some of which are keys."""

    lines: list[str | Key] = attrs.Factory(list[str | Key])

    @property
    def keys(self) -> list[Key]:
        """In the file's order."""
        return [line for line in self.lines if isinstance(line, Key)]

    def find(self, name: str) -> Key | None:
        """The key of a name."""
        return next((key for key in self.keys if key.name == name), None)

    def put(self, key: Key) -> None:
        """Add a key, or put it in the place of the one of its name."""
        known = self.find(key.name)
        if known is None:
            self.lines.append(key)
        else:
            self.lines[self.lines.index(known)] = key

    def remove(self, key: Key) -> None:
        """Take a key out."""
        self.lines.remove(key)


def signature(path: Path) -> tuple[int, ...] | None:
    """Changes whenever the file's content or its mode may have; None where there is none."""
    try:
        facts = path.stat()
    except OSError:
        return None
    return facts.st_mtime_ns, facts.st_ctime_ns, facts.st_ino, facts.st_size, facts.st_mode


def read(path: Path) -> KeyFile:
    """Read a key file.

    Raises:
        InvalidSetting: it cannot be read, or a line is no key; names line and cause.
        UnsafeConfiguration: somebody besides its owner may read or write it.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        hint = f"`openllm keys add NAME {FLAG} {path}` makes it." if isinstance(error, FileNotFoundError) else None
        raise InvalidSetting(f"The key file {path}: {error.strerror}.", hint=hint, param=FLAG) from None
    try:
        _check_kind(os.fstat(fd), path)
        with open(fd, "rb", closefd=False) as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise InvalidSetting(f"The key file {path}: {error.strerror}.", param=FLAG) from None
    finally:
        os.close(fd)
    return parse(data, path)


def _check_kind(facts: os.stat_result, path: Path) -> None:
    if not stat.S_ISREG(facts.st_mode):
        raise InvalidSetting(f"The key file {path} is not an ordinary file.", param=FLAG)
    if facts.st_mode & 0o077:
        raise UnsafeConfiguration(
            f"The key file {path} may be read or written by others than its owner (mode {facts.st_mode & 0o777:04o}).",
            hint=f"chmod 600 {path}",
            param=FLAG,
        )


def parse(data: bytes, path: Path) -> KeyFile:
    """The same of bytes."""
    if len(data) > MAX_BYTES:
        raise InvalidSetting(f"The key file {path} has more than {MAX_BYTES} bytes.", param=FLAG)
    found, lines = KeyFile(), dict[str, int]()
    digests: dict[bytes, int] = {}
    for number, raw in enumerate(data.splitlines(), start=1):
        try:
            text = raw.decode("utf-8")
            if not text.strip() or text.lstrip().startswith("#"):
                found.lines.append(text)
                continue
            key = _key(text)
            if (first := lines.setdefault(key.name, number)) != number:
                raise ValueError(f"the name {key.name} stands in line {first} already")
            for digest, _ in key.digests():
                if (first := digests.setdefault(digest, number)) != number:
                    raise ValueError(f"this key stands in line {first} already, under another name")
        except (ValueError, InvalidRequest) as error:
            raise InvalidSetting(f"The key file {path}, line {number}: {_why(error)}.", param=FLAG) from None
        found.lines.append(key)
    if len(found.keys) > MAX_KEYS:
        raise InvalidSetting(f"The key file {path} has {len(found.keys)} keys, and may have {MAX_KEYS}.", param=FLAG)
    return found


def check_name(name: str) -> None:
    """Refuse a name that no key may have.

    Raises:
        ValueError: says why.
    """
    if not NAME.fullmatch(name):
        raise ValueError(f"{name[:64]!r} is no name: letters, digits, dots, dashes, underscores, 64 at most")
    if name == ADMIN or name.startswith(UNNAMED):
        raise ValueError(f"{name} is taken: {ADMIN} is OPENLLM_ADMIN_KEY, {UNNAMED}1 the first of OPENLLM_API_KEY")


@contextmanager
def editing(path: Path) -> Generator[KeyFile]:
    """A key file to change: what is in it, written back whole when the block ends well. One editor at a time.

    The new file takes the old one's place by one rename, so whoever reads it sees one of the two. A file that is not there yet
    is made. Lines that nobody changed stay, byte for byte.

    Raises:
        ConfigError: as `read`.
        OSError: the folder cannot be written, the disk is full; the old file is as it was.
    """
    target = Path(os.path.realpath(path))  # a link stays one
    folder = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        content = read(target) if target.exists() else KeyFile()
        yield content
        data = "".join(f"{line if isinstance(line, str) else written(line)}\n" for line in content.lines).encode()
        parse(data, path)
        _replace(target, data)
        os.fsync(folder)
    finally:
        os.close(folder)


def _replace(target: Path, data: bytes) -> None:
    fd, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    draft = Path(name)
    try:
        with open(fd, "wb") as file:
            os.fchmod(file.fileno(), MODE)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, target)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise


def written(key: Key) -> str:
    """A key's line; what it does not say is left out."""
    told = {name: value for name, value in unstructure(key, omit_none=True).items() if (name, value) != _USUAL}
    return dumps(told).decode()


_USUAL = ("priority", "interactive")


def _key(text: str) -> Key:
    key = structure(loads(text), Key)
    check_name(key.name)
    return key


def _why(error: ValueError | InvalidRequest) -> str:
    if isinstance(error, UnicodeDecodeError):
        return "not UTF-8"
    text = error.message if isinstance(error, InvalidRequest) else str(error)
    return text.removesuffix(".")
