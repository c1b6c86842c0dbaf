"""VllmBackend: the `Backend` contract over vLLM's engine core, one `StepOutput` for each of its steps.

Only the engine host uses it. What it uses of vLLM beyond its public names (the engine core and the input processor)
stands in this package alone, and the extras pin the versions it was tested with.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import os
import time
from collections import deque
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import attrs
import msgspec
from torch._inductor import config as inductor
from vllm.config import VllmConfig
from vllm.lora.request import LoRARequest
from vllm.model_executor.models import ModelRegistry
from vllm.usage.usage_lib import UsageContext
from vllm.v1.engine import EngineCoreOutput, EngineCoreOutputs, EngineCoreRequest
from vllm.v1.engine.input_processor import InputProcessor

from openllm_core.errors import (
    AdapterIncompatible,
    AdapterNotFound,
    EngineUnavailable,
    OpenLLMError,
    UnsupportedFeature,
)
from openllm_core.options import EngineOptions
from openllm_core.resources import detect

from .. import adapter as adapters
from .. import checkpoint as checkpoints
from ..base import (
    BackendInfo,
    BackendRequest,
    Capabilities,
    Progress,
    SequenceDelta,
    StatsClock,
    StepOutput,
    TokenGuide,
    TokenSampling,
)
from ..failed_step import as_engine_error
from ..guides import GuideCompiler, guide_refusal
from . import guards, launch, plan, threads
from . import lora as mixed_lora
from .arguments import SPARE_LORA_SLOTS, engine_arguments
from .core import Core
from .failure import Output, explain
from .outputs import CoreCounts, delta_of
from .sampling import core_request

log = logging.getLogger("openllm.backends.vllm")

CHECKED = "guide"  # name of a request that is made for its grammar and never run
STEP_STALL_S = 60.0
"""A step of the core, or the loading of an adapter, that lasts longer stands still. Not the first step, in which what was left
uncompiled may be compiled."""
SLOWEST_FLOPS = 3e10  # operations a second of the slowest CPU whose steps are waited for
UNLOAD_POLL_S = 0.02  # how often it is looked whether an adapter's last sequence has ended


@attrs.frozen(kw_only=True)
class AdapterRoom:
    """What one engine takes of adapters.

    Attributes:
        base: the model they must fit.
        most: that may be loaded at once.
        max_rank: the highest.
    """

    base: checkpoints.Checkpoint
    most: int
    max_rank: int


class VllmBackend:
    """Runs one model in vLLM's engine core. See `backends.base.Backend` for the contract.

    Args:
        core: loaded, not yet turning.
        processor: makes the core's requests.
        info: what the server is told.
        output: what workers in processes of their own print; None where there are none.
        room: for adapters; None where the engine was started without.
        stall_s: a step that takes longer is taken for one that never ends.
    """

    def __init__(
        self,
        core: Core,
        processor: InputProcessor,
        info: BackendInfo,
        output: Output | None,
        room: AdapterRoom | None,
        stall_s: float = STEP_STALL_S,
    ) -> None:
        self.info = info
        self.stall_s = stall_s
        self._room = room
        self._core = core
        self._processor = processor
        self._output = output
        self._live: dict[str, str | None] = {}  # ids whose deltas somebody waits for, and the adapter of each
        self._steps: deque[StepOutput] = deque()
        self._wake: asyncio.Event | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._adapters: dict[str, LoRARequest] = {}
        self._adapter_ids = itertools.count(1)  # one is never used twice: vLLM keeps prefixes apart by name and id
        self._grammars = ThreadPoolExecutor(1, "grammar")
        self._guides = GuideCompiler(self._compile_guide)
        self._failure: EngineUnavailable | None = None
        self._closed = False
        self._counts = CoreCounts()
        self._stats_clock = StatsClock()
        core.start(self._on_outputs, self._on_failed, self._on_end)

    @classmethod
    def load(cls, options: EngineOptions, progress: Progress) -> VllmBackend:
        """Load the model; see `openllm.backends.vllm.load` for the errors."""
        checkpoint = checkpoints.read(options.model_path, allow_pickle=options.allow_pickle_weights)
        checkpoints.refuse_untrusted_code(checkpoint, options.trust_remote_code)
        machine = detect.machine()
        launch.check_here(options, checkpoint.architecture, machine)
        made = plan.make(options, checkpoint, machine)
        arguments = engine_arguments(options, made)
        output = Output() if made.ranks > 1 else None
        began = time.monotonic()
        progress("loading the model" if made.eager else "loading and compiling the model", None)
        try:
            guards.use()
            if made.device == "cpu":
                inspect_here(checkpoint.architecture)
                mixed_lora.use()
                compile_in_parallel()
            config = arguments.create_engine_config(UsageContext.ENGINE_CONTEXT)
            core = Core(config)
            processor = InputProcessor(config)
        except Exception as error:
            raise explain(error, list(output.lines) if output else []) from error
        info = describe(config, checkpoint, made, time.monotonic() - began)
        progress("ready", 1.0)
        room = room_for_adapters(config, checkpoint, made)
        return cls(core, processor, info, output, room, stall_after_s(made))

    # -- the contract ------------------------------------------------------------------------------------------------

    def submit(self, request: BackendRequest) -> None:
        """Queue a sequence; it joins at the next step."""
        self._live[request.request_id] = request.adapter
        if request.sampling.guide is None:
            self._add(request)
        else:  # a schema may take long to check: in a thread, so that nobody waits for it
            self._grammars.submit(self._add, request)

    def abort(self, request_id: str) -> None:
        """Drop a sequence; no delta of it is sent from here on."""
        if request_id in self._live:
            self._live.pop(request_id)
            self._core.abort([request_id])

    async def steps(self) -> AsyncIterator[StepOutput]:
        """One item per step of the core that brought anything. Only one consumer at a time.

        Raises:
            EngineUnavailable: the core died; the message is its root cause.
        """
        self._wake = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        while True:
            while self._steps:
                if output := self._without_aborted(self._steps.popleft()):
                    yield output
            if self._failure is not None:
                raise self._failure
            if self._closed:
                return
            await self._wake.wait()
            self._wake.clear()

    async def embed(self, batch: Sequence[Sequence[int]]) -> list[list[float]]:
        """vLLM generates or embeds, not both in one engine."""
        raise UnsupportedFeature("The vllm backend makes no embeddings.", hint="Use --backend pt.", param="model")

    async def load_adapter(self, name: str, path: str) -> None:
        """Make the adapter in the folder `path` usable under `name`.

        Raises:
            UnsupportedFeature: the engine was started without adapters, or holds as many as it takes.
            AdapterIncompatible: it is broken, or does not fit this model.
        """
        if self._room is None:
            raise UnsupportedFeature("This engine was started without adapters.", hint="--max-adapters 4")
        if name not in self._adapters and len(self._adapters) >= self._room.most:
            raise UnsupportedFeature(
                f"{self._room.most} adapters are loaded, the most this engine takes.",
                hint=f"--max-adapters {self._room.most + 1}",
                param="adapter_name",
            )
        # vLLM itself copies what fits of a matrix of another size, and is silent about the rest
        adapters.check_fits(adapters.read(path), self._room.base, self._room.max_rank)
        request = LoRARequest(name, next(self._adapter_ids), path)
        try:
            await asyncio.to_thread(self._core.add_lora, request)
        except Exception as error:
            why = explain(error, []).message
            raise AdapterIncompatible(f"vLLM does not take this adapter: {why}", param="adapter_name") from error
        self._adapters[name] = request

    async def unload_adapter(self, name: str) -> None:
        """Forget an adapter; sequences that use it finish first."""
        request = self._adapters.pop(name, None)
        if request is not None:
            while name in self._live.values():  # taken away sooner, vLLM would read its files again at the next step
                await asyncio.sleep(UNLOAD_POLL_S)
            await asyncio.to_thread(self._core.remove_lora, request.lora_int_id)

    async def check_guide(self, guide: TokenGuide) -> None:
        """Compile it, so that the request that comes with it finds it compiled.

        Raises:
            InvalidRequest: it cannot be compiled, or not in time.
            Overloaded: too many others are being compiled.
        """
        await self._guides.check(guide)

    async def check_health(self) -> None:
        """Raises EngineUnavailable when the core turns no more, or stands still within a step or over an adapter."""
        if self._failure is not None:
            raise self._failure
        if self._closed or not self._core.alive:
            raise EngineUnavailable("vLLM's engine core has ended.")
        if self._core.busy_s > self.stall_s:
            raise EngineUnavailable(f"vLLM's engine core has stood still for {self._core.busy_s:.0f} s.")

    async def aclose(self) -> None:
        """Stop after the running step and free the model."""
        if self._closed:
            return
        self._closed = True
        self._grammars.shutdown(wait=False, cancel_futures=True)
        self._guides.close()
        await asyncio.to_thread(self._core.close)
        self._signal()

    # -- to the core -------------------------------------------------------------------------------------------------

    def _add(self, request: BackendRequest) -> None:
        try:
            made = self._made(request)
        except OpenLLMError as error:
            refused = SequenceDelta(request.request_id, [], "error", error=error.as_dict())
            self._steps.append(StepOutput([refused]))
            self._signal()
        else:
            self._core.add(made)
            if request.request_id not in self._live:  # aborted while its grammar was being checked
                self._core.abort([request.request_id])

    def _made(self, request: BackendRequest) -> EngineCoreRequest:
        return core_request(self._processor, request, self.info.eos_token_ids, self._lora_of(request))

    def _compile_guide(self, guide: TokenGuide) -> None:
        request = self._made(BackendRequest(CHECKED, [0], TokenSampling(max_tokens=1, guide=guide)))
        try:
            self._core.compile(request)
        except Exception as error:
            raise guide_refusal(error, guide) from error

    def _lora_of(self, request: BackendRequest) -> LoRARequest | None:
        if request.adapter is None:
            return None
        found = self._adapters.get(request.adapter)
        if found is None:
            raise AdapterNotFound(f"There is no adapter {request.adapter[:96]!r}.", param="adapter_name")
        return found

    # -- from the core (its thread) ----------------------------------------------------------------------------------

    def _on_outputs(self, outputs: EngineCoreOutputs, took_s: float, idle: bool) -> None:
        deltas = [delta_of(output) for output in outputs.outputs if _says_something(output)]
        if spoilt := [output.request_id for output in outputs.outputs if output.num_nans_in_logits]:
            self._core.abort(spoilt)  # it would go on with them
        self._counts.add(outputs)
        stats = outputs.scheduler_stats
        running, waiting = (stats.num_running_reqs, stats.num_waiting_reqs) if stats else (len(deltas), 0)
        told = self._counts.as_stats() if self._stats_clock.due(deltas) or idle else None
        if deltas or told is not None:
            self._steps.append(StepOutput(deltas, running, waiting, took_s, told))
            self._signal()

    def _on_failed(self, request_id: str, error: Exception) -> None:
        log.error("request %s could not be computed", request_id, exc_info=error)
        told = as_engine_error(error)
        self._steps.append(StepOutput([SequenceDelta(request_id, [], "error", error=told.as_dict())]))
        self._signal()

    def _on_end(self, error: BaseException | None) -> None:
        if error is not None:
            found = explain(error, list(self._output.lines) if self._output else [])
            self._failure = EngineUnavailable(f"vLLM's engine core ended: {found.message}", hint=found.hint)
        self._signal()

    def _signal(self) -> None:
        if self._loop is not None and self._wake is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody reads any more
                self._loop.call_soon_threadsafe(self._wake.set)

    def _without_aborted(self, output: StepOutput) -> StepOutput | None:
        """What of a step somebody still waits for; None when nothing."""
        live = self._live
        deltas = [delta for delta in output.deltas if delta.request_id in live]
        for delta in deltas:
            if delta.finish_reason is not None:
                live.pop(delta.request_id, None)
        if len(deltas) == len(output.deltas):
            return output
        return msgspec.structs.replace(output, deltas=deltas) if deltas or output.stats else None


def _says_something(output: EngineCoreOutput) -> bool:
    return bool(output.new_token_ids) or output.finish_reason is not None


def inspect_here(architecture: str) -> None:
    """Let vLLM look at a model's class in this process.

    It would start another Python, and import itself there, so as not to touch a GPU before workers are forked; without a GPU
    that only costs seconds of each first start.
    """
    found = ModelRegistry.models.get(architecture)
    if found is not None:
        ModelRegistry.register_model(architecture, found.load_model_cls())


def compile_in_parallel() -> None:
    """Let the C++ compiler work on as many files at once as there are cores, where vLLM would have it one by one."""
    inductor.compile_threads = len(os.sched_getaffinity(0))


def room_for_adapters(config: VllmConfig, checkpoint: checkpoints.Checkpoint, made: plan.Plan) -> AdapterRoom | None:
    """What an engine that was just loaded takes of adapters."""
    lora = config.lora_config
    if lora is None:
        return None
    most = lora.max_loras - (SPARE_LORA_SLOTS if made.device == "cpu" else 0)
    return AdapterRoom(base=checkpoint, most=most, max_rank=lora.max_lora_rank)


def stall_after_s(made: plan.Plan) -> float:
    """Seconds after which a step has stalled: on a CPU, where one of a large model takes long, as many as the slowest needs.

    Each of a step's tokens takes two operations for each weight, which has two bytes or more.
    """
    return max(STEP_STALL_S, made.weight_bytes * (made.step_tokens or 0) / SLOWEST_FLOPS)


def describe(config: VllmConfig, checkpoint: checkpoints.Checkpoint, made: plan.Plan, load_s: float) -> BackendInfo:
    """Facts of an engine that was just loaded."""
    model, cache = config.model_config, config.cache_config
    tokens = (cache.num_gpu_blocks or 0) * (cache.block_size or 0)
    decisions = [*made.decisions, f"engine: loaded in {load_s:.0f} s ({tokens:,} tokens of cache)"]
    if made.device == "cpu":
        decisions.insert(0, threads.describe(os.environ))
    return BackendInfo(
        backend="vllm",
        capabilities=Capabilities(adapters=config.lora_config is not None, structured=True),
        max_model_len=model.max_model_len,
        max_prompt_len=model.max_model_len - 1,
        max_batch=config.scheduler_config.max_num_seqs,
        vocab_size=model.get_vocab_size(),
        eos_token_ids=checkpoints.eos_token_ids(checkpoint),
        bos_token_id=checkpoints.bos_token_id(checkpoint),
        device=made.device,
        dtype=str(model.dtype).removeprefix("torch."),
        architecture=checkpoint.architecture,
        decisions=tuple(decisions),
        memory_bytes=made.weight_bytes + made.cache_bytes + made.runtime_bytes,
    )
