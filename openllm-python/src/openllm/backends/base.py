"""What every backend promises, and the values that cross the process border.

Token ids in, token ids out: nothing here knows of text, prompts or HTTP. The engine host drives a `Backend`; the engine
in the server process only ever sees the values below, which travel as msgpack (see `openllm.engine.channel`).
Must not import torch, vllm, transformers, or anything of `openllm.engine`.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, Literal, Protocol

import msgspec

from openllm_core.options import EngineOptions

STATS_EVERY_S = 1.0

FinishReason = Literal["stop", "length", "abort", "error"]


class TokenGuide(msgspec.Struct, frozen=True, array_like=True):
    """What the tokens of one sequence must spell; for backends whose `capabilities.structured` is set.

    Attributes:
        kind: what `value` is; `json_object` is any JSON object and needs none.
        value: a JSON schema as JSON text, a regular expression, a grammar in EBNF, the texts to choose from, or a
            structural tag (a sequence of fixed texts and schemas, in xgrammar's JSON form).
        param: the request's field, for messages.
    """

    kind: Literal["json", "json_object", "regex", "choice", "grammar", "structural_tag"]
    value: str | list[str] = ""
    param: str = "response_format"


class TokenSampling(msgspec.Struct, frozen=True, omit_defaults=True):
    """How to draw tokens for one sequence; validated before it gets here.

    Stop strings, `n` and the text are the engine's business and absent on purpose.
    """

    max_tokens: int
    min_tokens: int = 0
    temperature: float = 1.0  # below 1e-5 means greedy
    top_p: float = 1.0
    top_k: int = 0  # 0 = off
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: dict[int, float] = {}  # token id -> bias added to its logit; -inf is sent as -1e9
    seed: int | None = None
    stop_token_ids: tuple[int, ...] = ()  # the model's own EOS ids included, unless `ignore_eos` was asked for
    logprobs: int | None = None  # None = none; k = the drawn token's and the k most likely ones'
    guide: TokenGuide | None = None


class BackendRequest(msgspec.Struct, frozen=True, omit_defaults=True):
    """One sequence to run. `n > 1` arrives as n of these with the same prompt.

    Attributes:
        request_id: 128-bit random, never reused.
        prompt_token_ids: [prompt_len] token ids; the encoder's input for seq2seq models.
        adapter: name of a loaded adapter, None for the bare base.
        cache_salt: prefixes are shared only between requests of the same salt.
    """

    request_id: str
    prompt_token_ids: list[int]
    sampling: TokenSampling
    adapter: str | None = None
    cache_salt: str | None = None


class TokenLogprob(msgspec.Struct, frozen=True, array_like=True):
    """Natural-log probability of the drawn token, and of the most likely ones, after temperature-free softmax."""

    token_id: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()  # most likely first


class DeltaText(msgspec.Struct, frozen=True, array_like=True):
    """Text that the host puts beside the tokens where the model's tokenizer runs there.

    Attributes:
        pieces: text that each new id made certain, and with the sequence's last delta one more: what was held back.
        tokens: text of single tokens, of those that `logprobs` names.
    """

    pieces: list[str]
    tokens: dict[int, str] = {}


class SequenceDelta(msgspec.Struct, frozen=True, array_like=True, omit_defaults=True):
    """What one engine step added to one sequence.

    Attributes:
        token_ids: the new ids, usually one. A stop token that ended the sequence is included.
        finish_reason: None while it runs; then exactly one final delta carries it.
        stop_token_id: the id that ended the sequence when `finish_reason` is "stop".
        error: `OpenLLMError.as_dict()` when `finish_reason` is "error".
        logprobs: one per new id when the request asked for them.
        text: never set by a backend (see `DeltaText`).
    """

    request_id: str
    token_ids: list[int]
    finish_reason: FinishReason | None = None
    stop_token_id: int | None = None
    error: dict[str, Any] | None = None
    logprobs: list[TokenLogprob] | None = None
    text: DeltaText | None = None


class EngineStats(msgspec.Struct, frozen=True, array_like=True):
    """What a backend counts of itself, since it was loaded; None where it has no such thing.

    Attributes:
        kv_cache_usage: share of the cache of keys and values in use, 0..1.
        prefix_cache_queries, prefix_cache_hits: prompt tokens looked up in the prefix cache, and found there.
        preemptions: sequences that lost their cache to others and were computed again.
        draft_tokens, accepted_tokens: proposed by speculative decoding, and kept.
    """

    kv_cache_usage: float | None = None
    prefix_cache_queries: int | None = None
    prefix_cache_hits: int | None = None
    preemptions: int | None = None
    draft_tokens: int | None = None
    accepted_tokens: int | None = None


class StepOutput(msgspec.Struct, frozen=True, array_like=True, omit_defaults=True):
    """All deltas of one engine step, of every running sequence: one frame.

    Attributes:
        num_running, num_waiting: sequences in the batch, and accepted but not yet in it, after the step.
        step_s: seconds the step computed.
        stats: now and then, and with each sequence that ended: see `StatsClock`.
    """

    deltas: list[SequenceDelta]
    num_running: int = 0
    num_waiting: int = 0
    step_s: float = 0.0
    stats: EngineStats | None = None


class StatsClock:
    """Says with which steps a backend sends its stats: those in which a sequence ended, and one a second."""

    def __init__(self) -> None:
        self._next = 0.0

    def due(self, deltas: Sequence[SequenceDelta]) -> bool:
        """Whether the step that brought these deltas is one of them."""
        now = time.monotonic()
        if now < self._next and not any(delta.finish_reason for delta in deltas):
            return False
        self._next = now + STATS_EVERY_S
        return True


class Capabilities(msgspec.Struct, frozen=True):
    """What the loaded model and backend can do; drives refusals before the engine sees a request."""

    generate: bool = True
    embed: bool = False
    adapters: bool = False
    logprobs: bool = True
    seq2seq: bool = False  # the prompt goes to an encoder; the context limits bind separately
    structured: bool = False


class BackendInfo(msgspec.Struct, frozen=True):
    """Facts of a loaded model, sent to the server in the `ready` frame.

    Attributes:
        max_model_len: tokens, prompt plus completion (for seq2seq: the decoder's).
        max_prompt_len: tokens a prompt may have.
        max_batch: sequences the backend runs at once.
        eos_token_ids: from tokenizer and generation_config together.
        decisions: one line per choice made at start ("attention: grouped (measured 1.3x of sdpa)").
        memory_bytes: resident memory of the host after loading.
    """

    backend: str
    capabilities: Capabilities
    max_model_len: int
    max_prompt_len: int
    max_batch: int
    vocab_size: int
    eos_token_ids: tuple[int, ...] = ()
    bos_token_id: int | None = None
    device: str = "cpu"
    dtype: str = ""
    architecture: str = ""
    decisions: tuple[str, ...] = ()
    memory_bytes: int = 0


class Backend(Protocol):
    """Runs one loaded model. Token ids in, token ids out; knows nothing of text, prompts or HTTP.

    All methods are called from the host's event loop. Heavy work belongs in the backend's own thread so that
    `submit` and `abort` return at once.
    """

    info: BackendInfo

    def submit(self, request: BackendRequest) -> None:
        """Queue a sequence; it joins the running batch at the next step. Never blocks, never raises for one
        request's sake: a request that cannot run ends with a delta whose `finish_reason` is "error"."""
        ...

    def abort(self, request_id: str) -> None:
        """Drop a sequence and free what it holds; idempotent; no further delta of it is sent."""
        ...

    def steps(self) -> AsyncIterator[StepOutput]:
        """One item per engine step, all sequences' deltas; waits while there is nothing to do; ends on `aclose`."""
        ...

    async def embed(self, batch: Sequence[Sequence[int]]) -> list[list[float]]:
        """[n][seq_len] token ids -> [n][hidden] float32, mean-pooled and L2-normalised.

        Raises:
            UnsupportedFeature: the model has no embeddings.
        """
        ...

    async def load_adapter(self, name: str, path: str) -> None:
        """Make the adapter in the folder `path` usable under `name`."""
        ...

    async def unload_adapter(self, name: str) -> None:
        """Forget an adapter; sequences that use it finish first."""
        ...

    async def check_guide(self, guide: TokenGuide) -> None:
        """Return if a sequence can be held to the guide, soon and while others run; asked before such a request is queued.

        Raises:
            InvalidRequest: it cannot; the message begins with the guide's `param`, which is the error's too.
            UnsupportedFeature: this backend guides nothing (`capabilities.structured` is not set).
        """
        ...

    async def check_health(self) -> None:
        """Raises EngineUnavailable when the model can no longer run."""
        ...

    async def aclose(self) -> None:
        """Stop stepping and free the model."""
        ...


Progress = Callable[[str, float | None], None]
"""Called while loading with (what is being done, share done 0..1 or None)."""


class MemoryEstimate(msgspec.Struct, frozen=True):
    """What loading and running will take against what the machine has, told before anything is loaded.

    Attributes:
        need_bytes: weights, cache and room for work together.
        have_bytes: free on the chosen device; None when it cannot be told.
        parts: what the need is made of, for the message ("weights" -> bytes); "cache" is what the least or the asked-for
            context takes for one sequence.
        device: the device the need falls on.
        bytes_per_token: of cache, per token of one sequence; 0 = not known.
        context_tokens: that one sequence may have; 0 = not known.
        slots: sequences that may run at once; 0 = not known.
    """

    need_bytes: int
    have_bytes: int | None = None
    parts: dict[str, int] = {}
    device: str = "cpu"
    bytes_per_token: int = 0
    context_tokens: int = 0
    slots: int = 0

    @property
    def fits(self) -> bool:
        """True when it fits or the machine does not say."""
        return self.have_bytes is None or self.need_bytes <= self.have_bytes


class Launch(Protocol):
    """What a backend's `launch` module offers; importable without the backend's framework.

    `machine` is whatever the caller knows of the machine; None lets the module look by itself. A module may also have
    `PRELOAD`, the dotted name of a module to import when the host starts, before its options are there.
    """

    def environment(self, options: EngineOptions, machine: Any) -> dict[str, str]:
        """Variables that must be set before the host process starts (thread counts, visible devices, preloads)."""
        ...

    def estimate(self, options: EngineOptions, machine: Any) -> MemoryEstimate:
        """Memory the model will need, from its files alone."""
        ...


class BackendFactory(Protocol):
    """What an entry point of the group `openllm.backends` names: a package with this function.

    `load` runs in the engine host, in a thread of its own. Importing the package itself must stay light; its `launch`
    submodule (see `Launch`) holds what must be known before the host starts.
    """

    def load(self, options: EngineOptions, progress: Progress) -> Backend:
        """Load the model that `options.model_path` points to.

        Raises:
            OutOfMemory: it will not fit (need and have named), decided before loading.
            CorruptModel: files missing, of a refused format, or a parameter left uninitialised.
            MissingDependency: a package is missing.
        """
        ...
