"""The attention of the decode step, and how it is made known to transformers.

`register` adds the implementation `openllm_grouped` to transformers' AttentionInterface. With one query per row, the
query heads that share a key head are the rows of one small matrix product, so keys and values are read once and never
repeated. Anything longer than one query goes to stock scaled-dot-product attention. Knows nothing of requests.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .untyped import additive_mask, boolean_mask, register_attention, sdpa_forward

GROUPED = "openllm_grouped"


def grouped_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    position_bias: Tensor | None = None,
    softcap: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    """Attention of one new token per row; several go to stock attention.

    Args:
        query: [batch, num_heads, q_len, head_dim].
        key, value: [batch, num_kv_heads, kv_len, head_dim]; may be slices of a longer window.
        attention_mask: [batch, 1, q_len, kv_len], additive for one query per row and boolean for more; None when every
            column counts.
        position_bias: additive, [1 or batch, num_heads, q_len, kv_len] (T5).
        softcap: bound of the scores, `softcap * tanh(scores / softcap)` (Gemma 2).

    Returns:
        ([batch, q_len, num_heads, head_dim], None).
    """
    batch, heads, q_len, head_dim = query.shape
    if q_len != 1:
        if softcap is not None:
            return _eager(module, query, key, value, attention_mask, scaling, softcap), None
        return sdpa_forward(
            module, query, key, value, attention_mask, dropout, scaling, position_bias=position_bias, **kwargs
        )
    kv_heads, kv_len = key.shape[1], key.shape[2]
    group = heads // kv_heads
    scale = head_dim**-0.5 if scaling is None else scaling
    grouped = query.reshape(batch * kv_heads, group, head_dim)
    scores = torch.bmm(grouped * scale, key.reshape(batch * kv_heads, kv_len, head_dim).transpose(1, 2))
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    if position_bias is not None:
        scores = (scores.view(batch, heads, kv_len) + position_bias[:, :, 0]).view(batch * kv_heads, group, kv_len)
    if attention_mask is not None:
        scores.view(batch, heads, kv_len).add_(attention_mask[:, 0])
    weights = torch.softmax(scores, dim=-1)
    context = torch.bmm(weights, value.reshape(batch * kv_heads, kv_len, value.shape[-1]))
    return context.view(batch, 1, heads, value.shape[-1]), None


def _eager(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    scaling: float | None,
    softcap: float,
) -> Tensor:
    """Plain attention with bounded scores, for prompts of models that bound them."""
    group = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(group, dim=1), value.repeat_interleave(group, dim=1)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    scores = torch.tanh(query @ key.transpose(2, 3) * scale / softcap) * softcap
    if mask is None:
        causal = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device)
        mask = causal.tril(scores.shape[-1] - scores.shape[-2])
    bounded = torch.where(mask, scores, torch.finfo(scores.dtype).min)
    return (torch.softmax(bounded, dim=-1) @ value).transpose(1, 2).contiguous()


def grouped_mask(
    batch_size: int,
    q_length: int,
    kv_length: int,
    attention_mask: Tensor | None = None,
    allow_is_causal_skip: bool = True,
    **kwargs: Any,
) -> Tensor | None:
    """Mask of one forward pass, additive for one query per row, else boolean (True = attend); None where nothing is
    masked or plain causality is enough."""
    whole = attention_mask is None or bool(attention_mask.all())
    if allow_is_causal_skip and whole and kwargs.get("local_size") is None and (q_length == 1 or q_length == kv_length):
        return None
    make = additive_mask if q_length == 1 else boolean_mask  # additive for ours, boolean for stock attention
    return make(
        batch_size=batch_size,
        q_length=q_length,
        kv_length=kv_length,
        attention_mask=attention_mask,
        allow_is_causal_skip=False,
        **kwargs,
    )


def register() -> None:
    """Make `openllm_grouped` known to transformers; safe to call again."""
    register_attention(GROUPED, grouped_attention, grouped_mask)
