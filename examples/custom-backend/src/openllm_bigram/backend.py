"""The backend: every step takes all running sequences one token further. Token ids in, token ids out."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from openllm.backends.base import BackendInfo, BackendRequest, Capabilities, SequenceDelta, StepOutput, TokenGuide
from openllm_core.errors import EngineError, EngineUnavailable, UnsupportedFeature
from openllm_core.options import EngineOptions

from .model import ARCHITECTURE, BOS, EOS, VOCAB_SIZE, Logits, Table
from .sampling import draw, logprob


@dataclass
class Running:
    """One running request, with a random stream of its own: neighbours in the batch change nothing."""

    request: BackendRequest
    rng: np.random.Generator
    prompt: set[int]
    last: int
    drawn: Counter[int] = field(default_factory=Counter)


class BigramBackend:
    """Runs up to `max_batch` sequences; the rest wait in order."""

    def __init__(self, table: Table, options: EngineOptions) -> None:
        self._table = table
        length = min(options.max_model_len or table.context, table.context)
        self.info = BackendInfo(
            backend="bigram",
            capabilities=Capabilities(logprobs=True),
            max_model_len=length,
            max_prompt_len=length - 1,
            max_batch=options.max_num_seqs or 64,
            vocab_size=VOCAB_SIZE,
            eos_token_ids=(EOS,),
            bos_token_id=BOS,
            dtype="float32",
            architecture=ARCHITECTURE,
            decisions=("bigram: the next byte by the one before it",),
        )
        self._waiting: dict[str, BackendRequest] = {}
        self._running: dict[str, Running] = {}
        self._wake = asyncio.Event()
        self._closed = False

    def submit(self, request: BackendRequest) -> None:
        """Queue a sequence for the next step."""
        self._waiting[request.request_id] = request
        self._wake.set()

    def abort(self, request_id: str) -> None:
        """Forget a sequence, running or waiting."""
        self._waiting.pop(request_id, None)
        self._running.pop(request_id, None)

    async def steps(self) -> AsyncIterator[StepOutput]:
        """One item per step. A step takes microseconds, so none runs in a thread; a real model would."""
        while not self._closed:
            if not self._running and not self._waiting:
                self._wake.clear()
                await self._wake.wait()
                continue
            await asyncio.sleep(0)  # let requests come and go between two steps
            started = time.perf_counter()
            deltas = [*self._join(), *self._step()]
            if deltas and not self._closed:
                yield StepOutput(deltas, len(self._running), len(self._waiting), time.perf_counter() - started)

    def _join(self) -> list[SequenceDelta]:
        """Move what waits into the free slots; the final deltas of what cannot run."""
        refused: list[SequenceDelta] = []
        for request_id in list(self._waiting)[: self.info.max_batch - len(self._running)]:
            request = self._waiting.pop(request_id)
            prompt = request.prompt_token_ids
            if any(not 0 <= token < VOCAB_SIZE for token in prompt):
                error = EngineError("A prompt token is outside the vocabulary.")
                refused.append(SequenceDelta(request_id, [], "error", error=error.as_dict()))
                continue
            rng = np.random.default_rng(request.sampling.seed)
            self._running[request_id] = Running(request, rng, set(prompt), prompt[-1] if prompt else BOS)
        return refused

    def _step(self) -> list[SequenceDelta]:
        sequences = list(self._running.values())
        if not sequences:
            return []
        logits = self._table.step([sequence.last for sequence in sequences])
        return [self._advance(sequence, row) for sequence, row in zip(sequences, logits, strict=True)]

    def _advance(self, sequence: Running, logits: Logits) -> SequenceDelta:
        request, sampling = sequence.request, sequence.request.sampling
        token = draw(logits, sampling, sequence.prompt, sequence.drawn, sequence.rng)
        logprobs = None if sampling.logprobs is None else [logprob(logits, token, sampling.logprobs)]
        sequence.drawn[token] += 1
        sequence.last = token
        count = sequence.drawn.total()
        full = len(request.prompt_token_ids) + count >= self.info.max_model_len
        reason = (
            "stop" if token in sampling.stop_token_ids else "length" if full or count >= sampling.max_tokens else None
        )
        if reason is not None:
            del self._running[request.request_id]
        return SequenceDelta(request.request_id, [token], reason, token if reason == "stop" else None, None, logprobs)

    async def check_guide(self, guide: TokenGuide) -> None:
        """Nothing is guided."""
        raise UnsupportedFeature(f"{guide.param}: bigrams cannot be held to a form.", param=guide.param)

    async def embed(self, batch: Sequence[Sequence[int]]) -> list[list[float]]:
        """There are no hidden states."""
        raise UnsupportedFeature("Bigrams have no embeddings.")

    async def load_adapter(self, name: str, path: str) -> None:
        """There are no layers to adapt."""
        raise UnsupportedFeature("Bigrams take no adapters.")

    async def unload_adapter(self, name: str) -> None:
        """None is loaded."""

    async def check_health(self) -> None:
        """Healthy until closed."""
        if self._closed:
            raise EngineUnavailable("The bigram backend was closed.")

    async def aclose(self) -> None:
        """End `steps()`."""
        self._closed = True
        self._waiting.clear()
        self._running.clear()
        self._wake.set()
