"""Quarantine: when a step of vLLM's engine core raises, who is to blame, so that it alone ends and the others go on.

vLLM ends with all its sequences then. Here the step is taken back: vLLM's own preemption sends its sequences to the waiting
line, to be computed anew from their prompt and the tokens they have, and they run apart, in halves, until each has its next
token or has raised alone. Called by `core`, in its thread, between two steps; knows nothing of our requests.
"""

from __future__ import annotations

import logging
from typing import Any

from vllm.sampling_params import SamplingParams
from vllm.v1.core.sched.output import SchedulerOutput
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.engine.core import EngineCore
from vllm.v1.outputs import ModelRunnerOutput
from vllm.v1.request import Request, RequestStatus

from ..failed_step import is_out_of_memory

log = logging.getLogger("openllm.backends.vllm")

PROBE = "probe"  # id of a sequence of ours that no request waits for


class Quarantine:
    """Watches one engine core's steps, and sorts its sequences when one raises.

    Args:
        engine: that has not taken a step yet.
    """

    def __init__(self, engine: EngineCore) -> None:
        self._engine = engine
        self._scheduler: Scheduler = engine.scheduler
        self._under_way: list[SchedulerOutput] = []  # steps whose tokens the scheduler has not been given, oldest first
        self._scheduling = False  # the scheduler itself is at work: what raises now is no sequence's fault
        self._trial: dict[str, tuple[Request, int]] = {}  # who runs apart now, and how many tokens each had
        self._groups: list[list[Request]] = []  # who runs apart after them, the next last
        self._held: list[Request] = []  # who waits until that is over
        self._worked = True  # since the first failure: whether any step did
        self._watch(self._scheduler)

    @property
    def active(self) -> bool:
        """Whether sequences run apart at present."""
        return bool(self._trial)

    def failed(self, error: Exception) -> dict[str, Exception]:
        """A step raised: take it back, and arrange who runs next.

        Returns:
            Who is out, and why: nobody while that is not known yet.

        Raises:
            Exception: `error`, where it is no sequence's fault: the scheduler itself raised, or the device stopped working.
        """
        if self._scheduling or not self._under_way:
            raise error
        try:
            suspects = self._take_back()
        except Exception:
            log.exception("a step that raised cannot be taken back")
            raise error from None
        if not suspects or any(one.request_id == PROBE for one in suspects):
            raise error
        self._worked = self._worked and self.active
        apart = [one for one, _ in self._trial.values() if one not in suspects and not one.is_finished()]
        if apart:
            self._groups.append(apart)
        out: list[Request] = []
        if is_out_of_memory(error):
            out = [max(suspects, key=lambda one: one.arrival_time)]
            self._groups.append([one for one in suspects if one not in out])
        elif len(suspects) == 1:
            out = suspects
        else:
            self._groups += reversed(_parted(suspects))
            log.warning(
                "a step of %d sequences raised; they run apart until it is known which is to blame", len(suspects)
            )
        self._scheduler.finish_requests([one.request_id for one in out], RequestStatus.FINISHED_ERROR)
        self._next()
        return {one.request_id: error for one in out}

    def advance(self) -> None:
        """Let the next group run once each sequence of the present one has a token more, or has ended."""
        if self.active and all(one.is_finished() or one.num_output_tokens > had for one, had in self._trial.values()):
            if self._groups:
                self._scheduler.reset_prefix_cache(reset_running_requests=True)  # whoever runs makes room
            self._next()

    def hold_newcomers(self) -> None:
        """Keep who came since away from those that run apart."""
        if self.active:
            self._arrange()

    # -- the order of things -----------------------------------------------------------------------------------------

    def _next(self) -> None:
        group: list[Request] = []
        while self._groups and not group:
            group = [one for one in self._groups.pop() if not one.is_finished()]
        if not group and not self._worked:
            group = [self._probe()]  # everyone raised: it is their own fault if at least this can be computed
        self._worked = self._worked or not group
        self._trial = {one.request_id: (one, one.num_output_tokens) for one in group}
        self._arrange()

    def _arrange(self) -> None:
        """Put into the waiting line who may run, and hold everyone else that does not run; all of them when nobody is tried."""
        line = self._scheduler.waiting
        idle = [*self._held, *line]
        line.remove_requests(idle)
        self._held = []
        for one in sorted(idle, key=lambda one: one.arrival_time):
            if one.is_finished():
                continue
            if one.request_id in self._trial or not self._trial:
                line.add_request(one)
            else:
                self._held.append(one)

    def _probe(self) -> Request:
        params = SamplingParams(max_tokens=1, temperature=0.0)
        probe = Request(request_id=PROBE, prompt_token_ids=[0], sampling_params=params, pooling_params=None)
        self._engine.add_request(probe)
        return probe

    # -- the scheduler and the worker --------------------------------------------------------------------------------

    def _watch(self, scheduler: Scheduler) -> None:
        plan, take = scheduler.schedule, scheduler.update_from_output

        def schedule(throttle_prefills: bool = False) -> SchedulerOutput:
            self._scheduling = True
            step = plan(throttle_prefills)
            self._scheduling = False
            self._under_way.append(step)
            return step

        def update_from_output(scheduler_output: SchedulerOutput, model_runner_output: ModelRunnerOutput) -> Any:
            self._scheduling = True
            found = take(scheduler_output, model_runner_output)
            self._scheduling = False
            self._under_way.pop(0)
            self._worked = self._worked or scheduler_output.total_num_scheduled_tokens > 0
            return found

        scheduler.schedule, scheduler.update_from_output = schedule, update_from_output

    def _take_back(self) -> list[Request]:
        """Undo what the scheduler and the worker hold of the steps under way; everyone waits afterwards.

        Returns:
            Whom those steps were to compute, in the order of the batch, without those that have ended since.
        """
        scheduler, steps = self._scheduler, self._under_way
        if self._engine.batch_queue:
            for future, *_ in self._engine.batch_queue:
                future.exception()
            self._engine.batch_queue.clear()
        self._engine.model_executor.collective_rpc(forget_step)
        for request in scheduler.requests.values():
            request.num_in_flight_tokens = 0
        # the cache is emptied because a block counts as filled from the moment the step that fills it is planned
        scheduler.reset_prefix_cache(reset_running_requests=True)
        names = dict.fromkeys(name for step in steps for name in step.num_scheduled_tokens)
        suspects = [found for name in names if (found := scheduler.requests.get(name)) and not found.is_finished()]
        for step in steps:  # the worker may not have come to read this
            scheduler.finished_req_ids |= step.finished_req_ids
            scheduler.reset_preempted_req_ids |= step.preempted_req_ids
        for one in suspects:
            if not one.num_output_tokens:  # the worker may not know it, or only half: it is told of it as of a new one
                one.status = RequestStatus.WAITING
                scheduler.finished_req_ids.add(one.request_id)
        steps.clear()
        return suspects


def forget_step(worker: Any) -> None:
    """What a worker keeps between computing a step and drawing its tokens."""
    runner = worker.model_runner
    if hasattr(runner, "execute_model_state"):
        runner.execute_model_state = None


def _parted(suspects: list[Request]) -> list[list[Request]]:
    """Two groups, the likely innocent first: who already has tokens and who has none, else halves."""
    running = [one for one in suspects if one.num_output_tokens]
    begun = [one for one in suspects if not one.num_output_tokens]
    if running and begun:
        return [running, begun]
    middle = len(suspects) // 2
    return [suspects[:middle], suspects[middle:]]
