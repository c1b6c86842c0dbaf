"""TorchBackend: the `Backend` contract over a `Scheduler` that turns in a thread of its own.

The engine host calls `submit` and `abort` from its event loop: both only put a note into an inbox. The step thread reads
the inbox between two turns, so no lock is ever held over a computation; outputs come back through the loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Generic, TypeVar

import attrs
import msgspec
import torch

from openllm_core.errors import (
    AdapterIncompatible,
    EngineUnavailable,
    InvalidRequest,
    OpenLLMError,
    OutOfMemory,
    UnsupportedFeature,
)
from openllm_core.options import EngineOptions
from openllm_core.resources import detect

from .. import checkpoint as checkpoints
from .. import sentence
from ..base import (
    BackendInfo,
    BackendRequest,
    Capabilities,
    EngineStats,
    Progress,
    SequenceDelta,
    StatsClock,
    StepOutput,
    TokenGuide,
)
from ..guides import GuideCompiler, guide_refusal
from ..memory import refuse_too_large
from ..step_thread import step_thread
from . import embedding, launch, loading, tuning
from .guiding import Grammars, Matcher
from .lora import AdapterMixer
from .model import LoadedModel
from .scheduler import Limits, Scheduler

CACHE_SHARE = 0.8  # of the memory that is free once the weights are loaded
PREFILL_TOKENS = {"cpu": 512, "cuda": 8192}  # prompt tokens one step computes: bounds how long running rows wait
UNLOAD_POLL_S = 0.02  # how often it is looked whether an adapter's last sequence has ended
UNREAD_STEPS = 64  # outputs nobody has taken after which the step thread waits

T = TypeVar("T")


class TorchBackend:
    """Runs one transformers model. See `backends.base.Backend` for the contract.

    Args:
        model: loaded.
        limits: bounds of the scheduler.
        info: what the server is told.
        grammars: what guides are compiled with; None where the model takes none.
    """

    def __init__(self, model: LoadedModel, limits: Limits, info: BackendInfo, grammars: Grammars | None = None) -> None:
        self.info = info
        self._grammars = grammars
        self._guides = GuideCompiler(grammars.check) if grammars else None
        self._matching = ThreadPoolExecutor(1, "matcher")
        self._preparing: set[str] = set()  # guided requests that the step thread has not been told of
        self._preparing_lock = threading.Lock()
        self._model = model
        self._encoder = embedding.encoder_of(model)
        self._scheduler = Scheduler(model, limits)
        self._inbox: queue.SimpleQueue[BackendRequest | _Guided | str | _Call[Any] | None] = queue.SimpleQueue()
        self._outputs: deque[tuple[StepOutput, list[str]]] = deque()  # with the ids no later output can hold
        self._aborted: set[str] = set()  # ids whose deltas may still stand in `_outputs`
        self._stats_clock = StatsClock()
        self._dropped: list[str] = []  # aborts the step thread has carried out since its last output
        self._wake: asyncio.Event | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._room = threading.Semaphore(UNREAD_STEPS)
        self._failure: BaseException | None = None
        self._closed = False
        self._thread = step_thread(self._run)
        self._thread.start()

    @classmethod
    def load(cls, options: EngineOptions, progress: Progress) -> TorchBackend:
        """Load the model folder and start stepping; see `openllm.backends.torch.load` for the errors."""
        checkpoint = checkpoints.read(options.model_path, allow_pickle=options.allow_pickle_weights)
        refuse_too_large(launch.estimate(options), checkpoint.name)
        device = loading.choose_device(options)
        choice = tuning.choose(options, checkpoint, device, progress)
        torch.set_num_threads(choice.threads)
        model = loading.load(options, checkpoint, choice, device, progress)
        choice = tuning.confirm(options, checkpoint, choice, model)
        limits, info = describe(model, options, checkpoint, choice)
        progress("ready", 1.0)
        return cls(model, limits, info, grammars_of(model, options, checkpoint))

    # -- the contract ------------------------------------------------------------------------------------------------

    def submit(self, request: BackendRequest) -> None:
        """Queue a sequence; it joins at the next step."""
        if request.sampling.guide is None:
            self._inbox.put(request)
        else:  # its grammar may not be compiled any more: in a thread, so that nobody waits for it
            self._preparing.add(request.request_id)
            self._matching.submit(self._prepare, request)

    def abort(self, request_id: str) -> None:
        """Drop a sequence; no delta of it is sent from here on."""
        self._aborted.add(request_id)
        with self._preparing_lock:  # either the sequence is never queued, or this stands behind it
            self._preparing.discard(request_id)
            self._inbox.put(request_id)

    async def steps(self) -> AsyncIterator[StepOutput]:
        """One item per step. Only one consumer at a time.

        Raises:
            EngineUnavailable: the step thread died.
        """
        self._wake = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        while True:
            while self._outputs:
                output, dropped = self._outputs.popleft()
                self._room.release()
                output = self._without_aborted(output)
                self._aborted.difference_update(dropped)
                yield output
            self._raise_failure()
            if self._closed:
                return
            await self._wake.wait()
            self._wake.clear()

    async def embed(self, batch: Sequence[Sequence[int]]) -> list[list[float]]:
        """[n][seq_len] token ids -> [n][hidden] float32, mean-pooled and L2-normalised.

        Running sequences take a step between two groups of texts.

        Raises:
            UnsupportedFeature: the model has none of its own.
            InvalidRequest: an empty text, one that is too long, or an id outside the vocabulary.
        """
        for ids in batch:
            if not 0 < len(ids) <= self.info.max_prompt_len:
                raise InvalidRequest(f"A text has {len(ids)} tokens; 1 to {self.info.max_prompt_len} fit.")
            if not all(0 <= token < self._model.vocab_size for token in ids):
                raise InvalidRequest("A token id is not in the vocabulary.")
        encoder = self._encoder
        if encoder is None:
            raise UnsupportedFeature("This model has no embeddings of its own.", param="model")
        found: list[list[float]] = [[] for _ in batch]
        for places in encoder.groups([len(ids) for ids in batch]):
            texts = [list(batch[place]) for place in places]
            vectors = await self._between_steps(lambda texts=texts: encoder.vectors(texts))
            for place, vector in zip(places, vectors, strict=True):
                found[place] = vector
        return found

    async def load_adapter(self, name: str, path: str) -> None:
        """Make the adapter in the folder `path` usable under `name`; reading it holds nobody up.

        Raises:
            UnsupportedFeature: the engine was started without adapters.
            AdapterIncompatible: it is broken, or does not fit this model.
        """
        mixer = self._mixer()
        try:
            adapter = await asyncio.to_thread(mixer.read, name, path)
            await self._between_steps(lambda: mixer.add(name, adapter))
        except OpenLLMError:
            raise
        except Exception as error:  # a framework's own: also a device without room for it
            why = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise AdapterIncompatible(f"The adapter does not load: {why[:500]}", param="adapter_name") from error

    async def unload_adapter(self, name: str) -> None:
        """Forget an adapter; sequences that use it finish first."""
        mixer = self._mixer()

        def removed() -> bool:
            if self._scheduler.uses(name):
                return False
            mixer.remove(name)
            return True

        while not await self._between_steps(removed):
            await asyncio.sleep(UNLOAD_POLL_S)

    def _mixer(self) -> AdapterMixer:
        if self._model.adapters is None:
            raise UnsupportedFeature("This engine was started without adapters.", hint="--max-adapters 4")
        return self._model.adapters

    async def _between_steps(self, function: Callable[[], T]) -> T:
        """Run something in the step thread, while no step computes."""
        call = _Call(function, asyncio.get_running_loop())
        self._inbox.put(call)
        return await call.result

    async def check_guide(self, guide: TokenGuide) -> None:
        """Compile it, so that the request that comes with it finds it compiled.

        Raises:
            InvalidRequest: it cannot be compiled, or not in time.
            UnsupportedFeature: this model cannot be guided.
            Overloaded: too many others are being compiled.
        """
        if self._guides is None:
            raise _no_guides(guide)
        await self._guides.check(guide)

    def _prepare(self, request: BackendRequest) -> None:
        """Compile a request's guide and queue the two together; in a thread."""
        guide = request.sampling.guide
        assert guide is not None
        try:
            if self._grammars is None:
                raise _no_guides(guide)
            note = _Guided(request, self._grammars.matcher(guide, request.sampling.stop_token_ids))
        except Exception as error:  # what raises here would leave its caller waiting for ever
            known = error if isinstance(error, OpenLLMError) else guide_refusal(error, guide)
            note = _Guided(request, known)
        with self._preparing_lock:
            if request.request_id in self._preparing:
                self._preparing.discard(request.request_id)
                self._inbox.put(note)

    async def check_health(self) -> None:
        """Raises EngineUnavailable when the step thread is gone."""
        self._raise_failure()
        if self._closed or not self._thread.is_alive():
            raise EngineUnavailable("The step thread has ended.")

    async def aclose(self) -> None:
        """Stop after the running step and free the model."""
        await asyncio.to_thread(self.close)
        self._signal()

    def close(self) -> None:
        """The same without an event loop."""
        self._closed = True
        self._matching.shutdown(wait=False, cancel_futures=True)
        if self._guides is not None:
            self._guides.close()
        self._inbox.put(None)
        self._room.release(UNREAD_STEPS)
        self._thread.join()
        self._scheduler.release()

    # -- the step thread ---------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while self._turn():
                pass
        except BaseException as error:
            self._failure = error
            self._signal()

    def _turn(self) -> bool:
        """Read the inbox, take one step; False when closed."""
        refused: list[SequenceDelta] = []
        block = self._scheduler.idle
        while True:
            try:
                note = self._inbox.get(block=block)
            except queue.Empty:
                break
            block = False
            if note is None:
                return False
            if isinstance(note, str):
                self._scheduler.abort(note)
                self._dropped.append(note)
            elif isinstance(note, _Call):
                note.run()
            elif delta := self._added(note):
                refused.append(delta)
        if not self._scheduler.idle or refused:
            output = self._scheduler.step()
            deltas = [*refused, *output.deltas]
            stats = EngineStats(kv_cache_usage=self._scheduler.cache_usage) if self._stats_clock.due(deltas) else None
            self._emit(msgspec.structs.replace(output, deltas=deltas, stats=stats))
        return not self._closed

    def _added(self, note: BackendRequest | _Guided) -> SequenceDelta | None:
        """Hand a request to the scheduler; a delta with the error when it can never run."""
        if isinstance(note, BackendRequest):
            return self._scheduler.add(note)
        if isinstance(note.matcher, OpenLLMError):
            return SequenceDelta(note.request.request_id, [], "error", None, note.matcher.as_dict())
        return self._scheduler.add(note.request, note.matcher)

    def _emit(self, output: StepOutput) -> None:
        self._room.acquire()
        dropped, self._dropped = self._dropped, []
        self._outputs.append((output, dropped))
        self._signal()

    def _signal(self) -> None:
        if self._loop is not None and self._wake is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody reads any more
                self._loop.call_soon_threadsafe(self._wake.set)

    def _without_aborted(self, output: StepOutput) -> StepOutput:
        if not self._aborted:
            return output
        deltas = [delta for delta in output.deltas if delta.request_id not in self._aborted]
        return msgspec.structs.replace(output, deltas=deltas)

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise EngineUnavailable(f"The step thread failed: {self._failure!r}"[:400]) from self._failure


@attrs.frozen
class _Guided:
    """A request with a guide, and what holds it to that, or why nothing can."""

    request: BackendRequest
    matcher: Matcher | OpenLLMError


class _Call(Generic[T]):
    """Something to do between two steps; its result goes back to the caller's loop."""

    def __init__(self, function: Callable[[], T], loop: asyncio.AbstractEventLoop) -> None:
        self._function, self._loop = function, loop
        self.result: asyncio.Future[T] = loop.create_future()

    def run(self) -> None:
        """Compute in the step thread."""
        try:
            found = self._function()
        except Exception as error:
            self._loop.call_soon_threadsafe(self._settle, self.result.set_exception, error)
        else:
            self._loop.call_soon_threadsafe(self._settle, self.result.set_result, found)

    def _settle(self, settle: Callable[[Any], None], value: Any) -> None:
        if not self.result.done():
            settle(value)


def describe(
    model: LoadedModel, options: EngineOptions, checkpoint: checkpoints.Checkpoint, choice: tuning.Choice
) -> tuple[Limits, BackendInfo]:
    """Bounds and facts of a model that was just loaded.

    Raises:
        OutOfMemory: not even a short sequence fits beside the weights.
    """
    positions = checkpoint.max_positions
    max_len = min(options.max_model_len or positions or launch.UNBOUNDED_CONTEXT, positions or 1 << 30)
    max_rows = options.max_num_seqs or launch.MAX_ROWS
    bytes_per_token = max(1, checkpoint.kv_elements_per_token * model.dtype.itemsize)
    weight_bytes = max(1, checkpoint.weight_bytes)
    if model.device.type == "cuda":
        free = torch.cuda.mem_get_info(model.device)[0]
    else:
        free = detect.machine(probe=tuple).memory_available_bytes
    cache_bytes = int(free * CACHE_SHARE) // options.sharing_engines
    if cache_bytes < bytes_per_token * min(max_len, 64):
        raise OutOfMemory(
            f"{bytes_per_token * min(max_len, 64):,} bytes of cache are needed beside the weights; {cache_bytes:,} are free."
        )
    limits = Limits(
        max_rows=max_rows,
        max_len=max_len,
        max_prompt_len=max_len if model.seq2seq else max_len - 1,
        prefill_tokens=launch.engine_arguments(options).prefill_tokens or PREFILL_TOKENS[model.device.type],
        cache_bytes=cache_bytes,
        bytes_per_token=bytes_per_token,
        lane_cost=max(256, weight_bytes // bytes_per_token),
    )
    info = BackendInfo(
        backend="pt",
        capabilities=Capabilities(
            embed=embedding.encoder_of(model) is not None,
            adapters=model.adapters is not None,
            seq2seq=model.seq2seq,
            structured=not model.seq2seq,
        ),
        max_model_len=max_len,
        max_prompt_len=limits.max_prompt_len,
        max_batch=max_rows,
        vocab_size=model.vocab_size,
        eos_token_ids=checkpoints.eos_token_ids(checkpoint),
        bos_token_id=checkpoints.bos_token_id(checkpoint),
        device=str(model.device),
        dtype=str(model.dtype).removeprefix("torch."),
        architecture=checkpoint.architecture,
        decisions=(*choice.decisions, *sentence.describe_own(checkpoint)[1]),
        memory_bytes=loading.resident_bytes(model.device),
    )
    return limits, info


def grammars_of(model: LoadedModel, options: EngineOptions, checkpoint: checkpoints.Checkpoint) -> Grammars | None:
    """What guides of this model are compiled with. A decoder that reads what an encoder made is not guided: vocabularies
    of such models lack what JSON is written with."""
    if model.seq2seq:
        return None
    ends = checkpoints.eos_token_ids(checkpoint)
    return Grammars(checkpoint.path, model.vocab_size, ends, trust_remote_code=options.trust_remote_code)


def _no_guides(guide: TokenGuide) -> UnsupportedFeature:
    return UnsupportedFeature(f"{guide.param}: answers of this model cannot be guided.", param=guide.param)
