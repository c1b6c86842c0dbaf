"""One loaded transformers model behind a few calls: prefill, encode, decode.

Made by `loading`; called by `lanes`. Hides how architectures differ in what their forward takes. Knows nothing of
requests, sampling or batching policy.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import attrs
import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicCache, EncoderDecoderCache

from ..sentence import Pooling
from .attention import GROUPED
from .lora import AdapterMixer


@attrs.define(kw_only=True, eq=False)
class LoadedModel:
    """A model and what must be known to run it.

    Attributes:
        module: the transformers model, in eval mode.
        device, dtype: where and in what type it computes.
        vocab_size: columns of its logits.
        seq2seq: an encoder reads the prompt.
        start_token_id: first input of the decoder; seq2seq only.
        compiled_blocks: feed-forward blocks that are compiled.
        windowed: rows of different length can share one window (verified at load); else each row runs alone.
        pooling: of its hidden states, for embeddings; None where they need what we do not do.
        adapters: the loaded adapters; None where the engine takes none.
    """

    module: Any
    device: torch.device
    dtype: torch.dtype
    vocab_size: int
    seq2seq: bool = False
    start_token_id: int = 0
    compiled_blocks: int = 0
    windowed: bool = True
    pooling: Pooling | None = "mean"
    adapters: AdapterMixer | None = None
    _accepts: frozenset[str] = attrs.field(init=False)
    _cache_name: str = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        parameters = inspect.signature(self.module.forward).parameters
        names = set(parameters)
        if any(p.kind is p.VAR_KEYWORD for p in parameters.values()) and not self.seq2seq:
            names |= {"position_ids"} & set(inspect.signature(self.module.base_model.forward).parameters)
        self._accepts = frozenset(names)
        self._cache_name = "past_key_values" if "past_key_values" in names else "cache_params"

    def use_attention(self, name: str) -> None:
        """Choose the attention implementation: grouped, sdpa or eager."""
        self.module.set_attn_implementation(GROUPED if name == "grouped" else name)

    def using(self, adapters: Sequence[str | None]) -> AbstractContextManager[None]:
        """Run forward passes in which row i has the adapter `adapters[i]`, None for the bare base."""
        return nullcontext() if self.adapters is None else self.adapters.rows(adapters)

    def new_cache(self) -> Cache:
        """An empty cache for a prefill: plain keys and values of every layer where the window takes them."""
        if self.seq2seq:
            return EncoderDecoderCache(DynamicCache(), DynamicCache())
        return DynamicCache() if self.windowed else DynamicCache(config=self.module.config)

    def prefill(self, ids: Tensor, mask: Tensor | None, cache: Cache, past: int = 0) -> Tensor:
        """Run (a chunk of) prompts.

        Args:
            ids: [batch, chunk] token ids, left-padded.
            mask: [batch, past + chunk] bool, or None when nothing is padded.
            cache: filled by the chunks before; this one is appended.
            past: columns those chunks had.

        Returns:
            Logits after the last column, [batch, vocab_size].
        """
        arguments: dict[str, Any] = {"input_ids": ids, self._cache_name: cache, "use_cache": True}
        if mask is not None:  # without one, every architecture counts positions from the cache's length itself
            arguments["attention_mask"] = mask
            if "position_ids" in self._accepts:
                arguments["position_ids"] = mask.long().cumsum(-1).sub_(1).clamp_(min=0)[:, past:]
        if "logits_to_keep" in self._accepts:
            arguments["logits_to_keep"] = 1
        return self.module(**arguments, return_dict=True).logits[:, -1]

    def decode(self, ids: Tensor, mask: Tensor | None, positions: Tensor | None, cache: Cache) -> Tensor:
        """One new token per row.

        Args:
            ids: [rows, 1].
            mask: [rows, columns] bool, the new column included; None for a row on the model's own cache.
            positions: [rows, 1]; None with it.

        Returns:
            [rows, vocab_size].
        """
        arguments: dict[str, Any] = {
            "input_ids": ids, self._cache_name: cache, "use_cache": True,
        }  # fmt: skip
        if mask is not None:
            arguments["attention_mask"] = mask
            if "position_ids" in self._accepts:
                arguments["position_ids"] = positions
        return self.module(**arguments, return_dict=True).logits[:, -1]

    def encode(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, EncoderDecoderCache]:
        """Read prompts and take the decoder's first step (seq2seq).

        Args:
            ids: [batch, prompt_len] right-padded; mask: [batch, prompt_len] bool.

        Returns:
            (logits of the first token [batch, vocab_size], cache with one decoder column and the cross-attention).
        """
        cache = self.new_cache()
        assert isinstance(cache, EncoderDecoderCache)
        start = torch.full((ids.shape[0], 1), self.start_token_id, dtype=torch.long, device=self.device)
        output = self.module(
            input_ids=ids,
            attention_mask=mask.long(),
            decoder_input_ids=start,
            past_key_values=cache,
            use_cache=True,
            return_dict=True,
        )
        return output.logits[:, -1], cache

    def decode_seq2seq(
        self, ids: Tensor, mask: Tensor | None, encoder_mask: Tensor, cache: EncoderDecoderCache
    ) -> Tensor:
        """One new token per row of an encoder-decoder model whose cross-attention is cached.

        Args:
            ids: [rows, 1]; mask: [rows, columns] bool of the decoder; encoder_mask: [rows, prompt_len] bool.
        """
        rows, prompt_len = encoder_mask.shape
        unused = torch.zeros((), dtype=self.dtype, device=self.device).expand(rows, prompt_len, 1)
        output = self.module(
            decoder_input_ids=ids,
            decoder_attention_mask=None if mask is None else mask.long(),
            attention_mask=encoder_mask.long(),
            encoder_outputs=(unused,),
            past_key_values=cache,
            use_cache=True,
            return_dict=True,
        )
        return output.logits[:, -1]

    def whole(self, prompt: list[int], tokens: list[int]) -> Tensor:
        """Logits of one sequence in one pass, without any cache: the reference for everything else.

        Returns:
            [1 + len(tokens), vocab_size]: after the prompt, and after each token that follows.
        """
        if self.seq2seq:
            arguments: dict[str, Any] = {
                "decoder_input_ids": torch.tensor([[self.start_token_id, *tokens]], device=self.device)
            }
        else:
            arguments = {}
            prompt = prompt + tokens
        ids = torch.tensor([prompt], device=self.device)
        logits = self.module(input_ids=ids, use_cache=False, return_dict=True, **arguments).logits
        return logits[0, -1 - len(tokens) :].float()
