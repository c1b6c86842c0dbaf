"""The engine: admits requests into the one waiting line, and keeps the model's host alive behind it.

The service calls `add` and reads `RequestStream`s; the host is reached through the supervisor. Text above, token ids
below. It must not know of HTTP, of a concrete backend, or of who is allowed to ask.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any, Literal, NoReturn

from prometheus_client import CollectorRegistry

from openllm_core.errors import (
    DeadlineExceeded,
    EngineLoading,
    EngineUnavailable,
    OpenLLMError,
    Overloaded,
    RequestAborted,
    ShuttingDown,
)
from openllm_core.options import EngineOptions

from ..backends.base import BackendInfo, BackendRequest, SequenceDelta, TokenSampling
from ..tokenizer import Tokenizer
from . import groups
from .adapters import Adapters
from .canary import Canary
from .channel import Abort, Answer, Ready, Step, Submit
from .dispatch import Dispatcher
from .embedding import Embedded, Embeddings, Input
from .entrance import Entrance, jittered
from .guides import Guides
from .metrics import EngineMetrics
from .neighbours import Neighbours
from .process import launch_process
from .questions import Question, Questions
from .readiness import Readiness
from .request import EngineRequest, Priority, new_request_id
from .stream import RequestStream, error_of, stopped_by
from .supervisor import Launcher, Supervisor, Watch
from .text import Texts

State = Literal["loading", "ready", "restarting", "failed", "draining", "closed"]

STEP_STALL_S = 600.0
"""A backend with work that finished no step for so long is given up; long prompts on a CPU take minutes."""


class Engine:
    """Runs one model behind one host.

    Attributes:
        options: as given.
        info: facts of the loaded model; None until it was loaded once.
        failure: why the engine is "failed".
        progress: (what is being loaded, share done 0..1 or None).
        dispatcher: the requests under way.
        entrance: how they come in.
        adapters: what the host is given besides its model.
        embeddings: requests for vectors under way.
        metrics: counters; registered in the registry that was given.
        neighbours: where requests may move to and come from; None for an engine alone.
    """

    def __init__(
        self,
        options: EngineOptions,
        tokenizer: Tokenizer,
        *,
        max_queue: int | None = None,
        queue_timeout_s: float = 30.0,
        restarts: int = 3,
        launch: Launcher | None = None,
        registry: CollectorRegistry | None = None,
        watch: Watch | None = None,
        step_stall_s: float = STEP_STALL_S,
        canary_s: float = 0.0,
    ) -> None:
        """Args:
        options: with `backend` decided and `model_path` resolved.
        tokenizer: of the same model.
        max_queue: sequences that may wait beyond the backend's slots; default 2 x slots, at least 16.
        queue_timeout_s: a request that waited longer is refused with `Overloaded`.
        restarts: of the host within 10 minutes.
        launch: how a host is started; default a process of its own.
        registry: where the metrics are registered; None = nowhere.
        watch: limits by which the host is judged; `restarts` is ignored when given.
        canary_s: pause between two questions of an idle engine to itself, see `Canary`; 0 = it asks none.
        """
        self.options = options
        self.tokenizer = tokenizer
        self.info: BackendInfo | None = None
        self.failure: OpenLLMError | None = None
        self.progress: tuple[str, float | None] = ("starting", None)
        self.metrics = EngineMetrics(self._gauges, registry)
        self.dispatcher = Dispatcher(tokenizer, self.metrics, self._send, self._change, max_queue)
        self._readiness = Readiness(self.dispatcher)
        self._queue_timeout_s = queue_timeout_s
        self._step_stall_s = step_stall_s
        self._supervisor = Supervisor(options, launch or launch_process, watch or Watch(restarts=restarts), self)
        self._questions = Questions(self._ask)
        self._texts = Texts(tokenizer, self._supervisor.send, self._questions)
        self.adapters = Adapters(self._questions, self.dispatcher.uses)
        self.entrance = Entrance(self, self._texts, Guides(self._questions), self._readiness, queue_timeout_s)
        self.embeddings = Embeddings(self._texts, self._questions, self.require_ready, self.retry_after_s, self._change)
        self._canary = Canary(self._send, self._is_idle, self._supervisor.declare_lost, canary_s)
        self._state: State = "loading"
        self._warm_up_id: str | None = None
        self._start_token = 0
        self.eos: frozenset[int] = frozenset()
        self._changed = asyncio.Event()
        self.neighbours: Neighbours | None = None

    # -- life ---------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Begin loading in the background; returns at once."""
        self._supervisor.start()

    @property
    def state(self) -> State:
        """Where the engine stands; only "ready" takes requests."""
        return self._state

    @property
    def host_pid(self) -> int | None:
        """Process id of the host; None when embedded or between two lives."""
        return self._supervisor.pid

    async def wait_ready(self, timeout_s: float | None = None) -> BackendInfo:
        """Wait until a real token was generated.

        Raises:
            EngineLoading: not ready within `timeout_s`.
            OpenLLMError: `failure`, when the engine failed for good.
            ShuttingDown: it was closed.
        """
        try:
            async with asyncio.timeout(timeout_s):
                while True:
                    if self._state == "ready" and self.info is not None:
                        return self.info
                    if self._state in ("draining", "closed"):
                        raise ShuttingDown("The engine is shutting down.")
                    if self.failure is not None:
                        raise self.failure
                    await self._changed.wait()
        except TimeoutError:
            raise EngineLoading(f"The model is not ready after {timeout_s:g} s: {self.progress[0]}.") from None

    async def wait_failed(self) -> OpenLLMError:
        """Return the final error once the engine has failed for good; never returns otherwise."""
        while self.failure is None:
            await self._changed.wait()
        return self.failure

    async def drain(self, grace_s: float) -> None:
        """Take nothing new; wait up to `grace_s` for what runs; then end it with `ShuttingDown`."""
        if self._state != "closed":
            self._set_state("draining")
        try:
            async with asyncio.timeout(grace_s):
                while self.dispatcher.sequences or self.embeddings.waiting:
                    await self._changed.wait()
        except TimeoutError:
            self._end_all("The server shut down before this request was finished.")

    async def aclose(self) -> None:
        """End everything: streams with `ShuttingDown`, then the host and its whole process group. Idempotent."""
        self._set_state("closed")
        self._canary.stop()
        self._end_all("The engine was closed.")
        await self._supervisor.aclose()
        self._texts.close()
        self.metrics.close()

    def _end_all(self, message: str) -> None:
        self.dispatcher.fail_all(lambda: ShuttingDown(message))
        self._questions.fail(lambda: ShuttingDown(message))

    # -- load ---------------------------------------------------------------------------------------------------------

    @property
    def ready_of(self) -> tuple[int, int]:
        """(engines that are ready, engines there are): of itself alone."""
        return int(self._state == "ready"), 1

    @property
    def hindrance(self) -> OpenLLMError | None:
        """Why an engine that is ready should be sent nothing for a while; see `Readiness`."""
        return self._readiness.hindrance()

    @property
    def max_queue(self) -> int:
        """Sequences that may wait beyond the backend's slots."""
        return self.dispatcher.max_queue

    @property
    def num_running(self) -> int:
        """Sequences that have a slot."""
        return self.dispatcher.num_running

    @property
    def queue_depth(self) -> int:
        """Sequences that wait for a slot."""
        return self.dispatcher.queue_depth

    def retry_after_s(self) -> float:
        """Seconds after which trying again may help: 1 to 60, jittered so that refused clients do not return as one."""
        expected = 5.0 if self._state in ("loading", "restarting") else self.dispatcher.expected_wait_s()
        return jittered(expected)

    # -- requests -----------------------------------------------------------------------------------------------------

    async def add(self, request: EngineRequest) -> RequestStream:
        """Admit a request and wait until it leaves the line; see `Entrance.add_all`."""
        return (await self.entrance.add_all([request]))[0]

    async def add_all(self, requests: Sequence[EngineRequest]) -> list[RequestStream]:
        """The same for requests that belong together: all are admitted or none."""
        return await self.entrance.add_all(requests)

    def check_room(self, tenant: str, priority: Priority) -> None:
        """Refuse at once what one more request of a tenant would be refused for; see `Entrance.check_room`."""
        if self._state == "ready":
            self.entrance.check_room(tenant, priority)

    def require_ready(self) -> BackendInfo:
        """Facts of the loaded model; raises what a request is told where there is none to be asked."""
        if self._state == "ready" and self.info is not None:
            return self.info
        self._refuse()

    def _refuse(self) -> NoReturn:
        retry = self.retry_after_s()
        match self._state:
            case "loading":
                raise EngineLoading(f"The model is still loading: {self.progress[0]}.", retry_after_s=retry)
            case "draining" | "closed":
                raise ShuttingDown("The server is shutting down.", retry_after_s=retry)
            case "restarting":
                raise EngineUnavailable("The engine is being restarted.", retry_after_s=retry)
            case _:
                why = self.failure.message if self.failure is not None else "unknown"
                raise EngineUnavailable(f"The engine has failed: {why}")

    async def decode(self, ids: list[int]) -> str:
        """Text of token ids, special tokens left out; errors as `add`."""
        self.require_ready()
        return await self._texts.text(ids)

    async def embed(self, inputs: Sequence[Input]) -> Embedded:
        """Vectors of texts or token ids, in their order; see `Embeddings.embed`, and `add` for what is not ready."""
        return await self.embeddings.embed(inputs)

    def pump(self) -> None:
        """Let waiting sequences into the host, if there is one that takes them."""
        if self._state in ("ready", "draining") and self.info is not None:
            self.dispatcher.pump()
            if self.neighbours is not None and self._state == "ready" and self.dispatcher.has_idle_slot:
                self.neighbours.fill(self)

    def give(self, stream: RequestStream, other: Engine) -> None:
        """Hand a request that nobody has begun to another engine, whose line it joins.

        Args:
            stream: one of `dispatcher.waiting()`.
        """
        self.dispatcher.move(stream, other.dispatcher)
        stream.home = other

    def _send(self, frame: Submit | Abort) -> None:
        self._supervisor.send(frame)

    def _ask(self, question: Question) -> None:
        """Send a question, whose answer somebody awaits: one that would be dropped is refused."""
        if self._state == "closed":
            raise ShuttingDown("The engine was closed.")
        if not self._supervisor.has_host:
            raise EngineUnavailable("The engine is being restarted.", retry_after_s=self.retry_after_s())
        self._supervisor.send(question)

    # -- what a request's stream tells ----------------------------------------------------------------------------------

    def on_stream_closed(self, stream: RequestStream) -> None:
        """Its caller has left: free what it holds."""
        self.dispatcher.withdraw(stream, "abort")
        stream.leave_line(RequestAborted("The request was closed while it waited."))
        self.pump()
        self._change()

    def on_deadline(self, stream: RequestStream) -> None:
        """It took longer than it may."""
        limit = stream.request.deadline_s
        self.dispatcher.fail(
            stream, DeadlineExceeded(f"The request was not finished within its deadline of {limit:g} s.")
        )
        self.pump()
        self._change()

    def on_queue_timeout(self, stream: RequestStream) -> None:
        """It waited longer than a request may."""
        self.metrics.refused_waited += 1
        self.dispatcher.fail(
            stream,
            Overloaded(
                f"The request waited {self._queue_timeout_s:g} s without getting a slot.",
                retry_after_s=self.retry_after_s(),
            ),
        )
        self._change()

    # -- what the supervisor tells ------------------------------------------------------------------------------------

    def on_frame(self, frame: Any) -> None:
        """One frame of the host; called by the supervisor."""
        if isinstance(frame, Answer):
            self._questions.on_answer(frame)
            return
        if not isinstance(frame, Step):
            if self._texts.on_frame(frame) and self.info is not None:
                self._warm_up(self.info)
            return
        self._canary.on_step(frame.output)
        if self._warm_up_id is not None:
            for delta in frame.output.deltas:
                if delta.request_id == self._warm_up_id:
                    self._on_warm_up(delta)
        if self.dispatcher.on_step(frame.output):
            self.pump()
            self._change()

    def on_loading(self, text: str, share: float | None) -> None:
        """Progress of the host; called by the supervisor."""
        self.progress = (text, share)

    def on_ready(self, ready: Ready) -> None:
        """The model is loaded: draw one real token before saying so."""
        self.info = info = ready.info
        self.dispatcher.slots = info.max_batch
        if not self._texts.open(self.options.trust_remote_code):
            self._warm_up(info)

    def _warm_up(self, info: BackendInfo) -> None:
        if self.adapters.host_up(lambda: self._warm_up(info)):
            return
        self.progress = ("warming up", None)
        self.eos = frozenset(info.eos_token_ids) | frozenset(self.tokenizer.eos_token_ids)
        start = info.bos_token_id if info.bos_token_id is not None else min(self.eos, default=0)
        if not info.capabilities.generate:
            self._become_ready(info, start)
            return
        self._warm_up_id, self._start_token = new_request_id(), start
        sampling = TokenSampling(max_tokens=1, temperature=0.0)
        self._supervisor.send(Submit([BackendRequest(self._warm_up_id, [start], sampling)]))

    def _on_warm_up(self, delta: SequenceDelta) -> None:
        self._warm_up_id = None
        if delta.finish_reason in ("error", "abort") or not delta.token_ids:
            self._supervisor.declare_lost(error_of(delta))
        elif self.info is not None:
            self._become_ready(self.info, self._start_token)

    def _become_ready(self, info: BackendInfo, start_token: int) -> None:
        self._supervisor.mark_ready()
        self._canary.start(info, start_token)
        self.progress = ("ready", 1.0)
        if self._state not in ("draining", "closed"):
            self._set_state("ready")
        self.pump()

    def overdue(self) -> str | None:
        """Why the host should be given up though it gives signs of life; asked now and then by the supervisor."""
        work = self.dispatcher
        if work.in_host and time.monotonic() - work.last_step_at > self._step_stall_s:
            return f"The backend finished no step for {self._step_stall_s:g} s."
        return None

    def on_down(self, error: OpenLLMError, retry_in_s: float | None) -> None:
        """The host is gone: fail what it had begun, put back once what it had not."""
        self._warm_up_id = None
        self._canary.stop()
        self.adapters.host_lost()
        self._questions.fail(lambda: stopped_by(error, retry_in_s))
        self.dispatcher.host_lost(lambda: stopped_by(error, retry_in_s))
        if retry_in_s is None:
            self.failure = error
            if self._state not in ("draining", "closed"):
                self._set_state("failed")
            self._pass_on()
            self.dispatcher.fail_all(lambda: stopped_by(error, None))
        else:
            self.metrics.restarts += 1
            self.progress = ("restarting", None)
            if self._state == "ready":
                self._set_state("restarting")
            self._pass_on()
        self._change()

    def _pass_on(self) -> None:
        if self.neighbours is not None and self._state in ("restarting", "failed"):
            self.neighbours.take_over(self)

    # -- small parts --------------------------------------------------------------------------------------------------

    def _set_state(self, state: State) -> None:
        self._state = state
        self._change()

    def _is_idle(self) -> bool:
        return self._state == "ready" and not self.dispatcher.sequences and not self.embeddings.waiting

    def _change(self) -> None:
        """Wake whoever waits for the engine's state or for requests to end."""
        self._changed.set()
        self._changed = asyncio.Event()

    def _gauges(self) -> dict[str, float]:
        return {
            "requests_running": self.num_running,
            "requests_waiting": self.queue_depth,
            "slots": self.dispatcher.slots,
            "queue_limit": self.max_queue,
            "engine_ready": float(self._state == "ready"),
            "adapters_loaded": self.adapters.num_present,
            "engine_resident_memory_bytes": groups.resident_bytes(self.host_pid),
        }
