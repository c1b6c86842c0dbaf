"""Writes a model in AWQ's format, as AutoAWQ's "gemm" version lays it out: for tests of what reads it.

The weights are rounded to the nearest value, without the scaling by activations that AWQ proper does first: whoever reads
the file cannot tell. Layout: https://github.com/casper-hansen/AutoAWQ, awq/modules/linear/gemm.py.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

ORDER = (0, 2, 4, 6, 1, 3, 5, 7)  # columns of eight, from the lowest four bits of an int32 up
TOP = 15


def write_awq(source: Path, folder: Path, group_size: int) -> None:
    """Copy a Llama of plain safetensors with the layers of its blocks in 4 bits.

    Args:
        group_size: rows that share a scale and a zero point; divides the inputs of every layer.
    """
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns("manifest.json", "model.yaml", "*.safetensors"))
    tensors: dict[str, Tensor] = {}
    for name, tensor in load_file(source / "model.safetensors").items():
        if name.endswith("_proj.weight"):
            for part, value in _layer(tensor, group_size).items():
                tensors[name.removesuffix("weight") + part] = value
        else:
            tensors[name] = tensor
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {
        "quant_method": "awq",
        "bits": 4,
        "group_size": group_size,
        "zero_point": True,
        "version": "gemm",
    }
    (folder / "config.json").write_text(json.dumps(config))


def _layer(weight: Tensor, group_size: int) -> dict[str, Tensor]:
    """The parts of a layer of [out, in] weights: qweight [in, out / 8], qzeros [groups, out / 8], scales [groups, out]."""
    groups = weight.float().T.reshape(-1, group_size, weight.shape[0])  # [groups, group_size, out]
    low, high = groups.amin(1, keepdim=True).clamp(max=0), groups.amax(1, keepdim=True).clamp(min=0)
    scales = ((high - low) / TOP).clamp(min=1e-5).half().float()
    zeros = (-low / scales).round().clamp(0, TOP)
    values = (groups / scales + zeros).round().clamp(0, TOP)
    return {
        "qweight": _packed(values.reshape(-1, weight.shape[0])),
        "qzeros": _packed(zeros.squeeze(1)),
        "scales": scales.squeeze(1).half().contiguous(),
    }


def _packed(values: Tensor) -> Tensor:
    """[rows, columns] values of four bits as [rows, columns / 8] int32."""
    eights = values.long().reshape(values.shape[0], -1, 8)
    packed = sum(eights[:, :, column] << (4 * place) for place, column in enumerate(ORDER))
    assert isinstance(packed, Tensor)
    return packed.to(torch.int32).contiguous()
