"""LoRA adapters of one layer, all zeros: `python make_adapters.py NAME...`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

RANK, SIZE = 4, 32
LAYER = "base_model.model.model.layers.0.self_attn.q_proj"

for name in sys.argv[1:]:
    folder = Path(name)
    folder.mkdir(exist_ok=True)
    weights = {
        f"{LAYER}.lora_A.weight": np.zeros((RANK, SIZE), np.float32),
        f"{LAYER}.lora_B.weight": np.zeros((SIZE, RANK), np.float32),
    }
    save_file(weights, folder / "adapter_model.safetensors")
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": RANK,
        "lora_alpha": RANK,
        "target_modules": ["q_proj"],
    }
    (folder / "adapter_config.json").write_text(json.dumps(config))
