"""What keeps one sequence's trouble its own within vLLM's engine core: numbers that are none, and grammars that raise.

vLLM draws a token from logits that are not finite as from any others, and ends with all its sequences when a grammar raises
between two steps. `use` changes both, for engines made later in this process; the backend calls it before it makes one, and
`launch` sets the variable by which vLLM looks at its logits after each step.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

log = logging.getLogger("openllm.backends.vllm")

Fill = Callable[[Any, Tensor, int], None]
Accept = Callable[[Any, str, list[int]], bool]


def use() -> None:
    """Install both; safe to call again."""
    runner: Any = import_module("vllm.v1.worker.gpu_model_runner")
    runner.count_nans_per_row = not_finite_per_row
    grammar: Any = import_module("vllm.v1.structured_output.backend_xgrammar").XgrammarGrammar
    if not hasattr(grammar, "openllm_error"):
        grammar.openllm_error = None
        grammar.fill_bitmask = guarded_fill(grammar.fill_bitmask)
        grammar.accept_tokens = guarded_accept(grammar.accept_tokens)


def not_finite_per_row(logits: Tensor) -> Tensor:
    """1 for each row that holds NaN or +inf, or nothing but -inf; in place of vLLM's count of NaNs alone.

    One reduction, without a mask of the logits' size, which is what costs.

    Args:
        logits: [rows, vocab_size].

    Returns:
        [rows] int32.
    """
    return (~torch.isfinite(logits.amax(dim=-1))).to(torch.int32)  # NaN and +inf win a maximum


def guarded_fill(fill: Fill) -> Fill:
    """A grammar that cannot say what may follow allows everything, and remembers that it is broken."""

    def fill_bitmask(self: Any, bitmask: Tensor, idx: int) -> None:
        try:
            fill(self, bitmask, idx)
        except Exception as error:
            self.openllm_error = error
            bitmask[idx] = -1

    return fill_bitmask


def guarded_accept(accept: Accept) -> Accept:
    """A broken grammar, or one that raises over a token, takes none: vLLM then ends its sequence, and no other."""

    def accept_tokens(self: Any, request_id: str, tokens: list[int]) -> bool:
        error: Exception | None = self.openllm_error
        if error is None:
            try:
                return accept(self, request_id, tokens)
            except Exception as raised:
                error = raised
        log.error("the grammar of request %s failed", request_id, exc_info=error)
        return False

    return accept_tokens
