from vllm.config import VllmConfig
from vllm.inputs.engine import TokensInput
from vllm.lora.request import LoRARequest
from vllm.sampling_params import SamplingParams
from vllm.v1.engine import EngineCoreRequest

class InputProcessor:
    def __init__(self, vllm_config: VllmConfig) -> None: ...
    def process_inputs(
        self,
        request_id: str,
        prompt: TokensInput,
        params: SamplingParams,
        supported_tasks: tuple[str, ...],
        arrival_time: float | None = None,
        lora_request: LoRARequest | None = None,
    ) -> EngineCoreRequest: ...
