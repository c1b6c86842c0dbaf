"""Machines and model folders made up for tests of what is decided before vLLM is imported."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from openllm_core.resources.detect import Gpu, Machine
from openllm_core.resources.numa import NumaNode

GIB = 1 << 30


def cpu_machine(free_gib: float = 16, cores: int = 2, nodes: int = 1) -> Machine:
    """A machine without a GPU; each node has its share of the cores and `free_gib`."""
    share = cores // nodes
    return Machine(
        cores=cores,
        physical_cores=cores,
        memory_total_bytes=nodes * 2 * int(free_gib * GIB),
        memory_available_bytes=nodes * int(free_gib * GIB),
        numa_nodes=tuple(
            NumaNode(
                index=node,
                cores=tuple(range(node * share, (node + 1) * share)),
                memory_total_bytes=2 * int(free_gib * GIB),
                memory_free_bytes=int(free_gib * GIB),
            )
            for node in range(nodes)
        ),
    )


def gpu_machine(*free_gib: float, total_gib: float = 80) -> Machine:
    """A machine with one GPU for each number."""
    gpus = tuple(
        Gpu(
            index=index,
            uuid=f"GPU-{index}",
            name="Test GPU",
            memory_total_bytes=int(total_gib * GIB),
            memory_free_bytes=int(free * GIB),
        )
        for index, free in enumerate(free_gib)
    )
    return Machine(cores=8, physical_cores=8, memory_total_bytes=GIB, memory_available_bytes=GIB, gpus=gpus)


def model_folder(folder: Path, *, weights_bytes: int = 2 * GIB, rows: int = 0, **config: Any) -> Path:
    """A folder whose config and safetensors header say what a model is; its weights are a hole in a sparse file.

    Args:
        rows: of the one matrix that the weights are; 0 = they are no matrix, so no linear layer.
    """
    facts = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": 1024,
        "num_hidden_layers": 16,
        "num_attention_heads": 16,
        "num_key_value_heads": 4,
        "max_position_embeddings": 8192,
        **config,
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(facts))
    shape = [rows, weights_bytes // 2 // rows] if rows else [weights_bytes // 2]
    tensor = {"dtype": "BF16", "shape": shape, "data_offsets": [0, weights_bytes]}
    header = json.dumps({"w": tensor}).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + weights_bytes)
    return folder
