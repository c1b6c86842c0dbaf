"""Names and versions of stored models, in the form BentoML accepts.

Called by `store.py` and `importing.py`. Pure text, but for a folder's modification time.
"""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path

TAG_LENGTH = 63
TAG = re.compile(r"[a-z0-9]([-._a-z0-9]*[a-z0-9])?")
BACKEND_PREFIXES = ("pt", "vllm", "ggml", "echo")


def normalise(text: str) -> str:
    """A name or version that BentoML accepts: lower case, `/` -> `--`, `_` -> `-`, at most 63 characters.

    What had to be cut keeps apart by eight digits of the whole text's SHA-1.
    """
    name = re.sub(r"[^-.a-z0-9]", "-", text.lower().replace("/", "--").replace("_", "-")).strip("-.")
    if not name:
        return "model-" + _sha1(text)[:8]
    if len(name) > TAG_LENGTH:
        name = name[: TAG_LENGTH - 9].strip("-.") + "-" + _sha1(text)[:8]
    return name


def tag_name(backend: str, model: str | Path) -> str:
    """`<backend>-<normalised name>`: the basename for a folder, the id otherwise."""
    text = model.resolve().name if isinstance(model, Path) else model
    return normalise(f"{backend}-{text}")


def folder_version(folder: Path) -> str:
    """Version of an imported folder: SHA-1 of its modification time, as 0.3.5 made it."""
    return _sha1(str(os.path.getmtime(folder)))


def folder_tag(folder: Path, *, backend: str = "pt", in_bento: bool = False) -> str:
    """Tag of a folder that is served where it is: that of its import, or in a Bento the end of its path, `name/version`."""
    if in_bento:
        return f"{normalise(folder.parent.name)}:{normalise(folder.name)}"
    return f"{tag_name(backend, folder)}:{folder_version(folder)}"


def _sha1(text: str) -> str:
    return hashlib.sha1(os.fsencode(text), usedforsecurity=False).hexdigest()


def without_backend(name: str) -> str:
    """The name without its backend prefix; look-ups ignore it."""
    head, _, rest = name.partition("-")
    return rest if head in BACKEND_PREFIXES and rest else name
