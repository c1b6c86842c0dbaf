from collections.abc import Callable
from typing import Any

from vllm.config import VllmConfig

class Executor:
    @staticmethod
    def get_class(vllm_config: VllmConfig) -> type[Executor]: ...
    def collective_rpc(self, method: Callable[[Any], None]) -> list[object]: ...
