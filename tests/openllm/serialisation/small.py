"""Models of a few hundred bytes, made by hand: enough for everything that reads files and runs no model."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

from openllm_core.options import StoreOptions

CONFIG = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 4}
TOKENIZER = {"version": "1.0", "model": {"type": "BPE", "vocab": {"a": 0, "b": 1}, "merges": []}}


def safetensors(count: int = 4) -> bytes:
    """A whole safetensors file with one float32 tensor `w` of `count` numbers."""
    header = json.dumps({"w": {"dtype": "F32", "shape": [count], "data_offsets": [0, 4 * count]}}).encode()
    return struct.pack("<Q", len(header)) + header + struct.pack(f"<{count}f", *range(count))


def model_folder(path: Path, *, config: dict[str, Any] | None = CONFIG, weights: bool = True) -> Path:
    """A folder that looks like a model's to everything but torch."""
    path.mkdir(parents=True, exist_ok=True)
    if config is not None:
        (path / "config.json").write_text(json.dumps(config))
    if weights:
        (path / "model.safetensors").write_bytes(safetensors())
    (path / "tokenizer.json").write_text(json.dumps(TOKENIZER))
    (path / "tokenizer_config.json").write_text("{}")
    return path


def options(home: Path, **facts: Any) -> StoreOptions:
    """Store options for a test's own home."""
    return StoreOptions(home=str(home), **({"lock_timeout": 20.0} | facts))


def convert_pickle(folder: Path, out: Path, progress: object = None) -> None:
    """Stands for the child that needs torch: the files beside the weights are there already."""
    assert (out / "config.json").is_file() and not list(out.glob("*.bin"))
    (out / "model.safetensors").write_bytes(safetensors())
