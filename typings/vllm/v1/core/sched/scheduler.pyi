from collections.abc import Callable, Iterable, Iterator

from vllm.v1.core.sched.output import SchedulerOutput
from vllm.v1.engine import EngineCoreOutputs
from vllm.v1.outputs import ModelRunnerOutput
from vllm.v1.request import Request, RequestStatus

class RequestQueue:
    def add_request(self, request: Request) -> None: ...
    def remove_requests(self, requests: Iterable[Request]) -> None: ...
    def __iter__(self) -> Iterator[Request]: ...

class Scheduler:
    requests: dict[str, Request]
    waiting: RequestQueue
    finished_req_ids: set[str]
    reset_preempted_req_ids: set[str]
    schedule: Callable[[bool], SchedulerOutput]
    update_from_output: Callable[[SchedulerOutput, ModelRunnerOutput], dict[int, EngineCoreOutputs]]
    def has_requests(self) -> bool: ...
    def finish_requests(self, request_ids: Iterable[str], finished_status: RequestStatus) -> list[Request]: ...
    def reset_prefix_cache(self, reset_running_requests: bool = False) -> bool: ...
