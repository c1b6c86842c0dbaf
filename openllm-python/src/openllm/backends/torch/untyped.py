"""Typed doors to what torch and transformers leave untyped. Used all over this package; decides nothing.

`Tensor.tolist`, the layers of a transformers cache, `from_pretrained` and the attention registries have no usable types of
their own; each gets one small function here, so that the rest of the package is checked strictly.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import safetensors.torch
import transformers
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface, masking_utils
from transformers.cache_utils import Cache
from transformers.integrations import sdpa_attention

MakeMask = Callable[..., Tensor | None]
Attend = Callable[..., tuple[Tensor, Tensor | None]]

sdpa_forward = cast(Attend, sdpa_attention.sdpa_attention_forward)
additive_mask = cast(MakeMask, masking_utils.eager_mask)
boolean_mask = cast(MakeMask, masking_utils.sdpa_mask)


def to_ints(values: Tensor) -> list[int]:
    """[n] integers -> list."""
    return cast("list[int]", cast(Any, values).tolist())


def to_floats(values: Tensor) -> list[float]:
    """[n] floats -> list."""
    return cast("list[float]", cast(Any, values).tolist())


def to_int_rows(values: Tensor) -> list[list[int]]:
    """[n, m] integers -> list of lists."""
    return cast("list[list[int]]", cast(Any, values).tolist())


def to_float_rows(values: Tensor) -> list[list[float]]:
    """[n, m] floats -> list of lists."""
    return cast("list[list[float]]", cast(Any, values).tolist())


def keys_and_values(cache: Cache) -> list[tuple[Tensor, Tensor]]:
    """Per layer: keys and values, [batch, num_kv_heads, seq_len, head_dim] each."""
    layers = cast("list[Any]", cache.layers)
    return [(layer.keys, layer.values) for layer in layers]


def holds_only_keys_and_values(cache: Cache) -> bool:
    """Whether every layer is plain keys and values of the whole sequence, filled."""
    layers = cast("list[Any]", cache.layers)
    return bool(layers) and all(type(layer).__name__ == "DynamicLayer" and layer.keys is not None for layer in layers)


def load_tensors(file: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, on the CPU."""
    return cast("dict[str, Tensor]", cast(Any, safetensors.torch).load_file(file))


def register_attention(name: str, attend: Attend, make_mask: MakeMask) -> None:
    """Add an attention implementation and its mask to transformers' registries."""
    cast(Any, AttentionInterface).register(name, attend)
    cast(Any, AttentionMaskInterface).register(name, make_mask)


def from_pretrained(auto: Any, path: str, **arguments: Any) -> tuple[Any, dict[str, Any]]:
    """`auto.from_pretrained` with `output_loading_info`: (model in eval mode, what was missing or odd)."""
    module, info = auto.from_pretrained(path, output_loading_info=True, **arguments)
    module.eval()
    module.requires_grad_(False)
    return module, info


def read_tokenizer(folder: Path, *, trust_remote_code: bool) -> Any:
    """The model's tokenizer as transformers has it, from the folder alone; raises what transformers raises."""
    file = folder / "tokenizer.json"
    if file.is_file():  # as the server reads it; classes of transformers change some of it
        return cast(Any, transformers.PreTrainedTokenizerFast)(tokenizer_file=str(file))
    auto = cast(Any, transformers.AutoTokenizer)
    return auto.from_pretrained(str(folder), local_files_only=True, trust_remote_code=trust_remote_code)
