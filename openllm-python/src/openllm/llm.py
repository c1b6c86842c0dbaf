"""A model in a Python program, without a server: `openllm.LLM("model").generate("...")`, sync and async.

Runs the same engine as `openllm start`, on a loop in a thread of its own; the model lives in an engine host process, so no
`__main__` guard is needed, or in this process with `embedded=True`. It must not import torch or transformers.
"""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any, Self, cast, overload

import attrs

from openllm_core.config.llm import LLMConfig
from openllm_core.config.sampling import SamplingParams
from openllm_core.errors import InvalidRequest, InvalidSetting, OpenLLMError
from openllm_core.families import registry as families
from openllm_core.fields import settle, to_sampling_params
from openllm_core.options import EngineOptions, StoreOptions
from openllm_core.schema import Delta, EmbeddingsOutput

from .adapters import bind
from .backends import registry as backends
from .backends.base import BackendInfo
from .background import Background
from .classic import ClassicCalls
from .embedding_model import embedder_of, maker_of
from .engine.embedder import Embedder
from .engine.engine import Engine
from .engine.request import EngineRequest
from .engine.stream import RequestStream
from .engine.supervisor import launch_embedded
from .generation import Generation, choice_of
from .service.adapters import ServedAdapters
from .stored import ECHO
from .tokenizer import Tokenizer, byte_tokenizer

UNBOUNDED = 2**31
"""Requests that may wait: all belong to the one caller, who already holds their prompts in memory."""
NO_DEADLINE_S = 1e9
MAX_TOKENS_DEFAULT = 1024
"""Tokens generated for a model of no known family when the caller does not say."""


class LLM(ClassicCalls):
    """One model, loaded on first use (or by `start`, or `with`), until `close`.

    Safe to use from several threads and event loops at once: all requests share one running batch.
    """

    def __init__(
        self,
        model: str | None = None,
        *,
        model_id: str | None = None,
        embedded: bool = False,
        store: StoreOptions | None = None,
        llm_config: LLMConfig | None = None,
        **engine_options: Any,
    ) -> None:
        """Args:
        model: family name, hub id, stored model or folder; None for the default model.
        model_id: id or folder, where `model` is a family name.
        embedded: run the backend in this process instead of a host process.
        store: where models are kept; default: from the environment.
        llm_config: generation defaults; default: the environment's and the family's.
        engine_options: fields of `EngineOptions` (`backend`, `device`, `dtype`, `max_model_len`, …); others come from
            the environment.

        Raises:
            InvalidSetting: an unknown option or a value that does not fit.
        """
        known = {a.name for a in attrs.fields(EngineOptions)} - {"model_path", "model_id", "family"}
        for name in engine_options:
            if name not in known:
                raise InvalidSetting(f"LLM() has no option {name!r}.", hint=f"Options: {', '.join(sorted(known))}.")
        super().__init__(model, model_id=model_id, store=store, engine_options=engine_options)
        self._embedded = embedded
        self._given_config = llm_config
        self._config: LLMConfig | None = None
        self._known = False
        self._engine: Engine | None = None
        self._adapters: ServedAdapters | None = None
        self._embedder: Embedder | None = None
        self._lock = threading.Lock()
        self._worker: Background | None = None
        self._close: weakref.finalize[Any, Any] | None = None

    # -- life ---------------------------------------------------------------------------------------------------------

    def start(self) -> BackendInfo:
        """Find the model, load it, and return when it has generated its first token.

        Raises:
            OpenLLMError: it cannot be found or loaded.
        """
        return self._background().call(self._ready())

    async def astart(self) -> BackendInfo:
        """`start` for a program with an event loop."""
        return await self._background().acall(self._ready())

    def close(self) -> None:
        """End the host and free the model; using the LLM again loads it again."""
        with self._lock:
            close, self._close = self._close, None
            self._engine = self._worker = self._embedder = None
        if close is not None:
            close()

    async def aclose(self) -> None:
        """`close` for a program with an event loop."""
        await asyncio.to_thread(self.close)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *details: object) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        await self.astart()
        return self

    async def __aexit__(self, *details: object) -> None:
        await self.aclose()

    # -- generating ---------------------------------------------------------------------------------------------------

    @overload
    def generate(self, prompt: str, sampling: SamplingParams | None = None, **fields: Any) -> Generation: ...
    @overload
    def generate(
        self, prompt: list[str], sampling: SamplingParams | None = None, **fields: Any
    ) -> list[Generation]: ...
    def generate(
        self, prompt: str | list[str], sampling: SamplingParams | None = None, **fields: Any
    ) -> Generation | list[Generation]:
        """Complete one prompt, or several in one batch.

        Args:
            prompt: raw text, no template applied; a list gives a list.
            sampling: how to sample; default: the model family's values.
            fields: single values instead of `sampling`: `max_tokens`, `temperature`, `adapter_name`, …

        Raises:
            InvalidRequest: a value is out of range or the prompt does not fit; `param` names the field.
            EngineUnavailable: the host died on it.
        """
        return self._background().call(self._generate(prompt, sampling, fields))

    @overload
    async def agenerate(self, prompt: str, sampling: SamplingParams | None = None, **fields: Any) -> Generation: ...
    @overload
    async def agenerate(
        self, prompt: list[str], sampling: SamplingParams | None = None, **fields: Any
    ) -> list[Generation]: ...
    async def agenerate(
        self, prompt: str | list[str], sampling: SamplingParams | None = None, **fields: Any
    ) -> Generation | list[Generation]:
        """`generate` for a program with an event loop; cancelling it aborts the requests."""
        return await self._background().acall(self._generate(prompt, sampling, fields))

    def generate_stream(self, prompt: str, sampling: SamplingParams | None = None, **fields: Any) -> Iterator[Delta]:
        """Complete one prompt piece by piece: the deltas' texts, joined per choice, are the text of `generate`.

        Leaving the loop early aborts the request.
        """
        yield from self._deltas(self._background().call(self._add(prompt, sampling, fields)))

    def stream_of(self, prompt: str, fields: dict[str, Any]) -> tuple[Iterator[Delta], RequestStream]:
        """Begin to complete a prompt: its deltas, and the stream, which knows the `usage()` so far."""
        stream = self._background().call(self._add(prompt, None, fields))
        return self._deltas(stream), stream

    def _deltas(self, stream: RequestStream) -> Iterator[Delta]:
        try:
            while (delta := self._background().call(_next(stream))) is not None:
                yield delta
        finally:
            self._background().call(stream.aclose())

    async def agenerate_stream(
        self, prompt: str, sampling: SamplingParams | None = None, **fields: Any
    ) -> AsyncIterator[Delta]:
        """`generate_stream` for a program with an event loop."""
        stream = await self._background().acall(self._add(prompt, sampling, fields))
        try:
            while (delta := await self._background().acall(_next(stream))) is not None:
                yield delta
        finally:
            await self._background().acall(stream.aclose())

    # -- embedding ----------------------------------------------------------------------------------------------------

    def embed(self, texts: str | Sequence[str]) -> EmbeddingsOutput:
        """Vectors of one text or several, in their order.

        Made by `embeddings` where a subclass has it, else by the model itself, else by the sentence encoder that
        `embedding_model` names (by default all-MiniLM-L6-v2 of the package index), loaded at the first call.

        Raises:
            InvalidRequest: a text is empty or too long; `param` is `input[i]`.
            EngineUnavailable: the sentence encoder cannot be had.
        """
        if self._has_own_embeddings:
            return self.embeddings(_listed(texts))
        return self._background().call(self._embed(_listed(texts)))

    async def aembed(self, texts: str | Sequence[str]) -> EmbeddingsOutput:
        """`embed` for a program with an event loop."""
        if self._has_own_embeddings:
            return await asyncio.to_thread(self.embeddings, _listed(texts))
        return await self._background().acall(self._embed(_listed(texts)))

    def embeddings(self, prompts: list[str]) -> EmbeddingsOutput:
        """Vectors made by the model itself. A subclass may bring its own.

        Raises:
            NotImplementedError: the model has none of its own; `embed` asks a sentence encoder.
        """
        if not self.supports_embeddings:
            raise NotImplementedError("This model has no embeddings of its own; embed() asks a sentence encoder.")
        return self._background().call(self._embed(prompts))

    @property
    def _has_own_embeddings(self) -> bool:
        return type(self).embeddings is not LLM.embeddings

    @property
    def supports_embeddings(self) -> bool:
        """Whether `embeddings` works: the model has some of its own. Loads a model that brings its own code, to know."""
        if self._has_own_embeddings:
            return True
        options = self.chosen_options()
        if maker_of(options) == "encoder":
            return False
        if backends.get(options.backend).embeds(options) is not None:
            return True
        return self.start().capabilities.embed

    async def _embed(self, texts: list[str]) -> EmbeddingsOutput:
        if not texts:
            return EmbeddingsOutput(embeddings=[], num_tokens=0)
        await self._ready()
        assert self._embedder is not None
        found = await self._embedder.embed_all(texts)
        return EmbeddingsOutput(embeddings=[vector.tolist() for vector in found.vectors], num_tokens=found.num_tokens)

    # -- training -----------------------------------------------------------------------------------------------------

    def prepare_for_training(
        self, adapter_type: str = "lora", use_gradient_checkpointing: bool = True, **settings: Any
    ) -> tuple[Any, Any]:
        """Load the model into this process, with an adapter to train; needs the extra `fine-tune`.

        Args:
            adapter_type: lora, adalora, adaption_prompt, prefix_tuning, p_tuning, prompt_tuning or ia3.
            use_gradient_checkpointing: compute parts of the forward pass twice, which saves memory.
            settings: of the peft configuration (`r`, `lora_alpha`, `target_modules`, …), over those of the family.

        Returns:
            (`peft.PeftModel`, its transformers tokenizer), for any trainer. With `quantize="int4"` or "int8" given to the
            constructor, the adapter lies over quantised weights.

        Raises:
            OpenLLMError: the model cannot be found or loaded, or peft refuses the settings.
        """
        from .finetune import prepare_for_training

        return prepare_for_training(self, adapter_type, use_gradient_checkpointing, **settings)

    # -- on the loop of the worker ------------------------------------------------------------------------------------

    async def _generate(
        self, prompt: str | list[str], sampling: SamplingParams | None, fields: dict[str, Any]
    ) -> Generation | list[Generation]:
        if isinstance(prompt, str):
            return await self._one(prompt, sampling, fields)
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._one(text, sampling, fields)) for text in prompt]
        return [task.result() for task in tasks]

    async def _one(self, prompt: str, sampling: SamplingParams | None, fields: dict[str, Any]) -> Generation:
        async with await self._add(prompt, sampling, fields) as stream:
            found: dict[int, list[Delta]] = {index: [] for index in range(stream.request.sampling.n)}
            async for delta in stream:
                found[delta.index].append(delta)
            return Generation(choices=[choice_of(deltas) for deltas in found.values()], usage=stream.usage())

    async def _add(self, prompt: str, sampling: SamplingParams | None, fields: dict[str, Any]) -> RequestStream:
        await self._ready()
        engine, config = self._engine, self._config
        assert engine is not None and config is not None and self._adapters is not None
        fields = dict(fields)  # the prompts of a list share theirs
        adapter = self._adapters.choose(fields.pop("adapter_name", None))
        default = None
        if sampling is None:
            try:
                sampling, effective, _ = to_sampling_params(
                    fields, family=config.family, backend=engine.options.backend, defaults=config
                )
            except InvalidRequest as error:  # named as a route has it; here the fields stand alone
                raise type(error)(
                    error.message.removeprefix("llm_config."),
                    hint=error.hint,
                    code=error.wire_code,
                    param=error.param and error.param.removeprefix("llm_config."),
                ) from None
            default = cast(int, effective["max_new_tokens"]) if self._known else MAX_TOKENS_DEFAULT
        elif fields:
            raise TypeError(f"give either sampling or single fields, not both: {', '.join(fields)}")
        request = EngineRequest(
            prompt=prompt,
            sampling=sampling,
            family_stop_ids=config.family.eos_token_ids,
            adapter=adapter.key,
            deadline_s=NO_DEADLINE_S,
            max_tokens_default=default,
        )
        return await engine.add(request)

    async def _ready(self) -> BackendInfo:
        starting = self._background().starting
        if (engine := self._engine) is None:
            async with starting:
                if (engine := self._engine) is None:
                    engine = self._engine = await self._load()
        try:
            return await engine.wait_ready()
        except OpenLLMError:
            if (failure := engine.failure) is None:
                raise
            async with starting:
                if self._engine is engine:  # the first of those who waited closes it; a next use tries again
                    embedder, self._engine = self._embedder, None
                    if embedder is not None:
                        await embedder.aclose()
                    await engine.aclose()
            raise failure from None

    async def _load(self) -> Engine:
        from .compose import unknown_family

        options, tokenizer, family = await asyncio.to_thread(self._prepare)
        bound = await asyncio.to_thread(lambda: bind(options, self.store_options))
        spec = families.find(family) if family else unknown_family()
        self._config, _ = settle(self._given_config or LLMConfig.for_model(spec), options.backend)
        self._known = family is not None or self._given_config is not None
        launch = launch_embedded if self._embedded else None
        engine = Engine(
            bound.options,
            tokenizer,
            max_queue=UNBOUNDED,
            queue_timeout_s=NO_DEADLINE_S,
            launch=launch,
        )
        self._adapters = ServedAdapters(engine.adapters, given=bound.given)
        store = await asyncio.to_thread(lambda: self.store_options)
        self._embedder = embedder_of(engine, options, tokenizer, store, launch)
        self._background().closing[:] = [self._embedder.aclose, engine.aclose]
        await engine.start()
        return engine

    def chosen_options(self) -> EngineOptions:
        """The engine's options with backend and model decided; finds the model, and fetches it where it is not here."""
        options = self._options
        if options.backend == ECHO:
            return attrs.evolve(options, model_id=ECHO)
        found = self.resolved()
        options = found.engine(options)
        backend, _ = backends.choose(options, found.architecture)
        return attrs.evolve(
            options,
            model_path=str(found.path),
            model_id=found.model_id,
            family=found.family or "",
            backend=backend,
            quantize=options.quantize or found.quantize,
        )

    def _prepare(self) -> tuple[EngineOptions, Tokenizer, str | None]:
        """Find the model and choose the backend; may download."""
        options = self.chosen_options()
        if not options.model_path:
            return options, byte_tokenizer(), None
        from .serialisation import open_tokenizer

        tokenizer = open_tokenizer(Path(options.model_path), trust_remote_code=options.trust_remote_code)
        return options, tokenizer, options.family or None

    # -- between threads ----------------------------------------------------------------------------------------------

    def _background(self) -> Background:
        with self._lock:
            if self._worker is None:
                self._worker = Background()
                self._close = weakref.finalize(self, self._worker.stop)
            return self._worker


def _listed(texts: str | Sequence[str]) -> list[str]:
    return [texts] if isinstance(texts, str) else list(texts)


async def _next(stream: RequestStream) -> Delta | None:
    return await anext(stream, None)
