from enum import IntEnum

from vllm.sampling_params import SamplingParams
from vllm.v1.outputs import LogprobsLists

class FinishReason(IntEnum):
    STOP = 0
    LENGTH = 1
    ABORT = 2
    ERROR = 3
    REPETITION = 4

class SchedulerStats:
    num_running_reqs: int
    num_waiting_reqs: int

class EngineCoreRequest:
    request_id: str
    sampling_params: SamplingParams | None

class EngineCoreOutput:
    request_id: str
    new_token_ids: list[int]
    new_logprobs: LogprobsLists | None
    finish_reason: FinishReason | None
    stop_reason: int | str | None

class EngineCoreOutputs:
    outputs: list[EngineCoreOutput]
    scheduler_stats: SchedulerStats | None
