"""Quantised weights under transformers: what `from_pretrained` is given to make them while loading, or to read stored ones.

Called by `loading`, `tuning` and the maker of GPTQ checkpoints. Which scheme is possible was decided before, by
`backends.quantisation`; here stands only how it is done. Layers that are quantised keep their own forward: they are
neither packed nor compiled.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import torch
import transformers
from torch import Tensor, nn

from openllm_core.options import EngineOptions
from openllm_core.resources import detect

from .. import quantisation
from ..checkpoint import Checkpoint
from ..quantisation import Scheme

INT8_THRESHOLD = 6.0
"""Activations beyond this keep 16 bits (Dettmers et al. 2022, arXiv:2208.07339, section 3)."""
PACKED_ROWS = 32  # of a 4-bit layer, which bitsandbytes packs into one block on CPUs with AVX512_BF16 (0.50)
GPTQMODEL = "gptqmodel."
OWN_TYPES = {
    "TorchAtenLinear": torch.bfloat16,
    "TorchAtenAwqLinear": torch.bfloat16,
    "TorchFusedLinear": torch.bfloat16,
    "TorchFusedAwqLinear": torch.bfloat16,
    "AwqTorchLinear": torch.float16,
}
"""gptqmodel's layers for CPUs that multiply in a type of their own where the model computes in float32 (seen in 7.6.0)."""


def scheme_of(options: EngineOptions, checkpoint: Checkpoint, device: torch.device) -> Scheme | None:
    """The scheme of this load; see `quantisation.scheme_of` for the errors."""
    kind = "cpu" if device.type == "cpu" else "cuda"
    return quantisation.scheme_of("pt", kind, options, checkpoint, detect.machine(probe=tuple))


def arguments(scheme: Scheme, options: EngineOptions, checkpoint: Checkpoint, compute: torch.dtype) -> dict[str, Any]:
    """Further arguments of `from_pretrained`.

    Args:
        compute: type that 4-bit weights are multiplied in.
    """
    cell = quantisation.TABLE.get(scheme.name, {}).get(("pt", "cpu"))
    if cell is not None and "bitsandbytes" in cell.packages:
        # Each of its layers would say at each call that it casts its input to float16.
        logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    if scheme.made:
        return {"quantization_config": bitsandbytes_config(scheme.name, compute)}
    if scheme.stored is None or not scheme.stored.beside:
        return {}  # transformers reads the rest from config.json
    auto: Any = transformers.AutoConfig
    config: Any = auto.from_pretrained(
        str(checkpoint.path), trust_remote_code=options.trust_remote_code, local_files_only=True
    )
    config.quantization_config = {**scheme.stored.config, "quant_method": scheme.name}
    if checkpoint.files and not (checkpoint.path / "model.safetensors").exists() and len(checkpoint.files) == 1:
        config.transformers_weights = checkpoint.files[0].name  # AutoGPTQ: gptq_model-4bit-128g.safetensors
    return {"config": config}


def bitsandbytes_config(scheme: str, compute: torch.dtype) -> Any:
    """int8: LLM.int8(); int4: normal-float values, their scales quantised too (Dettmers et al. 2023, arXiv:2305.14314)."""
    make: Any = transformers.BitsAndBytesConfig
    if scheme == "int8":
        return make(load_in_8bit=True, llm_int8_threshold=INT8_THRESHOLD)
    return make(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=compute
    )


def pack_only_what_fits(module: nn.Module) -> None:
    """Keep bitsandbytes from packing 4-bit layers that it cannot pack.

    On a CPU with bfloat16 instructions (AVX512_BF16) it packs a layer's weights at its first call, whatever their size, and
    raises over one that is not made of whole blocks. Such a layer is left to the way of other CPUs.
    """
    bitsandbytes = sys.modules.get("bitsandbytes")  # whoever loaded such layers has imported it
    layers: list[Any] = [
        layer for layer in module.modules() if bitsandbytes and isinstance(layer, bitsandbytes.nn.Linear4bit)
    ]
    for layer in layers:
        fits = layer.out_features % PACKED_ROWS == 0 and layer.in_features % layer.weight.blocksize == 0
        layer.support_avx512bf16_for_cpu = layer.support_avx512bf16_for_cpu and fits


@contextmanager
def without_rounding(module: nn.Module) -> Generator[None]:
    """Let int8 layers compute with their weights as they are, and their input unrounded, for as long as this holds.

    LLM.int8() rounds what comes in by a scale of each row, and keeps columns apart in which any row of the batch has a large
    value: the same row comes out a little different beside others. Nothing can be compared like that.
    """
    changed: list[nn.Module] = []
    if bitsandbytes := sys.modules.get("bitsandbytes"):  # whoever loaded such layers has imported it
        for layer in module.modules():
            if isinstance(layer, bitsandbytes.nn.Linear8bitLt):
                vars(layer)["forward"] = _exactly(layer)
                changed.append(layer)
    try:
        yield
    finally:
        for layer in changed:
            del vars(layer)["forward"]


def _exactly(layer: Any) -> Any:
    def forward(x: Tensor) -> Tensor:
        held = layer.weight if getattr(layer.weight, "SCB", None) is not None else layer.state
        # [out, in] int8 values times what 127 stands for in each row
        weight = held.CB.to(x.dtype) * (held.SCB.to(x.dtype) / 127).unsqueeze(1)
        return nn.functional.linear(x, weight, layer.bias)

    return forward


def computed_in(module: nn.Module, dtype: torch.dtype) -> torch.dtype:
    """The coarsest type that a model multiplies in: `dtype`, unless layers of gptqmodel round what they are given.

    Args:
        dtype: of the computation around the layers.
    """
    layers = (type(layer) for layer in module.modules())
    types = {
        OWN_TYPES[kind.__name__]
        for kind in layers
        if kind.__module__.startswith(GPTQMODEL) and kind.__name__ in OWN_TYPES
    }
    return max((dtype, *types), key=lambda one: torch.finfo(one).eps)
