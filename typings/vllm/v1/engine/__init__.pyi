from enum import IntEnum

from vllm.sampling_params import SamplingParams
from vllm.v1.outputs import LogprobsLists

class FinishReason(IntEnum):
    STOP = 0
    LENGTH = 1
    ABORT = 2
    ERROR = 3
    REPETITION = 4

class PrefixCacheStats:
    queries: int
    hits: int

class SpecDecodingStats:
    num_draft_tokens: int
    num_accepted_tokens: int

class SchedulerStats:
    num_running_reqs: int
    num_waiting_reqs: int
    kv_cache_usage: float
    prefix_cache_stats: PrefixCacheStats
    spec_decoding_stats: SpecDecodingStats | None

class EngineCoreEventType(IntEnum):
    PREEMPTED = 3

class EngineCoreEvent:
    type: EngineCoreEventType

class EngineCoreRequest:
    request_id: str
    sampling_params: SamplingParams | None

class EngineCoreOutput:
    request_id: str
    new_token_ids: list[int]
    new_logprobs: LogprobsLists | None
    finish_reason: FinishReason | None
    stop_reason: int | str | None
    events: list[EngineCoreEvent] | None
    num_nans_in_logits: int

class EngineCoreOutputs:
    outputs: list[EngineCoreOutput]
    scheduler_stats: SchedulerStats | None
