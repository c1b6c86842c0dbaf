"""Key files for tests: made as `openllm keys` makes them, and the headers that show a key."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from openllm.access.key_file import editing
from openllm.access.keys import Key, digest_of


def text_of(name: str) -> str:
    """The key of a name."""
    return f"openllm-key-of-{name}"


def key_of(name: str, **facts: Any) -> Key:
    """A key whose text is `text_of(name)`."""
    return Key(name=name, sha256=digest_of(text_of(name).encode()).hex(), **facts)


def write(path: Path, *keys: Key) -> Path:
    """A key file with these keys and no others, which differs from the one before."""
    with editing(path) as content:
        for key in content.keys:
            content.remove(key)
        for key in keys:
            content.put(key)
    return path


def bearer(name: str) -> dict[str, str]:
    """Headers of whoever has the key of this name."""
    return {"authorization": f"Bearer {text_of(name)}"}


def spoil(path: Path, text: str) -> None:
    """Put other bytes into a key file, as an editor would."""
    path.write_text(text, encoding="utf-8")
    os.chmod(path, 0o600)
