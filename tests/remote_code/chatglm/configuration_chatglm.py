"""The configuration of a tiny ChatGLM-like model; transformers imports it from the model's folder.

Its names are ChatGLM2's: `padded_vocab_size`, `num_layers`, `seq_length` and no `vocab_size`.
"""

from transformers import PretrainedConfig


class ChatGLMConfig(PretrainedConfig):
    """Sizes of a decoder with a few shared keys and values."""

    model_type = "chatglm"

    def __init__(
        self,
        padded_vocab_size: int = 384,
        hidden_size: int = 32,
        ffn_hidden_size: int = 64,
        num_layers: int = 2,
        num_attention_heads: int = 4,
        multi_query_group_num: int = 2,
        seq_length: int = 256,
        **rest,
    ):
        self.padded_vocab_size = padded_vocab_size
        self.hidden_size = hidden_size
        self.ffn_hidden_size = ffn_hidden_size
        self.num_layers = num_layers
        self.num_hidden_layers = num_layers
        self.num_attention_heads = num_attention_heads
        self.multi_query_group_num = multi_query_group_num
        self.seq_length = seq_length
        super().__init__(**rest)
