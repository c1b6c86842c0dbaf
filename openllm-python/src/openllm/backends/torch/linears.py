"""Layers made faster for the CPU: linear layers packed once, narrow weights behind a float32 computation, whole norms.

`loading` replaces a model's linear layers with one of these kinds; `tuning` measures which is fastest here:

    plain    `torch.nn.Linear` as transformers made it
    packed16 weights kept as packed float16, widened on the fly, computed in float32 (FBGEMM): half the memory to read
    onednn   weights in oneDNN's blocked layout, in the type they are computed in

Knows nothing of requests or of particular models.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

FLOAT16_MAX = 65504.0


class PackedLinear(nn.Module):
    """y = x W^T + b over packed weights.

    Args:
        weight: [out_features, in_features]; not kept.
        bias: [out_features] or None.
        kind: `packed16` or `onednn`.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, kind: str) -> None:
        super().__init__()
        self.out_features, self.in_features = weight.shape
        self.kind = kind
        self._run = _pack(weight, bias, kind)
        self._dtype = weight.dtype if kind == "onednn" else torch.float32

    @property
    def weight(self) -> Tensor:
        """Shape and type of the weight without its memory, for model code that asks for them."""
        return torch.zeros((), dtype=self._dtype).expand(self.out_features, self.in_features)

    def forward(self, x: Tensor) -> Tensor:
        """[..., in_features] -> [..., out_features]."""
        return self._run(x)

    def extra_repr(self) -> str:
        """Shown when the model is printed."""
        return f"in_features={self.in_features}, out_features={self.out_features}, kind={self.kind}"


def _pack(weight: Tensor, bias: Tensor | None, kind: str) -> Callable[[Tensor], Tensor]:
    ops: Any = torch.ops
    if kind == "packed16":
        packed = ops.quantized.linear_prepack_fp16(weight.float(), None if bias is None else bias.float())
        run16 = ops.quantized.linear_dynamic_fp16
        return lambda x: run16(x, packed)
    blocked = ops.mkldnn._reorder_linear_weight(weight.contiguous(), 64)
    run = ops.mkldnn._linear_pointwise
    own_bias = None if bias is None else bias.clone()
    return lambda x: run(x, blocked, own_bias, "none", [], "")


def available(kind: str, dtype: torch.dtype) -> bool:
    """Whether this build of torch runs `kind` for weights stored as `dtype` without losing anything that matters.

    packed16 is exact for float16; for bfloat16 it is exact down to 2^-14 and within 2^-25 below.
    """
    if kind == "plain":
        return True
    if kind == "packed16" and dtype not in (torch.bfloat16, torch.float16):
        return False
    try:
        probe = torch.ones(8, 8, dtype=torch.float32 if kind == "packed16" else dtype)
        with torch.inference_mode():
            result = PackedLinear(probe, None, kind)(probe)
    except (RuntimeError, AttributeError):
        return False
    return bool((result == 8).all())


def can_pack(weight: Tensor, kind: str) -> bool:
    """Whether the values of one weight survive packing: float16 cannot hold every bfloat16."""
    return kind != "packed16" or bool(weight.abs().max() < FLOAT16_MAX)


def pack_linears(model: nn.Module, kind: str, *, dtype: torch.dtype) -> tuple[int, int]:
    """Replace the linear layers of `model` in place, freeing each weight as it goes.

    Args:
        kind: one of `launch.LINEARS`; `plain` changes nothing.
        dtype: the type of the computation, for what `onednn` keeps.

    Returns:
        (layers packed, layers left as they were).
    """
    if kind == "plain":
        return 0, 0

    def pack(place: tuple[nn.Module, str, nn.Module]) -> bool:
        parent, name, child = place
        weight = _weight_of(child)
        assert weight is not None
        if not can_pack(weight, kind):
            return False
        wide = weight.detach() if kind == "packed16" else weight.detach().to(dtype)
        bias: Tensor | None = getattr(child, "bias", None)
        setattr(parent, name, PackedLinear(wide, bias if bias is None else bias.detach().to(wide.dtype), kind))
        return True

    places = [
        (parent, name, child)
        for parent in list(model.modules())
        for name, child in parent.named_children()
        if _weight_of(child) is not None
    ]
    with ThreadPoolExecutor(max_workers=torch.get_num_threads()) as pool:  # packing itself uses one thread
        packed = sum(pool.map(pack, places))
    return packed, len(places) - packed


def _weight_of(layer: nn.Module) -> Tensor | None:
    """[out, in] weight of a layer that is exactly a linear map; None for anything else."""
    if type(layer) is nn.Linear:
        return layer.weight
    if type(layer) is Conv1D:  # GPT-2 stores [in, out]
        return layer.weight.t()
    return None


def widen_rest(model: nn.Module) -> None:
    """Bring what is not packed to float32: norms and small tables at once, large token tables row by row at look-up."""
    kept: set[int] = set()
    for module in model.modules():
        if type(module) is nn.Embedding and module.weight.dtype != torch.float32 and module.weight.numel() > 1 << 22:
            kept.add(id(module.weight))
            module.register_forward_hook(_to_float32)
    for parameter in model.parameters():
        if parameter.is_floating_point() and id(parameter) not in kept:
            parameter.data = parameter.data.float()
    for buffer in model.buffers():
        if buffer.dtype in (torch.bfloat16, torch.float16):
            buffer.data = buffer.data.float()


def _to_float32(module: nn.Module, args: Any, output: Tensor) -> Tensor:
    return output.float()


class FusedRMSNorm(nn.Module):
    """x / sqrt(mean(x^2) + eps) * weight in one call (Zhang & Sennrich 2019).

    Args:
        weight: [hidden].
    """

    def __init__(self, weight: nn.Parameter, eps: float) -> None:
        super().__init__()
        self.weight = weight
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """[..., hidden] -> [..., hidden]."""
        return nn.functional.rms_norm(x, self.weight.shape, self.weight, self.eps)


@torch.inference_mode()
def fuse_norms(model: nn.Module) -> int:
    """Replace the root-mean-square norms of a float32 model, written out in six steps each by transformers, by one call.

    A norm counts as one when it gives the same numbers, so that variants (Gemma scales by 1 + weight) are left alone.

    Returns:
        How many were replaced.
    """
    replaced = 0
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            weight = getattr(child, "weight", None)
            eps = getattr(child, "variance_epsilon", getattr(child, "eps", None))
            if not type(child).__name__.endswith("RMSNorm") or not isinstance(weight, nn.Parameter):
                continue
            if not isinstance(eps, float) or weight.dim() != 1 or weight.dtype != torch.float32:
                continue
            fused = FusedRMSNorm(weight, eps)
            probe = torch.linspace(-2.0, 3.0, 2 * weight.numel()).view(2, -1)
            if torch.allclose(child(probe), fused(probe), rtol=1e-5, atol=1e-6):
                setattr(parent, name, fused)
                replaced += 1
    return replaced
