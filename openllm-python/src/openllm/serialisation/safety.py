"""What a model folder carries that could run code, found before anything of it is loaded.

Called by `lookup.py` and `importing.py` on folders, and on the small files of a hub model before its weights are fetched.
Neither the model's own files nor a request can vote for trust: only the operator's command line can.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

from openllm_core.errors import UnsafeConfiguration
from openllm_core.families.own_code import is_replaced

_JSON_LIMIT = 16 * 1024 * 1024
_SKIPPED = ("tokenizer.json", "vocab.json")  # vocabularies: data of the tokenizers library, never configuration
_PARTS = "[0-9]*_*/config.json"  # of a sentence encoder's steps, as in 1_Pooling
_CODE_SUFFIXES = (".py", ".pyc", ".pyd", ".so", ".dll", ".dylib")
_CODE_KEYS = ("auto_map", "_attn_implementation_internal", "_experts_implementation_internal", "custom_generate")
_FALSE = (None, False, "", 0)


def check_code(folder: Path, *, trust_remote_code: bool, name: str | None = None) -> None:
    """Refuse a folder that carries or names code, unless trusted.

    Args:
        name: what to call the model in the message; default: the folder's name.

    Raises:
        UnsafeConfiguration: naming what was found and the flag that allows it.
    """
    if trust_remote_code:
        return
    found = next(findings(folder), None)
    if found is not None:
        raise UnsafeConfiguration(
            f"{name or folder.name} wants to run Python code of its own: {found}.",
            hint="Read that code; if you trust it, type --trust-remote-code.",
            param="--trust-remote-code",
        )


def findings(folder: Path) -> Iterator[str]:
    """What could run code, one phrase each; not what lies there unused because transformers has its own classes for it."""
    replaced = is_replaced(_config(folder))
    for path in sorted(folder.iterdir()):
        if path.suffix == ".py" and replaced:
            continue
        if path.suffix.lower() in _CODE_SUFFIXES and path.is_file():
            yield f"the file {path.name}"
        elif path.is_dir() and path.name in ("custom_generate", "__pycache__"):
            yield f"the folder {path.name}"
    for path in sorted(folder.glob("*/*")):
        if path.suffix.lower() in _CODE_SUFFIXES and path.is_file():
            yield f"the file {path.relative_to(folder)}"
    for path in sorted([*folder.glob("*.json"), *folder.glob(_PARTS)]):
        if path.name not in _SKIPPED and not path.name.endswith(".index.json") and path.is_file():
            name = path.relative_to(folder).as_posix()
            yield from _in_file(path, name, replaced and name == "config.json")


def _config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    try:
        data: Any = json.loads(path.read_bytes()) if path.stat().st_size <= _JSON_LIMIT else {}
    except (OSError, ValueError, RecursionError):
        return {}
    return cast("dict[str, Any]", data) if isinstance(data, dict) else {}


def _in_file(path: Path, name: str, replaced: bool) -> Iterator[str]:
    try:
        if path.stat().st_size > _JSON_LIMIT:
            yield f"{name} is too large to be looked through"
            return
        data: Any = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return  # not readable as JSON: refused by whoever needs the file, and no code can hide in it
    if replaced:
        data = {key: value for key, value in cast("dict[str, Any]", data).items() if key != "auto_map"}
    waiting: list[Any] = [data]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            for key, inner in cast("dict[str, Any]", value).items():
                if (reason := _reason(key, inner)) is not None:
                    yield f"{reason} in {name}"
                waiting.append(inner)
        elif isinstance(value, list):
            waiting.extend(cast("list[Any]", value))


def _reason(key: str, value: Any) -> str | None:
    if key in _CODE_KEYS and value not in ({}, []) and value not in _FALSE:
        return f'"{key}"'
    if key == "trust_remote_code" and value not in _FALSE:
        return '"trust_remote_code"'
    # An attention or kernel "implementation" with a slash is fetched from the hub and imported.
    if key.endswith("_implementation") and isinstance(value, str) and "/" in value:
        return f'"{key}": "{value[:60]}"'
    # `repo--module.Class` is how transformers names code of another repository.
    if isinstance(value, str) and "--" in value and "/" in value.partition("--")[0] and "." in value.partition("--")[2]:
        return f'"{key}": "{value[:60]}"' if " " not in value and "\n" not in value else None
    return None
