"""A tiny Baichuan-like decoder; transformers imports it from the model's folder, never this repository."""

import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention, silu
from transformers import GenerationMixin, PreTrainedModel
from transformers.cache_utils import DynamicCache
from transformers.modeling_outputs import CausalLMOutputWithPast

from .configuration_baichuan import BaiChuanConfig


def rotate(x, positions):
    """Rotary embedding of [batch, heads, seq_len, head_dim] at [batch, seq_len] positions."""
    half = x.shape[-1] // 2
    frequencies = 10000.0 ** (-torch.arange(half, device=x.device, dtype=torch.float32) / half)
    angles = positions[:, None, :, None].float() * frequencies
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    first, second = x[..., :half], x[..., half:]
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


class Layer(nn.Module):
    """Attention and a gated MLP, each behind a norm."""

    def __init__(self, config, index):
        super().__init__()
        size = config.hidden_size
        self.index, self.heads = index, config.num_attention_heads
        self.input_layernorm, self.post_attention_layernorm = nn.RMSNorm(size), nn.RMSNorm(size)
        self.W_pack, self.o_proj = nn.Linear(size, 3 * size, bias=False), nn.Linear(size, size, bias=False)
        self.gate_proj = nn.Linear(size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, size, bias=False)

    def forward(self, hidden, positions, mask, cache):
        """[batch, seq_len, hidden] -> the same."""
        batch, length, size = hidden.shape
        packed = self.W_pack(self.input_layernorm(hidden)).view(batch, length, 3, self.heads, -1)
        queries, keys, values = packed.permute(2, 0, 3, 1, 4)
        queries, keys = rotate(queries, positions), rotate(keys, positions)
        if cache is not None:
            keys, values = cache.update(keys, values, self.index)
        attended = scaled_dot_product_attention(queries, keys, values, attn_mask=mask)
        hidden = hidden + self.o_proj(attended.transpose(1, 2).reshape(batch, length, size))
        normed = self.post_attention_layernorm(hidden)
        return hidden + self.down_proj(silu(self.gate_proj(normed)) * self.up_proj(normed))


class BaiChuanPreTrainedModel(PreTrainedModel):
    """What transformers needs to know of it."""

    config_class = BaiChuanConfig
    base_model_prefix = "model"

    def _init_weights(self, module):
        if isinstance(module, (nn.Linear, nn.Embedding)):
            module.weight.data.normal_(0.0, 0.02)


class Model(BaiChuanPreTrainedModel):
    """Embeddings and layers."""

    def __init__(self, config):
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Layer(config, index) for index in range(config.num_hidden_layers))
        self.norm = nn.RMSNorm(config.hidden_size)
        self.post_init()

    def forward(self, input_ids, attention_mask=None, position_ids=None, past_key_values=None):
        """[batch, seq_len] ids -> last hidden states."""
        hidden = self.embed_tokens(input_ids)
        length, past = input_ids.shape[1], past_key_values.get_seq_length() if past_key_values is not None else 0
        steps = torch.arange(past, past + length, device=hidden.device)
        mask = torch.arange(past + length, device=hidden.device) <= steps[:, None]
        mask = mask[None, None]
        if attention_mask is not None:
            mask = mask & attention_mask[:, None, None, : past + length].bool()
            if position_ids is None:
                position_ids = attention_mask.long().cumsum(-1).sub(1).clamp(min=0)[:, past : past + length]
        if position_ids is None:
            position_ids = steps[None]
        mask = mask | ~mask.any(-1, keepdim=True)  # padding sees all, so that no row is empty
        for layer in self.layers:
            hidden = layer(hidden, position_ids, mask, past_key_values)
        return self.norm(hidden)


class BaiChuanForCausalLM(BaiChuanPreTrainedModel, GenerationMixin):
    """The language model."""

    def __init__(self, config):
        super().__init__(config)
        self.model = Model(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def forward(
        self, input_ids, attention_mask=None, position_ids=None, past_key_values=None, use_cache=None, **unused
    ):
        """[batch, seq_len] ids -> logits [batch, seq_len, vocab_size]."""
        if use_cache and past_key_values is None:
            past_key_values = DynamicCache()
        hidden = self.model(input_ids, attention_mask, position_ids, past_key_values)
        return CausalLMOutputWithPast(logits=self.lm_head(hidden), past_key_values=past_key_values)
