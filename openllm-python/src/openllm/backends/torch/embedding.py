"""Mean-pooled text embeddings from a model's last hidden states. Called by the backend between two steps."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from .model import LoadedModel
from .untyped import to_float_rows

BATCH_TOKENS = 2048  # padded tokens computed at once


@torch.inference_mode()
def embed(model: LoadedModel, batch: Sequence[Sequence[int]]) -> list[list[float]]:
    """[n][seq_len] token ids -> [n][hidden] float32, mean-pooled over the tokens and L2-normalised."""
    order = sorted(range(len(batch)), key=lambda i: len(batch[i]))
    results: list[list[float]] = [[] for _ in batch]
    while order:
        longest = len(batch[order[-1]])
        take = [order.pop() for _ in range(min(len(order), max(1, BATCH_TOKENS // longest)))]
        ids = torch.tensor([[*batch[i], *([0] * (longest - len(batch[i])))] for i in take], device=model.device)
        lengths = torch.tensor([len(batch[i]) for i in take], device=model.device)
        mask = torch.arange(longest, device=model.device) < lengths.unsqueeze(1)
        hidden = model.hidden_states(ids, mask).float() * mask.unsqueeze(-1)
        pooled = torch.nn.functional.normalize(hidden.sum(1) / lengths.unsqueeze(1), dim=-1)
        for i, vector in zip(take, to_float_rows(pooled), strict=True):
            results[i] = vector
    return results
