"""Short measurements of matrix products and attention in a model's own sizes, on matrices of ones.

Called by `tuning` at the first start with a model; nothing here needs the model itself. Every figure is the shortest of
several runs, since whatever else the machine does only ever adds.
"""

from __future__ import annotations

import functools
import statistics
import time
from collections.abc import Callable, Hashable, Sequence
from typing import Any, TypeVar

import attrs
import torch
from torch import Tensor

from ..checkpoint import Checkpoint
from . import attention
from .linears import PackedLinear
from .untyped import sdpa_forward

BUDGET_S = 0.8  # per candidate
BATCHES = (1, 32)  # rows a step is measured with
SPAN = 256  # columns attention is measured with
WORKING_SET_BYTES = 64_000_000  # float32 weights a measurement goes through, so that few stay in a cache
Clock = Callable[[], float]
"""`time.perf_counter`, or `time.thread_time` where other work would disturb it (then with one thread)."""

K = TypeVar("K", bound=Hashable)
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


Once = Callable[[], None]


def linear_seconds(shape: Shape, candidates: Sequence[tuple[str, str]], clock: Clock) -> dict[tuple[str, str], float]:
    """Seconds of one layer's matrix products by (dtype, kind of linear layer), geometric mean over `BATCHES`."""
    sizes = [(shape.hidden, shape.hidden), (shape.inner, shape.hidden), (shape.hidden, shape.inner)]
    copies = max(2, min(24, WORKING_SET_BYTES // (4 * sum(a * b for a, b in sizes))))
    layers: dict[tuple[str, str], list[list[Callable[[Tensor], Tensor]]]] = {}
    for dtype, kind in candidates:
        weights = [torch.ones(s, dtype=torch.float32 if kind == "packed16" else DTYPES[dtype]) for s in sizes]
        make = _plain if kind == "plain" else functools.partial(PackedLinear, bias=None, kind=kind)
        layers[dtype, kind] = [[make(weight.clone()) for weight in weights] for _ in range(copies)]

    def one(pair: tuple[str, str], rows: int) -> Once:
        narrow = torch.ones(rows, shape.hidden, dtype=DTYPES[pair[0]])
        wide = torch.ones(rows, shape.inner, dtype=DTYPES[pair[0]])

        def once() -> None:
            for square, up, down in layers[pair]:
                square(narrow)
                up(narrow)
                down(wide)

        return once

    return compare({pair: [one(pair, rows) for rows in BATCHES] for pair in candidates}, clock)


def _plain(weight: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda x: torch.nn.functional.linear(x, weight)


class _Heads(torch.nn.Module):
    """What stock attention asks of the layer it runs for."""

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.num_key_value_groups: Any = groups


def attention_seconds(shape: Shape, names: Sequence[str], dtype: str, clock: Clock) -> dict[str, float]:
    """Seconds of one layer's attention over a window in a decode step, geometric mean over `BATCHES`.

    Args:
        names: of grouped and sdpa.
    """
    module = _Heads(shape.heads // shape.kv_heads)

    def one(name: str, rows: int) -> Once:
        attend: Callable[..., Any] = attention.grouped_attention if name == "grouped" else sdpa_forward
        size = (rows, shape.kv_heads, 2 * SPAN, shape.head_dim)
        stores = [torch.ones(size, dtype=DTYPES[dtype]) for _ in range(8)]
        query = torch.ones(rows, shape.heads, 1, shape.head_dim, dtype=DTYPES[dtype])
        mask = torch.zeros(rows, 1, 1, SPAN, dtype=DTYPES[dtype])

        def once() -> None:
            for keys in stores:
                attend(module, query, keys[:, :, :SPAN], keys[:, :, :SPAN], mask)

        return once

    return compare({name: [one(name, rows) for rows in BATCHES] for name in names}, clock)


@torch.inference_mode()
def compare(candidates: dict[K, list[Once]], clock: Clock) -> dict[K, float]:
    """Shortest time of each candidate, geometric mean over its parts; they take turns, so that a busy spell hits all."""
    best = {key: [float("inf")] * len(parts) for key, parts in candidates.items()}
    end = time.perf_counter() + BUDGET_S * len(candidates)
    rounds = 0
    while rounds < 3 or time.perf_counter() < end:
        for key, parts in candidates.items():
            for at, once in enumerate(parts):
                started = clock()
                once()
                best[key][at] = min(best[key][at], clock() - started)
        rounds += 1
        if time.perf_counter() > end + 2 * BUDGET_S * len(candidates):
            break
    return {key: statistics.geometric_mean(times) for key, times in best.items()}
