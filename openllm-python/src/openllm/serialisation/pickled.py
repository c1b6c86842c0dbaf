"""Weights stored as pickle, turned into safetensors with the same names and numbers.

Called by the child process `convert.py` alone, which has no network by then. torch's restricted unpickler builds tensors
and runs nothing else: a file that asks for more is refused.
"""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, cast

from openllm_core.errors import CorruptModel, UnsafeConfiguration

from . import formats

_MAIN = "pytorch_model"
_ASKED = re.compile(r"GLOBAL ([\w.]+)")


def convert(source: Path, out: Path) -> None:
    """Write `model*.safetensors`, and their index where there are several, for the pickle weights of a folder.

    Raises:
        CorruptModel: a file is truncated, or holds something else than named tensors.
        UnsafeConfiguration: a file wants code to be run.
    """
    files = formats.inspect(source).weights
    files = [f for f in files if f.name.startswith(_MAIN)] or list(files)
    torch, safetensors = import_module("torch"), import_module("safetensors.torch")
    homes: dict[str, str] = {}
    size = 0
    for name, file in zip(_names(files), files, strict=True):
        tensors = _apart(_tensors(torch, file))
        twice = next((t for t in tensors if t in homes), None)
        if twice is not None:
            raise CorruptModel(f"{twice} is both in {file.name} and in another file.")
        safetensors.save_file(tensors, str(out / name), metadata={"format": "pt"})
        homes.update(dict.fromkeys(tensors, name))
        size += sum(t.numel() * t.element_size() for t in tensors.values())
    if len(files) > 1:
        index = {"metadata": {"total_size": size}, "weight_map": dict(sorted(homes.items()))}
        (out / formats.INDEX_FILE).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _names(files: Sequence[Path]) -> list[str]:
    if len(files) == 1:
        return ["model.safetensors"]
    return [f"model-{n:05}-of-{len(files):05}.safetensors" for n in range(1, len(files) + 1)]


def _tensors(torch: Any, file: Path) -> dict[str, Any]:
    try:
        mapped = zipfile.is_zipfile(file)  # the format since torch 1.6; older files cannot be mapped
        found: Any = torch.load(str(file), map_location="cpu", weights_only=True, mmap=mapped)
    except Exception as error:  # the unpickler's errors are as many as the ways to break a file
        text = " ".join(str(error).split())
        asked = _ASKED.search(text)
        if asked is not None:
            raise UnsafeConfiguration(
                f"{file.name} is more than weights: reading it would call {asked[1]}.",
                hint="Do not use this file; get the model as safetensors.",
            ) from None
        raise CorruptModel(f"{file.name} cannot be read: {type(error).__name__} {text[:200]}") from None
    if not isinstance(found, dict):
        raise CorruptModel(f"{file.name} holds a {type(found).__name__} instead of named tensors.")
    tensors = cast("dict[str, Any]", found)
    tensors = cast("dict[str, Any]", inner) if isinstance(inner := tensors.get("state_dict"), dict) else tensors
    other = next((key for key, value in tensors.items() if not isinstance(value, torch.Tensor)), None)
    if other is not None:
        raise CorruptModel(f"{file.name}: {other!r} is no tensor.")
    return tensors


def _apart(tensors: dict[str, Any]) -> dict[str, Any]:
    """Each tensor in memory of its own: safetensors keeps no sharing."""
    seen: set[int] = set()
    alone: dict[str, Any] = {}
    for name, tensor in tensors.items():
        own = tensor.detach().contiguous()
        memory = own.untyped_storage().data_ptr()
        alone[name] = own.clone() if memory in seen else own
        seen.add(memory)
    return alone
