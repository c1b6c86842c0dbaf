from collections import deque
from collections.abc import Callable
from concurrent.futures import Future

from vllm.config import VllmConfig
from vllm.lora.request import LoRARequest
from vllm.v1.core.sched.output import SchedulerOutput
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.engine import EngineCoreOutputs, EngineCoreRequest
from vllm.v1.executor import Executor
from vllm.v1.outputs import ModelRunnerOutput
from vllm.v1.request import Request
from vllm.v1.structured_output import StructuredOutputManager

class EngineCore:
    scheduler: Scheduler
    model_executor: Executor
    batch_queue: deque[tuple[Future[ModelRunnerOutput], SchedulerOutput, Future[object]]] | None
    structured_output_manager: StructuredOutputManager
    step_fn: Callable[[], tuple[dict[int, EngineCoreOutputs] | None, bool]]
    def __init__(self, vllm_config: VllmConfig, executor_class: type[Executor], log_stats: bool) -> None: ...
    def post_step(self, model_executed: bool) -> None: ...
    def preprocess_add_request(self, request: EngineCoreRequest) -> tuple[Request, int]: ...
    def add_request(self, request: Request, request_wave: int = 0) -> None: ...
    def abort_requests(self, request_ids: list[str]) -> None: ...
    def add_lora(self, lora_request: LoRARequest) -> bool: ...
    def remove_lora(self, lora_id: int) -> bool: ...
    def shutdown(self) -> None: ...
