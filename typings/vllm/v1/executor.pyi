from vllm.config import VllmConfig

class Executor:
    @staticmethod
    def get_class(vllm_config: VllmConfig) -> type[Executor]: ...
