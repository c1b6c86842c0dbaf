"""Reads the metadata of a GGUF file, fast and suspicious of every number in it.

Called by `convert.py`. The `gguf` package builds an array per token and takes seconds for a vocabulary; this reads the
same in a tenth of one. Format: github.com/ggml-org/ggml/blob/master/docs/gguf.md, versions 2 and 3, little-endian.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs

from openllm_core.errors import CorruptModel

_MAGIC = b"GGUF"
_SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
_STRING, _ARRAY = 8, 9
_DEFAULT_ALIGNMENT = 32
_COUNT_LIMIT = 1 << 24  # entries of the header or of one array; the largest vocabulary has 2**18
_NAME_LIMIT = 1 << 16
_BLOCK_BYTES = 1 << 20


@attrs.frozen
class Entry:
    """One key of the metadata: where its bytes lie in the file, and its value."""

    start: int
    end: int
    value: Any


@attrs.frozen(kw_only=True)
class Header:
    """What stands before the tensors' data.

    Attributes:
        tensors: span of the tensors' descriptions, copied as it is when a file is rewritten.
        data_start: offset of the first tensor's data.
    """

    version: int
    tensor_count: int
    entries: dict[str, Entry]
    tensors: tuple[int, int]
    data_start: int

    def get(self, key: str, default: Any = None) -> Any:
        """Value of a key."""
        entry = self.entries.get(key)
        return default if entry is None else entry.value


class _Cursor:
    def __init__(self, view: mmap.mmap) -> None:
        self.view = view
        self.at = 0

    def take(self, count: int) -> bytes:
        if count < 0 or self.at + count > len(self.view):
            raise ValueError(f"{count} bytes are promised at {self.at}, past the end")
        found = self.view[self.at : self.at + count]
        self.at += count
        return found

    def scalar(self, form: str) -> Any:
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]

    def count(self) -> int:
        found: int = self.scalar("<Q")
        if found > _COUNT_LIMIT:
            raise ValueError(f"a count of {found} at {self.at - 8}")
        return found

    def text(self, limit: int = 1 << 26) -> str:
        length: int = self.scalar("<Q")
        if length > limit:
            raise ValueError(f"a text of {length} bytes at {self.at - 8}")
        return self.take(length).decode("utf-8", "replace")

    def value(self, kind: int, depth: int = 0) -> Any:
        if kind == _STRING:
            return self.text()
        if kind == _ARRAY:
            return self._array(depth)
        if kind not in _SCALARS:
            raise ValueError(f"a value of unknown type {kind} at {self.at}")
        return self.scalar(_SCALARS[kind])

    def _array(self, depth: int) -> list[Any]:
        kind: int = self.scalar("<I")
        count = self.count()
        if kind in _SCALARS:
            form = _SCALARS[kind]
            return list(struct.unpack(f"<{count}{form[1]}", self.take(count * struct.calcsize(form))))
        if depth > 3:
            raise ValueError("arrays nested too deep")
        return [self.value(kind, depth + 1) for _ in range(count)]


def read_header(path: Path) -> Header:
    """Read everything before the tensors' data.

    Raises:
        CorruptModel: not a GGUF file of version 2 or 3, truncated, or with impossible counts.
    """
    try:
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view:
            return _read(_Cursor(view))
    except (ValueError, struct.error, MemoryError) as error:
        raise CorruptModel(f"{path.name} is no readable GGUF file: {error}.", hint="Fetch the file again.") from None


def _read(cursor: _Cursor) -> Header:
    if cursor.take(4) != _MAGIC:
        raise ValueError("it does not begin with GGUF")
    version: int = cursor.scalar("<I")
    if version not in (2, 3):
        raise ValueError(f"its version is {version}")
    tensor_count, entry_count = cursor.count(), cursor.count()
    entries: dict[str, Entry] = {}
    for _ in range(entry_count):
        start = cursor.at
        key = cursor.text(_NAME_LIMIT)
        value = cursor.value(cursor.scalar("<I"))
        entries[key] = Entry(start, cursor.at, value)
    first = cursor.at
    for _ in range(tensor_count):
        cursor.text(_NAME_LIMIT)
        dimensions: int = cursor.scalar("<I")
        if dimensions > 8:
            raise ValueError(f"a tensor of {dimensions} dimensions")
        cursor.take(8 * dimensions + 4 + 8)
    alignment = entries["general.alignment"].value if "general.alignment" in entries else _DEFAULT_ALIGNMENT
    if not isinstance(alignment, int) or not 0 < alignment <= _BLOCK_BYTES:
        raise ValueError(f"an alignment of {alignment!r}")
    data_start = _aligned(cursor.at, alignment)
    return Header(
        version=version,
        tensor_count=tensor_count,
        entries=entries,
        tensors=(first, cursor.at),
        data_start=data_start,
    )


def _aligned(offset: int, alignment: int) -> int:
    return -(-offset // alignment) * alignment


def copy_without(source: Path, header: Header, drop: Callable[[str], bool], target: Path) -> None:
    """Copy a file without some keys of its metadata; tensors and their data stay as they are.

    Args:
        drop: whether a key is left out.
    """
    kept = [entry for key, entry in header.entries.items() if not drop(key)]
    alignment = header.get("general.alignment", _DEFAULT_ALIGNMENT)
    with open(source, "rb") as old, open(target, "wb") as new:
        new.write(_MAGIC + struct.pack("<IQQ", header.version, header.tensor_count, len(kept)))
        for start, end in [(entry.start, entry.end) for entry in kept] + [header.tensors]:
            old.seek(start)
            new.write(old.read(end - start))
        new.write(bytes(_aligned(new.tell(), alignment) - new.tell()))
        old.seek(header.data_start)
        while block := old.read(_BLOCK_BYTES):
            new.write(block)
