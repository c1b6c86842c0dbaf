"""The configuration of a tiny Baichuan-like model; transformers imports it from the model's folder."""

from transformers import PretrainedConfig


class BaiChuanConfig(PretrainedConfig):
    """Sizes of a decoder with one projection for queries, keys and values."""

    model_type = "baichuan"

    def __init__(
        self,
        vocab_size: int = 384,
        hidden_size: int = 32,
        intermediate_size: int = 64,
        num_hidden_layers: int = 2,
        num_attention_heads: int = 4,
        max_position_embeddings: int = 256,
        **rest,
    ):
        self.vocab_size = vocab_size
        self.hidden_size = hidden_size
        self.intermediate_size = intermediate_size
        self.num_hidden_layers = num_hidden_layers
        self.num_attention_heads = num_attention_heads
        self.max_position_embeddings = max_position_embeddings
        super().__init__(**rest)
