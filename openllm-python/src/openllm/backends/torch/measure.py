"""Short measurements of matrix products and attention in a model's own sizes, on matrices of ones.

Called by `tuning` at the first start with a model; nothing here needs the model itself. Every figure is the shortest of
several runs, since whatever else the machine does only ever adds.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import attrs
import torch
from torch import Tensor

from . import attention
from .checkpoint import Checkpoint
from .linears import PackedLinear
from .untyped import sdpa_forward

BUDGET_S = 0.8  # per candidate
BATCHES = (1, 32)  # rows a step is measured with
SPAN = 256  # columns attention is measured with
WORKING_SET_BYTES = 96_000_000  # weights a measurement goes through, so that none stays in a cache
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@attrs.frozen(kw_only=True)
class Shape:
    """The sizes that decide what is fast."""

    hidden: int
    inner: int
    heads: int
    kv_heads: int
    head_dim: int

    @classmethod
    def of(cls, checkpoint: Checkpoint) -> Shape:
        """Read the sizes from config.json, whatever they are called there."""
        config = checkpoint.text_config

        def first(*names: str) -> int | None:
            found = [config[name] for name in names if isinstance(config.get(name), int) and config[name] > 0]
            return found[0] if found else None

        hidden = first("hidden_size", "n_embd", "d_model") or 1024
        heads = first("num_attention_heads", "n_head", "n_heads", "num_heads") or 16
        return cls(
            hidden=hidden,
            inner=first("intermediate_size", "ffn_dim", "n_inner", "d_ff", "decoder_ffn_dim") or 4 * hidden,
            heads=heads,
            kv_heads=first("num_key_value_heads", "num_kv_heads") or heads,
            head_dim=first("head_dim", "d_kv") or max(1, hidden // heads),
        )


def linear_seconds(shape: Shape, dtype: str, kind: str) -> float:
    """Seconds of one layer's matrix products, geometric mean over `BATCHES`."""
    torch_dtype = DTYPES[dtype]
    sizes = [(shape.hidden, shape.hidden), (shape.inner, shape.hidden), (shape.hidden, shape.inner)]
    copies = max(2, min(24, WORKING_SET_BYTES // (4 * sum(a * b for a, b in sizes))))
    layers: list[list[Callable[[Tensor], Tensor]]] = []
    for _ in range(copies):
        weights = [torch.ones(size, dtype=torch.float32 if kind == "packed16" else torch_dtype) for size in sizes]
        layers.append([_plain(w) if kind == "plain" else PackedLinear(w, None, kind) for w in weights])
    found: list[float] = []
    with torch.inference_mode():
        for rows in BATCHES:
            narrow = torch.ones(rows, shape.hidden, dtype=torch_dtype)
            wide = torch.ones(rows, shape.inner, dtype=torch_dtype)

            def once(narrow: Tensor = narrow, wide: Tensor = wide) -> None:
                for square, up, down in layers:
                    square(narrow)
                    up(narrow)
                    down(wide)

            found.append(fastest(once, BUDGET_S / len(BATCHES)) / copies)
    return statistics.geometric_mean(found)


def _plain(weight: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda x: torch.nn.functional.linear(x, weight)


class _Heads(torch.nn.Module):
    """What stock attention asks of the layer it runs for."""

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.num_key_value_groups: Any = groups


def attention_seconds(shape: Shape, name: str, dtype: str) -> float:
    """Seconds of one layer's attention over a window in a decode step, geometric mean over `BATCHES`.

    Args:
        name: grouped or sdpa.
    """
    attend: Callable[..., Any] = attention.grouped_attention if name == "grouped" else sdpa_forward
    module = _Heads(shape.heads // shape.kv_heads)
    found: list[float] = []
    with torch.inference_mode():
        for rows in BATCHES:
            size = (rows, shape.kv_heads, 2 * SPAN, shape.head_dim)
            stores = [torch.ones(size, dtype=DTYPES[dtype]) for _ in range(8)]
            query = torch.ones(rows, shape.heads, 1, shape.head_dim, dtype=DTYPES[dtype])
            mask = torch.zeros(rows, 1, 1, SPAN, dtype=DTYPES[dtype])

            def once(stores: list[Tensor] = stores, query: Tensor = query, mask: Tensor = mask) -> None:
                for keys in stores:
                    attend(module, query, keys[:, :, :SPAN], keys[:, :, :SPAN], mask)

            found.append(fastest(once, BUDGET_S / 4))
    return statistics.geometric_mean(found)


def fastest(once: Callable[[], None], budget_s: float) -> float:
    """Shortest of at least three runs within about `budget_s` seconds."""
    once()
    best = float("inf")
    end = time.perf_counter() + budget_s
    runs = 0
    while runs < 3 or time.perf_counter() < end:
        started = time.perf_counter()
        once()
        best = min(best, time.perf_counter() - started)
        runs += 1
        if time.perf_counter() > end + 2 * budget_s:
            break
    return best
