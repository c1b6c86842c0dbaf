"""Compile the feed-forward blocks of a model with `torch.compile`, and measure on a block of its sizes whether that pays.

Only these blocks: all layers share one compiled function, so it is built in seconds. Whole steps must be built layer by
layer, which takes minutes at each start. Called by `tuning` and `loading`; knows nothing of requests.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from openllm_core.errors import InvalidSetting

from .linears import PackedLinear
from .measure import DTYPES, Clock, Shape, compare

ROWS = (1, 2, 8, 32)  # sizes a compiled block is called with before it serves; the last two show it that rows vary


class CannotCompile(Exception):
    """torch.compile does not work here; the text is its own first line."""


def blocks(module: nn.Module) -> list[nn.Module]:
    """The feed-forward blocks: modules of two or more linear layers, an activation, and nothing else."""
    return [found for found in module.modules() if _is_block(found)]


def _is_block(module: nn.Module) -> bool:
    children = list(module.children())
    if "Attention" in type(module).__name__:
        return False
    linears = sum(isinstance(child, nn.Linear) for child in children)
    return linears >= 2 and not any(list(child.parameters()) for child in children if not isinstance(child, nn.Linear))


def compile_blocks(module: nn.Module) -> int:
    """Compile every feed-forward block in place and run one, so that no request waits for the compiler.

    Returns:
        Blocks compiled.

    Raises:
        CannotCompile: no compiler, or one that cannot compile this; the blocks are as they were.
    """
    found = blocks(module)
    for block in found:
        cast(Any, block).compile(dynamic=True)
    for block in found[:1]:
        weight = next(child.weight for child in block.children() if isinstance(child, nn.Linear))
        shapes = [(rows, columns, weight.shape[1]) for columns in (1, 8) for rows in ROWS]
        try:
            _warm(block, [torch.ones(shape, dtype=weight.dtype, device=weight.device) for shape in shapes])
        except CannotCompile:
            for each in found:
                cast(Any, each)._compiled_call_impl = None  # as before `compile`, so that the model still runs
            raise
    return len(found)


@torch.inference_mode()
def _warm(block: Callable[[Tensor], Tensor], inputs: Sequence[Tensor]) -> None:
    from torch._inductor import config as inductor  # with half of the compiler: only where it is used

    inductor.compile_threads = 1  # its pool of workers would outlive the compilation
    try:
        for x in inputs:
            block(x)
    except (RuntimeError, OSError, ImportError) as error:
        text = str(error).strip()
        raise CannotCompile(text.splitlines()[0][:200] if text else type(error).__name__) from error


class _FeedForward(nn.Module):
    """A gated feed-forward block of given sizes (Shazeer 2020), all weights one."""

    def __init__(self, shape: Shape, dtype: torch.dtype, kind: str) -> None:
        super().__init__()
        self.gate = _linear(shape.inner, shape.hidden, dtype, kind)
        self.up = _linear(shape.inner, shape.hidden, dtype, kind)
        self.down = _linear(shape.hidden, shape.inner, dtype, kind)

    def forward(self, x: Tensor) -> Tensor:
        """[..., hidden] -> [..., hidden]."""
        return self.down(nn.functional.silu(self.gate(x)) * self.up(x))


def _linear(rows: int, columns: int, dtype: torch.dtype, kind: str) -> nn.Module:
    weight = torch.ones(rows, columns, dtype=torch.float32 if kind == "packed16" else dtype)
    if kind != "plain":
        return PackedLinear(weight, None, kind)
    layer = nn.Linear(columns, rows, bias=False, dtype=dtype)
    layer.weight = nn.Parameter(weight, requires_grad=False)
    return layer


def seconds(shape: Shape, dtype: str, kind: str, clock: Clock) -> dict[str, float]:
    """Seconds of a feed-forward block: with the linear layers chosen, and compiled, which needs plain ones.

    Returns:
        By "kind of linear layer" and "compiled".

    Raises:
        CannotCompile: see `compile_blocks`.
    """
    kept = max(2, min(8, 64_000_000 // (12 * shape.hidden * shape.inner)))
    eager = [_FeedForward(shape, DTYPES[dtype], kind) for _ in range(kept)]
    compiled = [_FeedForward(shape, DTYPES[dtype], "plain") for _ in range(kept)]
    inputs = [torch.ones(rows, 1, shape.hidden, dtype=DTYPES[dtype]) for rows in (1, 32)]
    for block in compiled:
        cast(Any, block).compile(dynamic=True)
    _warm(compiled[0], inputs)

    def through(layers: list[_FeedForward], x: Tensor) -> Callable[[], None]:
        def once() -> None:
            for layer in layers:
                layer(x)

        return once

    return compare(
        {kind: [through(eager, x) for x in inputs], "compiled": [through(compiled, x) for x in inputs]}, clock
    )


def refused(reason: CannotCompile) -> InvalidSetting:
    """The error for `--compile on` where it cannot be done."""
    return InvalidSetting(
        f"--compile on: torch.compile does not work here: {reason}",
        hint="It needs a C++ compiler (apt install g++); or leave --compile at auto.",
        param="--compile",
    )
