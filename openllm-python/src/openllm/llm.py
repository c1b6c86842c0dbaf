"""A model in a Python program, without a server: `openllm.LLM("model").generate("...")`, sync and async.

Runs the same engine as `openllm start`, on a loop in a thread of its own; the model lives in an engine host process, so no
`__main__` guard is needed, or in this process with `embedded=True`. It must not import torch or transformers.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import weakref
from collections.abc import AsyncIterator, Coroutine, Iterator
from typing import Any, Self, TypeVar, cast, overload

import attrs

from openllm_core.config.llm import LLMConfig
from openllm_core.config.sampling import SamplingParams
from openllm_core.errors import InvalidRequest, InvalidSetting, OpenLLMError
from openllm_core.families import registry as families
from openllm_core.fields import settle, to_sampling_params
from openllm_core.options import EngineOptions, StoreOptions
from openllm_core.schema import Delta, LogprobEntry, Usage

from .backends import registry as backends
from .backends.base import BackendInfo
from .engine.engine import Engine
from .engine.request import EngineRequest
from .engine.stream import RequestStream
from .engine.supervisor import launch_embedded
from .stored import StoredModel
from .tokenizer import Tokenizer, byte_tokenizer

T = TypeVar("T")

UNBOUNDED = 2**31
"""Requests that may wait: all belong to the one caller, who already holds their prompts in memory."""
NO_DEADLINE_S = 1e9
MAX_TOKENS_DEFAULT = 1024
"""Tokens generated for a model of no known family when the caller does not say."""


@attrs.frozen(kw_only=True)
class Choice:
    """One completion.

    Attributes:
        finish_reason: "stop" or "length".
        stop_reason: the stop string or stop token id of the request that ended it.
        logprobs: one entry per token where asked for.
    """

    text: str
    token_ids: list[int]
    finish_reason: str
    stop_reason: str | int | None = None
    logprobs: list[LogprobEntry] | None = None


@attrs.frozen(kw_only=True)
class Generation:
    """Answer to one prompt; `str()` gives the text of its first choice."""

    choices: list[Choice]
    usage: Usage

    @property
    def text(self) -> str:
        """Text of the first choice."""
        return self.choices[0].text

    def __str__(self) -> str:
        return self.text


class LLM(StoredModel):
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
        **engine_options: Any,
    ) -> None:
        """Args:
        model: family name, hub id, stored model or folder; None for the default model.
        model_id: id or folder, where `model` is a family name.
        embedded: run the backend in this process instead of a host process.
        store: where models are kept; default: from the environment.
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
        self._config: LLMConfig | None = None
        self._known = False
        self._engine: Engine | None = None
        self._lock = threading.Lock()
        self._worker: _LoopThread | None = None
        self._close: weakref.finalize[Any, Any] | None = None

    # -- life ---------------------------------------------------------------------------------------------------------

    def start(self) -> BackendInfo:
        """Find the model, load it, and return when it has generated its first token.

        Raises:
            OpenLLMError: it cannot be found or loaded.
        """
        return self._call(self._ready())

    async def astart(self) -> BackendInfo:
        """`start` for a program with an event loop."""
        return await self._acall(self._ready)

    def close(self) -> None:
        """End the host and free the model; using the LLM again loads it again."""
        with self._lock:
            close, self._close = self._close, None
            self._engine = self._worker = None
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
            fields: single values instead of `sampling`: `max_tokens`, `temperature`, `stop`, `seed`, …

        Raises:
            InvalidRequest: a value is out of range or the prompt does not fit; `param` names the field.
            EngineUnavailable: the host died on it.
        """
        return self._call(self._generate(prompt, sampling, fields))

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
        return await self._acall(lambda: self._generate(prompt, sampling, fields))

    def generate_stream(self, prompt: str, sampling: SamplingParams | None = None, **fields: Any) -> Iterator[Delta]:
        """Complete one prompt piece by piece: the deltas' texts, joined per choice, are the text of `generate`.

        Leaving the loop early aborts the request.
        """
        stream = self._call(self._add(prompt, sampling, fields))
        try:
            while (delta := self._call(_next(stream))) is not None:
                yield delta
        finally:
            self._call(stream.aclose())

    async def agenerate_stream(
        self, prompt: str, sampling: SamplingParams | None = None, **fields: Any
    ) -> AsyncIterator[Delta]:
        """`generate_stream` for a program with an event loop."""
        stream = await self._acall(lambda: self._add(prompt, sampling, fields))
        try:
            while (delta := await self._acall(lambda: _next(stream))) is not None:
                yield delta
        finally:
            await self._acall(stream.aclose)

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
            return Generation(choices=[_choice(deltas) for deltas in found.values()], usage=stream.usage())

    async def _add(self, prompt: str, sampling: SamplingParams | None, fields: dict[str, Any]) -> RequestStream:
        await self._ready()
        engine, config = self._engine, self._config
        assert engine is not None and config is not None
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
            deadline_s=NO_DEADLINE_S,
            max_tokens_default=default,
        )
        return await engine.add(request)

    async def _ready(self) -> BackendInfo:
        if self._engine is None:
            async with self._thread().starting:
                if self._engine is None:
                    self._engine = await self._load()
        try:
            return await self._engine.wait_ready()
        except OpenLLMError:
            if self._engine.failure is not None:  # a next use tries again
                engine, self._engine = self._engine, None
                await engine.aclose()
            raise

    async def _load(self) -> Engine:
        from .compose import unknown_family

        options, tokenizer, family = await asyncio.to_thread(self._prepare)
        spec = families.find(family) if family else unknown_family()
        self._config, _ = settle(LLMConfig.for_model(spec), options.backend)
        self._known = family is not None
        engine = Engine(
            options,
            tokenizer,
            max_queue=UNBOUNDED,
            queue_timeout_s=NO_DEADLINE_S,
            launch=launch_embedded if self._embedded else None,
        )
        self._thread().engine = engine
        await engine.start()
        return engine

    def _prepare(self) -> tuple[EngineOptions, Tokenizer, str | None]:
        """Find the model and choose the backend; may download."""
        options = self._options
        if options.backend == "echo":
            return attrs.evolve(options, model_id="echo"), byte_tokenizer(), None
        from .serialisation import open_tokenizer

        found = self.resolved()
        backend, _ = backends.choose(options, found.architecture)
        options = attrs.evolve(
            options,
            model_path=str(found.path),
            model_id=found.model_id,
            family=found.family or "",
            backend=backend,
            quantize=options.quantize or found.quantize,
        )
        tokenizer = open_tokenizer(found.path, trust_remote_code=options.trust_remote_code)
        return options, tokenizer, found.family

    # -- between threads ----------------------------------------------------------------------------------------------

    def _thread(self) -> _LoopThread:
        with self._lock:
            if self._worker is None:
                self._worker = _LoopThread()
                self._close = weakref.finalize(self, self._worker.stop)
            return self._worker

    def _call(self, work: Coroutine[Any, Any, T]) -> T:
        future = asyncio.run_coroutine_threadsafe(work, self._thread().loop)
        try:
            return future.result()
        except ExceptionGroup as group:
            raise _first(group) from group
        except BaseException:
            future.cancel()
            raise

    async def _acall(self, make: Any) -> Any:
        future = asyncio.run_coroutine_threadsafe(make(), self._thread().loop)
        try:
            return await asyncio.wrap_future(future)
        except ExceptionGroup as group:
            raise _first(group) from group


class _LoopThread:
    """An event loop in a thread of its own, which also starts the host: the parent-death signal follows the thread."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.engine: Engine | None = None
        self.starting = asyncio.Lock()
        self._thread = threading.Thread(target=self._run, name="openllm", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Close the engine, stop the loop, end the thread."""
        if self.engine is not None:
            closing = asyncio.run_coroutine_threadsafe(self.engine.aclose(), self.loop)
            with contextlib.suppress(Exception):
                closing.result(timeout=30)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(timeout=10)

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        try:
            self.loop.run_forever()
            pending = asyncio.all_tasks(self.loop)
            for task in pending:
                task.cancel()
            self.loop.run_until_complete(asyncio.gather(*pending, return_exceptions=True))
        finally:
            self.loop.close()


async def _next(stream: RequestStream) -> Delta | None:
    return await anext(stream, None)


def _choice(deltas: list[Delta]) -> Choice:
    last = deltas[-1]
    logprobs = [entry for delta in deltas for entry in delta.logprobs or ()]
    return Choice(
        text="".join(delta.text for delta in deltas),
        token_ids=[token for delta in deltas for token in delta.token_ids],
        finish_reason=last.finish_reason or "",
        stop_reason=last.stop_reason,
        logprobs=logprobs if any(delta.logprobs is not None for delta in deltas) else None,
    )


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The first error of a batch: one refused prompt ends the call, as it would alone."""
    first = group.exceptions[0]
    return _first(cast("BaseExceptionGroup[BaseException]", first)) if isinstance(first, BaseExceptionGroup) else first
