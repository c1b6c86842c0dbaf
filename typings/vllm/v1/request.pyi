import enum

from vllm.sampling_params import SamplingParams

class RequestStatus(enum.IntEnum):
    WAITING = ...
    FINISHED_ERROR = ...

class Request:
    request_id: str
    status: RequestStatus
    arrival_time: float
    num_in_flight_tokens: int
    def __init__(
        self,
        request_id: str,
        prompt_token_ids: list[int],
        sampling_params: SamplingParams,
        pooling_params: None,
    ) -> None: ...
    @property
    def num_output_tokens(self) -> int: ...
    def is_finished(self) -> bool: ...
