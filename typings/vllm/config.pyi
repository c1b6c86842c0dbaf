class ModelConfig:
    max_model_len: int
    dtype: object
    def get_vocab_size(self) -> int: ...

class CacheConfig:
    num_gpu_blocks: int | None
    block_size: int | None

class SchedulerConfig:
    max_num_seqs: int

class LoRAConfig:
    max_loras: int
    max_lora_rank: int

class VllmConfig:
    model_config: ModelConfig
    cache_config: CacheConfig
    scheduler_config: SchedulerConfig
    lora_config: LoRAConfig | None

class StructuredOutputsConfig:
    def __init__(self, *, backend: str = ...) -> None: ...
