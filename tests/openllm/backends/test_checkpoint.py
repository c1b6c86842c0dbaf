"""Weights whose type cannot be right are refused before anything is loaded; what explains them lets them pass."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest

from openllm.backends import checkpoint
from openllm_core.errors import CorruptModel

BYTES = {"F64": 8, "BF16": 2, "I8": 1, "U8": 1, "BOOL": 1}


def folder(path: Path, tensors: dict[str, str], **config: Any) -> Path:
    """A model folder whose tensors have four elements of these types."""
    header: dict[str, Any] = {}
    end = 0
    for name, dtype in tensors.items():
        start, end = end, end + 4 * BYTES[dtype]
        header[name] = {"dtype": dtype, "shape": [4], "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    (path / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + bytes(end))
    (path / "config.json").write_text(json.dumps({"architectures": ["LlamaForCausalLM"], **config}))
    return path


@pytest.mark.parametrize("dtype", ["I8", "U8", "BOOL"])
def test_weights_of_whole_numbers_are_refused(tmp_path: Path, dtype: str) -> None:
    """They would be computed with as they stand: the tensor and its type are named, and the exit code is 65."""
    made = folder(tmp_path, {"model.norm.weight": "BF16", "model.layers.0.mlp.up_proj.weight": dtype})
    with pytest.raises(CorruptModel) as refused:
        checkpoint.read(made)
    assert "model.layers.0.mlp.up_proj.weight" in refused.value.message and dtype in refused.value.message
    assert refused.value.exit_code == 65


@pytest.mark.parametrize(
    ("tensors", "config"),
    [
        ({"a.weight": "I8"}, {"quantization_config": {"quant_method": "bitsandbytes"}}),
        ({"a.weight": "U8"}, {"quantization_bit": 4}),
        ({"a.weight": "BF16", "a.attn.bias": "BOOL", "a.attn.masked": "U8"}, {}),
        ({"a.weight": "F64"}, {}),
    ],
)
def test_whole_numbers_that_are_explained_pass(tmp_path: Path, tensors: dict[str, str], config: dict[str, Any]) -> None:
    """Quantised weights that say so, masks kept beside the weights; numbers of 64 bits are narrowed."""
    assert checkpoint.read(folder(tmp_path, tensors, **config)).num_parameters == 4 * len(tensors)


def test_a_stored_model_goes_by_its_tag(tmp_path: Path) -> None:
    """Its folder is named after its version, which alone says nothing; any other folder goes by its own name."""
    stored = tmp_path / "pt-tiny" / "0.1"
    stored.mkdir(parents=True)
    assert checkpoint.read(folder(stored, {"a.weight": "F64"})).name == "0.1"
    (stored / "manifest.json").write_text("{}")
    assert checkpoint.read(stored).name == "pt-tiny:0.1"
