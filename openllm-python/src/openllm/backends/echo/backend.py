"""The echo backend's engine: continuous batching over `EchoSequence`s, with the pace and the faults of its script."""

from __future__ import annotations

import asyncio
import logging
import math
import os
import sys
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

from openllm_core.errors import (
    EngineError,
    EngineUnavailable,
    InvalidRequest,
    NonFiniteLogits,
    OpenLLMError,
    OutOfMemoryInStep,
    UnsupportedFeature,
)
from openllm_core.options import EngineOptions

from .. import adapter as adapters
from .. import arguments
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
from . import forms
from .faults import FAULTS, crash, spin, start_family
from .model import BOS, EOS, TURN_START, VOCAB_SIZE, EchoSequence
from .script import Script

log = logging.getLogger("openllm.backends.echo")


class EchoBackend:
    """Runs up to `max_batch` sequences, one token each per step; the rest wait in order."""

    def __init__(self, options: EngineOptions, script: Script) -> None:
        self.script = script
        length = options.max_model_len or script.max_model_len
        self.info = BackendInfo(
            backend="echo",
            capabilities=Capabilities(
                embed=script.embed > 0,
                logprobs=script.logprobs,
                structured=script.guides,
                adapters=options.max_adapters > 0,
            ),
            max_model_len=length,
            max_prompt_len=length - 1,
            max_batch=options.max_num_seqs or script.max_num_seqs,
            vocab_size=VOCAB_SIZE,
            eos_token_ids=(EOS,),
            bos_token_id=BOS,
            architecture="Echo",
            dtype="bytes",
            decisions=("echo: answers every prompt with itself",),
        )
        self._reply = None if script.reply is None else list(script.reply.encode())
        self._call = None if script.call is None else forms.parse_call(script.call)
        self._when = script.when.encode()
        self._adapters: dict[str, bytes] = {}
        self._waiting: dict[str, BackendRequest] = {}
        self._running: dict[str, EchoSequence] = {}
        self._wake = asyncio.Event()
        self._closed = False
        self._hung = False
        self._stats_clock = StatsClock()

    @classmethod
    def load(cls, options: EngineOptions, progress: Progress) -> EchoBackend:
        """Build from options, taking `load_s` seconds and failing if the script says so."""
        script = arguments.read(Script, options.engine_arg, "echo")
        started = time.monotonic()
        progress("loading echo", 0.0)
        while (passed := time.monotonic() - started) < script.load_s:
            time.sleep(min(0.05, script.load_s - passed))
            progress("loading echo", min(1.0, passed / script.load_s))
        if script.family:
            start_family(script.family, stray=script.stray)
        if script.break_load is not None:
            FAULTS[script.break_load]()
        if script.crash_load is not None:
            print("RuntimeError: the scripted crash while loading", file=sys.stderr, flush=True)
            os._exit(script.crash_load)
        if script.fail_load is not None:
            raise EngineError(script.fail_load, hint="This failure was scripted by --engine-arg fail_load.")
        progress("loaded echo", 1.0)
        return cls(options, script)

    def submit(self, request: BackendRequest) -> None:
        """Queue a sequence for the next step."""
        self._waiting[request.request_id] = request
        self._wake.set()

    def abort(self, request_id: str) -> None:
        """Forget a sequence, running or waiting."""
        self._waiting.pop(request_id, None)
        self._running.pop(request_id, None)

    async def steps(self) -> AsyncIterator[StepOutput]:
        """One item per step; waits while nothing runs; ends on `aclose`."""
        script = self.script
        while not self._closed:
            if not self._running and not self._waiting:
                self._wake.clear()
                await self._wake.wait()
                continue
            started = time.perf_counter()
            joined = self._join()
            pause = script.step_s + (script.prefill_s if joined else 0.0)
            await asyncio.sleep(pause)
            if self._closed:
                break
            deltas = self._step()
            if self._hung:
                await asyncio.Event().wait()
            if deltas:
                stats = self._stats() if self._stats_clock.due(deltas) else None
                yield StepOutput(deltas, len(self._running), len(self._waiting), time.perf_counter() - started, stats)

    def _stats(self) -> EngineStats:
        """Each sequence is held to take the same part of a cache."""
        return EngineStats(kv_cache_usage=min(1.0, len(self._running) / self.info.max_batch))

    def _step(self) -> list[SequenceDelta]:
        """One delta of each sequence that runs. One that raises fails alone; where memory runs out, the newest does."""
        deltas: list[SequenceDelta] = []
        if starved := next((one for one in self._running.values() if self._starves(one)), None):
            starved.relieved = True
            newest = next(reversed(self._running))
            error = OutOfMemoryInStep("Memory ran out while this request was computed.", retry_after_s=1.0)
            deltas.append(self._failed(newest, error))
        for request_id, sequence in list(self._running.items()):
            try:
                deltas.append(self._advance(sequence))
            except Exception:
                log.exception("request %s failed in a step", request_id)
                error = EngineError("The model could not compute this request; the log of the server names the cause.")
                deltas.append(self._failed(request_id, error))
        return deltas

    def _starves(self, sequence: EchoSequence) -> bool:
        return sequence.faulty and not sequence.relieved and self.script.memory_at == len(sequence.output) + 1

    def _failed(self, request_id: str, error: OpenLLMError) -> SequenceDelta:
        del self._running[request_id]
        return SequenceDelta(request_id, [], "error", None, error.as_dict())

    def _join(self) -> bool:
        room = self.info.max_batch - len(self._running)
        joining = list(self._waiting)[:room]
        for request_id in joining:
            self._running[request_id] = sequence = EchoSequence(
                (queued := self._waiting.pop(request_id)), self._reply_to(queued), self.script.peak
            )
            prompt = sequence.request.prompt_token_ids
            sequence.unknown_token = any(not 0 <= token < VOCAB_SIZE for token in prompt)
            sequence.faulty = sequence.unknown_token or self._struck(prompt)
        return bool(joining)

    def _reply_to(self, request: BackendRequest) -> list[int] | None:
        guide = request.sampling.guide
        if guide is not None:
            return list(forms.answer_to(guide, self.script.reply, self._call).encode())
        if request.adapter is not None:
            return list(self._adapters[request.adapter])
        if self._call is not None and forms.calls_now(_text(request.prompt_token_ids)):
            return list(forms.written(self._call).encode())
        return self._reply

    def _advance(self, sequence: EchoSequence) -> SequenceDelta:
        request, sampling = sequence.request, sequence.request.sampling
        error = self._fault(sequence) if sequence.faulty else None
        if error is not None:
            return self._failed(request.request_id, error)
        token, logprob = sequence.next_token()
        logprobs = None if logprob is None else [logprob]
        count = len(sequence.output)
        if token in sampling.stop_token_ids and count > sampling.min_tokens:
            del self._running[request.request_id]
            return SequenceDelta(request.request_id, [token], "stop", token, None, logprobs)
        if count >= sampling.max_tokens or len(request.prompt_token_ids) + count >= self.info.max_model_len:
            del self._running[request.request_id]
            return SequenceDelta(request.request_id, [token], "length", None, None, logprobs)
        return SequenceDelta(request.request_id, [token], None, None, None, logprobs)

    def _struck(self, prompt: list[int]) -> bool:
        """Whether the script's faults strike a request with this prompt: a start token alone is the engine's warm-up."""
        if not self.script.faulty or (prompt == [BOS] and not self.script.warm_up):
            return False
        return self._when in bytes(token for token in prompt if token < 256)

    def _fault(self, sequence: EchoSequence) -> EngineError | None:
        """Let the script's fault for the token about to be drawn strike, if there is one."""
        script, position = self.script, len(sequence.output) + 1
        if sequence.unknown_token:
            return EngineError("A prompt token is outside the vocabulary.")
        if script.die_at == position and not (script.die_once and Path(script.die_once).exists()):
            if script.die_once:
                Path(script.die_once).touch()
            os._exit(script.exit_code)
        if script.freeze_at == position:
            while True:
                time.sleep(3600)
        if script.spin_at == position:
            spin()
        if script.crash_at == position:
            crash()
        if script.raise_at == position:
            raise RuntimeError("the scripted error inside a step")
        if script.hang_at == position:
            self._hung = True
        if script.fail_at == position:
            return EngineError("The scripted failure of one request.", hint="Scripted by --engine-arg fail_at.")
        if script.nan_at == position:
            return NonFiniteLogits("The model produced logits that are not finite.")
        return None

    async def embed(self, batch: Sequence[Sequence[int]]) -> list[list[float]]:
        """Vectors made of the ids alone, where the script has it; they take `step_s` for each text."""
        if not self.script.embed:
            raise UnsupportedFeature("The echo backend has no embeddings.")
        await asyncio.sleep(self.script.step_s * len(batch))
        return [_vector(ids, self.script.embed) for ids in batch]

    async def load_adapter(self, name: str, path: str) -> None:
        """Sequences with this adapter get what its configuration has under "echo", for the folder's name."""
        if not self.info.capabilities.adapters:
            raise UnsupportedFeature("This engine was started without adapters.", hint="--max-adapters 4")
        files = adapters.read(path)
        self._adapters[name] = str(files.config.get("echo") or files.path.name).encode()

    async def unload_adapter(self, name: str) -> None:
        """Forget an adapter."""
        self._adapters.pop(name, None)

    async def check_guide(self, guide: TokenGuide) -> None:
        """What has an answer here will do."""
        try:
            forms.answer_to(guide, self.script.reply, self._call)
        except InvalidRequest as error:
            raise InvalidRequest(error.message, param=guide.param) from None
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InvalidRequest(
                f"{guide.param}: this schema cannot be used: {error!r}"[:400], param=guide.param
            ) from error

    async def check_health(self) -> None:
        """Healthy until closed or hung."""
        if self._closed or self._hung:
            raise EngineUnavailable("The echo backend no longer steps.")

    async def aclose(self) -> None:
        """End `steps()`."""
        self._closed = True
        self._waiting.clear()
        self._running.clear()
        self._wake.set()


def _text(ids: Sequence[int]) -> bytes:
    """The bytes of a prompt, turns marked as the byte tokenizer writes them."""
    return b"".join(
        forms.TURN if token == TURN_START else bytes((token,)) for token in ids if token < 256 or token == TURN_START
    )


def _vector(ids: Sequence[int], size: int) -> list[float]:
    """[size], of length one; other ids, or the same in another order, give another one."""
    numbers = [1.0 + sum(token * (place + k) for place, token in enumerate(ids, start=1)) % 97 for k in range(size)]
    length = math.hypot(*numbers)
    return [number / length for number in numbers]
