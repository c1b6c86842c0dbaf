"""LoRA on a CPU: the products of vLLM's adapter layers, computed for a whole mixed batch at once.

vLLM's own CPU form copies each token's matrices out of the stack of all adapters, at every layer of every step. Here those of
the adapters in the batch stand side by side: y += ((x A) * mask) B, with a mask that leaves each token the columns of its
own. They are put together when the set of adapters in the batch grows, not at every step.

`use` makes vLLM take it; the backend calls that before a model with adapters is loaded.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import attrs
import torch
from torch import Tensor
from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU
from vllm.platforms import current_platform

KEPT_STEPS = 512
"""Steps for which an adapter's columns stay after its last use; rows of a few adapters come and go."""


def use() -> None:
    """Make vLLM's adapter layers compute as this module does, from the next model loaded on."""
    name = f"{__name__}.{MixedLoRA.__name__}"
    type(current_platform).get_punica_wrapper = classmethod(
        lambda platform: name
    )  # the hook that platforms have for it


@attrs.frozen(eq=False)
class Columns:
    """Matrices of one adapter layer for the present set of adapters.

    Attributes:
        arrangement: number of the set they were made for.
        a: [in, columns], the columns of all slices of the layer one behind the other.
        b: one [columns of the slice, out] for each slice.
        slots: [columns] slot of the adapter that each column of a slice belongs to, for each slice.
    """

    arrangement: int
    a: Tensor
    b: tuple[Tensor, ...]
    slots: tuple[tuple[int, ...], ...]


class MixedLoRA(PunicaWrapperCPU):
    """vLLM's per-model state of which token uses which adapter, and the products that follow from it."""

    def __init__(self, max_num_batched_tokens: int, max_batches: int, device: Any, **options: Any) -> None:
        super().__init__(max_num_batched_tokens, max_batches, device, **options)
        self._arrangement = 0
        self._loaded: tuple[int | None, ...] = ()  # id of the adapter in each slot
        self._order: tuple[int, ...] = ()  # slots whose columns stand in the layers
        self._last_used: dict[int, int] = {}
        self._step = 0
        self._columns: dict[int, Columns] = {}  # by the identity of a layer's stack
        self._masks: dict[tuple[int, ...], Tensor] = {}
        self._tokens = torch.empty(0, dtype=torch.long)
        self._any = False

    def update_metadata(
        self, mapping: Any, lora_index_to_id: list[int | None], max_loras: int, vocab_size: int, **options: Any
    ) -> None:
        """Before each step: which token uses which slot."""
        super().update_metadata(mapping, lora_index_to_id, max_loras, vocab_size, **options)
        self._step += 1
        self._masks.clear()
        self._tokens = self.token_lora_indices
        seen: Tensor = cast(Any, torch).unique(self._tokens)
        used = [slot for slot in map(int, seen) if slot >= 0]
        self._any = bool(used)
        loaded = tuple(lora_index_to_id)
        for slot in used:
            self._last_used[slot] = self._step
        if loaded != self._loaded or not set(used) <= set(self._order):
            recent = [
                slot
                for slot in self._order
                if slot not in used
                and loaded[slot : slot + 1] == self._loaded[slot : slot + 1] != (None,)
                and self._last_used.get(slot, 0) > self._step - KEPT_STEPS
            ]
            self._order = tuple(sorted([*recent, *used]))
            self._loaded = loaded
            self._arrangement += 1

    def add_lora_linear(
        self,
        y: Tensor,
        x: Tensor,
        lora_a_stacked: tuple[Tensor, ...],
        lora_b_stacked: tuple[Tensor, ...],
        scale: float,
        output_slices: tuple[int, ...],
        *,
        buffer: tuple[Tensor, ...] | None = None,
        **options: Any,
    ) -> None:
        """Add to y [tokens, out], in place, what the adapters make of x [tokens, in]."""
        if not self._any:
            return
        found = self._columns.get(id(lora_a_stacked[0]))
        if found is None or found.arrangement != self._arrangement:
            found = self._arrange(lora_a_stacked, lora_b_stacked)
            self._columns[id(lora_a_stacked[0])] = found
        if not found.a.shape[1]:
            return
        low = torch.mm(x, found.a)
        column, place = 0, 0
        for b, slots, width in zip(found.b, found.slots, output_slices, strict=True):
            if slots:
                part = low[:, column : column + len(slots)] * self._mask(slots, low.dtype)
                y[:, place : place + width].addmm_(part, b, alpha=scale)
                column += len(slots)
            place += width

    def _arrange(self, a_stacks: Sequence[Tensor], b_stacks: Sequence[Tensor]) -> Columns:
        """Gather the columns that are not all zero: adapters may have a lower rank than the stack has room for."""
        a_parts: list[Tensor] = []
        b_parts: list[Tensor] = []
        slots: list[tuple[int, ...]] = []
        for a_stack, b_stack in zip(a_stacks, b_stacks, strict=True):
            own: list[int] = []
            b_of: list[Tensor] = []
            for slot in self._order:
                a, b = a_stack[slot, 0], b_stack[slot, 0]  # [rank, in], [out, rank]
                rank = _rank(a)
                own += [slot] * rank
                a_parts.append(a[:rank])
                b_of.append(b[:, :rank].t())
            slots.append(tuple(own))
            b_parts.append(torch.cat(b_of).contiguous() if b_of else b_stack.new_zeros(0, b_stack.shape[2]))
        return Columns(self._arrangement, torch.cat(a_parts).t().contiguous(), tuple(b_parts), tuple(slots))

    def _mask(self, slots: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """[tokens, columns] of 0 and 1 for the step under way; layers of the same ranks share it."""
        mask = self._masks.get(slots)
        if mask is None:
            columns = torch.tensor(slots, dtype=torch.long)
            mask = self._masks[slots] = (self._tokens.unsqueeze(1) == columns).to(dtype)
        return mask


def _rank(a: Tensor) -> int:
    """Rows of [rank, in] up to the last that is not all zero."""
    rows = a.abs().amax(1).nonzero()
    return int(rows[-1]) + 1 if len(rows) else 0
