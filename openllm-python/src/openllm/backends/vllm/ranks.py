"""How many devices share each layer: as many as there are, as far as the model's attention heads can be dealt out evenly.

`plan` decides by it and `launch` counts memory by it, so that both mean the same ranks. Must not import vllm or torch.
"""

from __future__ import annotations

from openllm_core.errors import InvalidSetting
from openllm_core.options import EngineOptions
from openllm_core.resources import detect

from ..checkpoint import Checkpoint

FLAG = "--tensor-parallel-size"


def possible(checkpoint: Checkpoint, devices: int) -> list[int]:
    """Numbers of ranks, ascending, that vLLM takes for this model on so many devices.

    Attention heads are dealt out evenly; heads of keys and values too, or each of them is copied to as many ranks as share it
    (`verify_with_parallel_config` and `QKVParallelLinear` of vLLM 0.32). A model that names no heads is left to vLLM.
    """
    heads, kv_heads = checkpoint.attention_heads, checkpoint.kv_heads or 1
    return [
        ranks
        for ranks in range(1, devices + 1)
        if heads % ranks == 0 and (kv_heads % ranks == 0 or ranks % kv_heads == 0)
    ]


def on_gpus(options: EngineOptions, checkpoint: Checkpoint, gpus: int) -> int:
    """GPUs that share each layer: as many as were asked for, else the most that the heads allow.

    Raises:
        InvalidSetting: more are asked for than there are, or a number that the heads cannot be dealt out to.
    """
    _refuse_impossible(options, checkpoint, gpus, "GPU")
    return options.tensor_parallel_size or possible(checkpoint, gpus)[-1]


def on_cpu(options: EngineOptions, checkpoint: Checkpoint, machine: detect.Machine) -> int:
    """NUMA nodes that share each layer: as many as were asked for, else one. Errors as `on_gpus`."""
    _refuse_impossible(options, checkpoint, max(1, len(machine.numa_nodes)), "NUMA node")
    return options.tensor_parallel_size or 1


def _refuse_impossible(options: EngineOptions, checkpoint: Checkpoint, devices: int, what: str) -> None:
    asked = options.tensor_parallel_size
    if asked is None:
        return
    if asked > devices:
        raise InvalidSetting(
            f"{FLAG} {asked}: this engine has {devices} {what}(s).",
            hint=f"{FLAG} {possible(checkpoint, devices)[-1]}",
            param=FLAG,
        )
    able = possible(checkpoint, asked)
    if able[-1] != asked:
        raise InvalidSetting(
            f"{FLAG} {asked}: {heads_of(checkpoint)} cannot be dealt out evenly to {asked} {what}s.",
            hint=f"{FLAG} {able[-1]}",
            param=FLAG,
        )


def heads_of(checkpoint: Checkpoint) -> str:
    """The model's heads in words."""
    heads, kv_heads = checkpoint.attention_heads, checkpoint.kv_heads
    of_kv = f" ({kv_heads} of keys and values)" if kv_heads != heads else ""
    return f"the {heads} attention heads of {checkpoint.name}{of_kv}"
