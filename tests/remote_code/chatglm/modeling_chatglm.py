"""A tiny ChatGLM-like decoder; transformers imports it from the model's folder, never this repository.

Unlike the other one it takes no position ids: it counts from its cache, so rows of different length cannot share a batch.
"""

import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention, silu
from transformers import GenerationMixin, PreTrainedModel
from transformers.cache_utils import DynamicCache
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast

from .configuration_chatglm import ChatGLMConfig


class GLMBlock(nn.Module):
    """Multi-query attention and a gated MLP, each behind a norm."""

    def __init__(self, config, index):
        super().__init__()
        size, self.heads, self.groups = config.hidden_size, config.num_attention_heads, config.multi_query_group_num
        self.index, self.head_dim = index, size // self.heads
        self.input_layernorm, self.post_attention_layernorm = nn.RMSNorm(size), nn.RMSNorm(size)
        self.query_key_value = nn.Linear(size, size + 2 * self.groups * self.head_dim)
        self.dense = nn.Linear(size, size, bias=False)
        self.dense_h_to_4h = nn.Linear(size, 2 * config.ffn_hidden_size, bias=False)
        self.dense_4h_to_h = nn.Linear(config.ffn_hidden_size, size, bias=False)

    def forward(self, hidden, mask, cache):
        """[batch, seq_len, hidden] -> the same."""
        batch, length, size = hidden.shape
        mixed = self.query_key_value(self.input_layernorm(hidden)).view(batch, length, -1, self.head_dim)
        queries, keys, values = mixed.transpose(1, 2).split((self.heads, self.groups, self.groups), dim=1)
        if cache is not None:
            keys, values = cache.update(keys, values, self.index)
        repeat = self.heads // self.groups
        keys, values = keys.repeat_interleave(repeat, dim=1), values.repeat_interleave(repeat, dim=1)
        attended = scaled_dot_product_attention(queries, keys, values, attn_mask=mask)
        hidden = hidden + self.dense(attended.transpose(1, 2).reshape(batch, length, size))
        gate, up = self.dense_h_to_4h(self.post_attention_layernorm(hidden)).chunk(2, dim=-1)
        return hidden + self.dense_4h_to_h(silu(gate) * up)


class ChatGLMModel(PreTrainedModel):
    """The decoder without its head. As in the published code, what it gives has the sequence first."""

    config_class = ChatGLMConfig

    def __init__(self, config):
        super().__init__(config)
        self.word_embeddings = nn.Embedding(config.padded_vocab_size, config.hidden_size)
        self.position_embeddings = nn.Embedding(config.seq_length, config.hidden_size)
        self.layers = nn.ModuleList(GLMBlock(config, index) for index in range(config.num_layers))
        self.final_layernorm = nn.RMSNorm(config.hidden_size)
        self.post_init()

    def forward(self, input_ids, attention_mask=None, past_key_values=None, use_cache=None, return_dict=None):
        """[batch, seq_len] ids -> hidden states [seq_len, batch, hidden]."""
        if use_cache and past_key_values is None:
            past_key_values = DynamicCache()
        past = past_key_values.get_seq_length() if past_key_values is not None else 0
        steps = torch.arange(past, past + input_ids.shape[1], device=input_ids.device)
        mask = torch.arange(past + input_ids.shape[1], device=input_ids.device) <= steps[:, None]
        hidden = self.word_embeddings(input_ids) + self.position_embeddings(steps)
        for layer in self.layers:
            hidden = layer(hidden, mask, past_key_values)
        hidden = self.final_layernorm(hidden).transpose(0, 1)
        return BaseModelOutputWithPast(last_hidden_state=hidden, past_key_values=past_key_values)


class ChatGLMForConditionalGeneration(PreTrainedModel, GenerationMixin):
    """The language model: a decoder, whatever its name says."""

    config_class = ChatGLMConfig
    base_model_prefix = "transformer"

    def __init__(self, config):
        super().__init__(config)
        self.transformer = ChatGLMModel(config)
        self.output_layer = nn.Linear(config.hidden_size, config.padded_vocab_size, bias=False)
        self.post_init()

    def _init_weights(self, module):
        if isinstance(module, (nn.Linear, nn.Embedding)):
            module.weight.data.normal_(0.0, 0.02)

    def forward(self, input_ids, attention_mask=None, past_key_values=None, use_cache=None, return_dict=None, **unused):
        """[batch, seq_len] ids -> logits [batch, seq_len, padded_vocab_size]."""
        output = self.transformer(input_ids, attention_mask, past_key_values, use_cache)
        logits = self.output_layer(output.last_hidden_state.transpose(0, 1))
        return CausalLMOutputWithPast(logits=logits, past_key_values=output.past_key_values)
