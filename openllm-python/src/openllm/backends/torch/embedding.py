"""Vectors of token ids: a model's last hidden states, pooled over each text and made vectors of length one.

Called by the two backends of this package, which run it where nothing else computes. Knows tensors; nothing of text.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attrs
import torch
from torch import Tensor

from ..sentence import Pooling
from .model import LoadedModel
from .untyped import to_float_rows

GROUP_TOKENS = {"cpu": 2048, "cuda": 16384}  # padded tokens computed at once


@attrs.define(kw_only=True, eq=False)
class TextEncoder:
    """What gives hidden states, and how they become vectors.

    Attributes:
        body: a transformers model without a head: its forward gives `last_hidden_state`.
        device: it computes on.
        pooling: which hidden states count, and how.
    """

    body: Any
    device: torch.device
    pooling: Pooling = "mean"
    _sequence_first: bool | None = attrs.field(default=None, init=False)

    def groups(self, lengths: Sequence[int]) -> list[list[int]]:
        """Places of texts to compute at once: the longest first, each group of texts about equally long."""
        order = sorted(range(len(lengths)), key=lambda place: -lengths[place])
        most = GROUP_TOKENS[self.device.type]
        made: list[list[int]] = []
        while order:
            count = max(1, most // max(1, lengths[order[0]]))
            made.append(order[:count])
            order = order[count:]
        return made

    @torch.inference_mode()
    def vectors(self, batch: Sequence[Sequence[int]]) -> list[list[float]]:
        """One group of token ids, [n][seq_len] of any lengths above 0 -> [n][hidden] float32."""
        longest = max(map(len, batch))
        ids = torch.tensor([[*text, *([0] * (longest - len(text)))] for text in batch], device=self.device)
        lengths = torch.tensor([len(text) for text in batch], device=self.device)
        mask = torch.arange(longest, device=self.device) < lengths.unsqueeze(1)
        pooled = pool(self._hidden_states(ids, mask), mask, lengths, self.pooling)
        return to_float_rows(torch.nn.functional.normalize(pooled, dim=-1))

    def _hidden_states(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Last hidden states, [batch, seq_len, hidden] float32, of right-padded ids."""
        if self._sequence_first is None:  # some models that bring their own code turn it round (ChatGLM)
            self._sequence_first = self._forward(ids.new_zeros(1, 2), mask.new_ones(1, 2)).shape[0] == 2
        hidden = self._forward(ids, mask).float()
        return hidden.transpose(0, 1) if self._sequence_first else hidden

    def _forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        return self.body(input_ids=ids, attention_mask=mask.long(), return_dict=True).last_hidden_state


def pool(hidden: Tensor, mask: Tensor, lengths: Tensor, pooling: Pooling) -> Tensor:
    """[batch, seq_len, hidden], [batch, seq_len] bool, [batch] -> [batch, hidden]."""
    match pooling:
        case "mean":
            return (hidden * mask.unsqueeze(-1)).sum(1) / lengths.unsqueeze(1)
        case "cls":
            return hidden[:, 0]
        case "lasttoken":
            return hidden[torch.arange(len(hidden), device=hidden.device), lengths - 1]
        case "max":
            return hidden.masked_fill(~mask.unsqueeze(-1), float("-inf")).amax(1)


def body_of(module: Any, *, seq2seq: bool) -> Any:
    """The part of a model below its head (of two parts, the encoder); None where it has no such part."""
    if seq2seq:
        return module.get_encoder()
    body = module.base_model
    return None if body is module and hasattr(module, "generate") and module.can_generate() else body


def encoder_of(model: LoadedModel) -> TextEncoder | None:
    """What embeds texts with a model that was loaded to generate; None where it cannot."""
    body = body_of(model.module, seq2seq=model.seq2seq)
    if body is None or model.pooling is None:
        return None
    return TextEncoder(body=body, device=model.device, pooling=model.pooling)


def embed(encoder: TextEncoder, batch: Sequence[Sequence[int]]) -> list[list[float]]:
    """[n][seq_len] token ids -> [n][hidden] float32, L2-normalised, in their order."""
    found: list[list[float]] = [[] for _ in batch]
    for places in encoder.groups([len(ids) for ids in batch]):
        for place, vector in zip(places, encoder.vectors([batch[p] for p in places]), strict=True):
            found[place] = vector
    return found
