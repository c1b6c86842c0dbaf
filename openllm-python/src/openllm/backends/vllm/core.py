"""Core: vLLM's engine core, turned in a thread of this process; requests go in, one list of outputs per step comes out.

vLLM's own server runs the core in a process of its own, and on a CPU the worker in a third: each imports vllm anew, and
every token is packed and unpacked twice on its way. The engine host is a process of its own already. Called by `backend`;
it knows of vLLM's requests and outputs, not of ours.
"""

from __future__ import annotations

import gc
import queue
import threading
import time
from collections.abc import Callable

from vllm.config import VllmConfig
from vllm.lora.request import LoRARequest
from vllm.v1.engine import EngineCoreOutputs, EngineCoreRequest
from vllm.v1.engine.core import EngineCore
from vllm.v1.executor import Executor
from vllm.v1.structured_output.request import get_structured_output_key

from ..step_thread import step_thread
from .quarantine import Quarantine

NOTHING_RAN_S = 0.001  # pause after a step in which no sequence could run: a grammar is still being compiled

OnOutputs = Callable[[EngineCoreOutputs, float, bool], None]
"""Gets each step's outputs, the seconds it took and whether nothing is left to run, in the core's thread. A step that only reads a
part of a prompt has no output of a sequence, but counts of its own, which vLLM tells once."""
OnFailed = Callable[[str, Exception], None]
"""Gets the id of a sequence that could not be begun or computed, and why, in the core's thread; the others go on."""
OnEnd = Callable[[BaseException | None], None]
"""Called once, in the core's thread: None after `close`, else what ended it."""


class Core:
    """One engine core and its thread.

    Args:
        config: of the engine. Making a Core loads the model and takes as long as that.
    """

    def __init__(self, config: VllmConfig) -> None:
        self._engine = EngineCore(config, Executor.get_class(config), log_stats=True)
        self._quarantine = Quarantine(self._engine)
        self._inbox: queue.SimpleQueue[EngineCoreRequest | list[str] | _Call | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._busy_since: float | None = None
        self._num_steps = 0
        self._on_failed: OnFailed = lambda request_id, error: None
        gc.collect()
        gc.freeze()  # what loading made stays; looking through it again at every collection costs steps

    def start(self, on_outputs: OnOutputs, on_failed: OnFailed, on_end: OnEnd) -> None:
        """Begin to turn."""
        self._on_failed = on_failed
        self._thread = step_thread(self._run, on_outputs, on_end)
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether the thread turns."""
        return self._thread is not None and self._thread.is_alive()

    @property
    def busy_s(self) -> float:
        """Seconds that the present step or call has taken so far; 0.0 between two, and in the first step, which may still compile."""
        began = self._busy_since
        return 0.0 if began is None else time.monotonic() - began

    def add(self, request: EngineCoreRequest) -> None:
        """Queue a sequence; it joins at the next step."""
        self._inbox.put(request)

    def abort(self, request_ids: list[str]) -> None:
        """Drop sequences between two steps; ids that are unknown are ignored."""
        self._inbox.put(request_ids)

    def call(self, function: Callable[[EngineCore], object]) -> None:
        """Run something between two steps and wait for it; raises what it raises. Not from the core's own thread."""
        call = _Call(function)
        self._inbox.put(call)
        call.done.wait()
        if call.error is not None:
            raise call.error

    def compile(self, request: EngineCoreRequest) -> None:
        """Compile a request's grammar in the calling thread, without the request; raises what the compiler raises.

        vLLM allows this while the core turns, and finds the grammar compiled when the request comes. Its own threads for that
        are few, and one that never ends would keep every later grammar waiting.
        """
        params = request.sampling_params
        if params is None or params.structured_outputs is None:
            raise TypeError("the request has no grammar")
        grammars = self._engine.structured_output_manager
        if grammars.backend is None:  # vLLM makes it with the first request that needs it
            self._engine.preprocess_add_request(request)
        if grammars.backend is not None:
            grammars.backend.compile_grammar(*get_structured_output_key(params.structured_outputs))

    def add_lora(self, request: LoRARequest) -> None:
        """Load an adapter."""
        self.call(lambda engine: engine.add_lora(request))

    def remove_lora(self, lora_id: int) -> None:
        """Unload an adapter."""
        self.call(lambda engine: engine.remove_lora(lora_id))

    def close(self) -> None:
        """Stop after the running step and free the model."""
        self._inbox.put(None)
        if self._thread is not None:
            self._thread.join()
        self._engine.shutdown()

    def _run(self, on_outputs: OnOutputs, on_end: OnEnd) -> None:
        error: BaseException | None = None
        try:
            while self._take_notes():
                began = time.monotonic()
                self._busy_since = began if self._num_steps else None
                outputs, ran = self._step()
                self._busy_since = None
                self._num_steps += 1
                found = outputs.get(0) if outputs else None
                idle = not self._engine.scheduler.has_requests()
                if found is not None:
                    on_outputs(found, time.monotonic() - began, idle)
                if not ran and (found is None or not (found.outputs or idle)):
                    time.sleep(NOTHING_RAN_S)
        except BaseException as raised:
            error = raised
        on_end(error)

    def _step(self) -> tuple[dict[int, EngineCoreOutputs] | None, bool]:
        """One step; where it raises, those of its sequences that are known to be to blame end."""
        try:
            outputs, ran = self._engine.step_fn()
            self._engine.post_step(model_executed=ran)
        except Exception as error:
            for request_id, own in self._quarantine.failed(error).items():
                self._on_failed(request_id, own)
            return None, True
        self._quarantine.advance()
        return outputs, ran

    def _take_notes(self) -> bool:
        """Do what stands in the inbox; wait there while no sequence runs. False when closed."""
        engine = self._engine
        while True:
            try:
                note = self._inbox.get(block=not (engine.scheduler.has_requests() or self._quarantine.active))
            except queue.Empty:
                return True
            if note is None:
                return False
            if isinstance(note, EngineCoreRequest):
                self._begin(note)
            elif isinstance(note, _Call):
                self._busy_since = time.monotonic()
                note.run(engine)
                self._busy_since = None
            else:
                engine.abort_requests(note)

    def _begin(self, request: EngineCoreRequest) -> None:
        engine = self._engine
        try:
            engine.add_request(*engine.preprocess_add_request(request))
            self._quarantine.hold_newcomers()
        except Exception as error:
            engine.abort_requests([request.request_id])
            self._on_failed(request.request_id, error)


class _Call:
    def __init__(self, function: Callable[[EngineCore], object]) -> None:
        self.function = function
        self.done = threading.Event()
        self.error: Exception | None = None

    def run(self, engine: EngineCore) -> None:
        try:
            self.function(engine)
        except Exception as error:
            self.error = error
        finally:
            self.done.set()
