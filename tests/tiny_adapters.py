"""LoRA adapters made on the spot, in the form PEFT saves: ones that force a token, and random ones. No peft, no torch imported.

`forcing_adapter(checkpoint, token, folder)` makes the model say one token for ever, whatever the prompt; so an answer tells
which adapter gave it. `blank_adapter` writes sound files for tests without torch. Used wherever adapters are tested.
"""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any


def adapter_config(rank: int, targets: list[str], base: str = "tiny", **changes: Any) -> dict[str, Any]:
    """adapter_config.json as PEFT writes it, as far as anybody reads it."""
    return {
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "r": rank, "lora_alpha": rank, "lora_dropout": 0.0, "bias": "none",
        "target_modules": targets, "base_model_name_or_path": base, "inference_mode": True, "use_rslora": False,
        "use_dora": False, "modules_to_save": None, "fan_in_fan_out": False, "rank_pattern": {}, "alpha_pattern": {},
    } | changes  # fmt: skip


def blank_adapter(
    folder: Path, *, layer: str = "model.layers.0.self_attn.q_proj", size: int = 32, rank: int = 4, **config: Any
) -> Path:
    """An adapter of one layer, all zeros: sound files of a few kilobytes."""
    folder.mkdir(parents=True, exist_ok=True)
    stem = f"base_model.model.{layer}"
    write_safetensors(
        folder / "adapter_model.safetensors",
        {f"{stem}.lora_A.weight": [rank, size], f"{stem}.lora_B.weight": [size, rank]},
    )
    made = adapter_config(rank, [layer.rpartition(".")[2]], **config)
    (folder / "adapter_config.json").write_text(json.dumps(made))
    return folder


def write_safetensors(file: Path, shapes: dict[str, list[int]]) -> None:
    """Tensors of float32 zeros, by name and shape."""
    header: dict[str, Any] = {}
    end = 0
    for name, shape in shapes.items():
        size = 4
        for length in shape:
            size *= length
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text + bytes(end))


def forcing_adapter(checkpoint: Path, token: int, folder: Path, *, rank: int = 8, strength: float = 30.0) -> Path:
    """An adapter for a Llama-shaped checkpoint after which the most likely token is always `token`.

    Of the last layer's feed-forward block: gate and up get pairs of opposite rows, so that silu(a) * a + silu(-a) * -a = a^2
    is never negative; down turns their sum into the direction in which that token's logit is the highest.
    """
    import torch
    from safetensors.torch import load_file, save_file

    weights = {
        name: tensor.float() for file in checkpoint.glob("*.safetensors") for name, tensor in load_file(file).items()
    }
    head = weights.get("lm_head.weight", weights["model.embed_tokens.weight"])
    norm = weights["model.norm.weight"]
    last = max(int(name.split(".")[2]) for name in weights if name.startswith("model.layers."))
    inner, hidden = weights[f"model.layers.{last}.mlp.up_proj.weight"].shape
    spread = head.T @ head
    wanted = torch.linalg.solve(spread + 1e-3 * spread.trace() / hidden * torch.eye(hidden), head[token])
    assert int((head @ wanted).argmax()) == token
    direction = wanted / norm
    generator = torch.Generator().manual_seed(token)
    rows = torch.randn(rank // 2, hidden, generator=generator) / hidden**0.5
    pairs = torch.cat([rows, -rows])
    units = torch.zeros(inner, rank)
    units[torch.arange(rank), torch.arange(rank)] = strength
    gather, out = torch.zeros(rank, inner), torch.zeros(hidden, rank)
    gather[0, :rank] = 1.0
    out[:, 0] = strength * direction / direction.norm()
    stem = f"base_model.model.model.layers.{last}.mlp"
    tensors = {
        f"{stem}.gate_proj.lora_A.weight": pairs, f"{stem}.gate_proj.lora_B.weight": units,
        f"{stem}.up_proj.lora_A.weight": pairs.clone(), f"{stem}.up_proj.lora_B.weight": units.clone(),
        f"{stem}.down_proj.lora_A.weight": gather, f"{stem}.down_proj.lora_B.weight": out,
    }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "adapter_model.safetensors")
    config = adapter_config(rank, ["gate_proj", "up_proj", "down_proj"], base=checkpoint.name)
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder
