"""`openllm.Runner`: a model of the store in a Python program, with the flags and methods of 0.3.5's runners.

Making one brings the model into the store where it is absent; later ones reuse it. It stands on `openllm.LLM`, which loads
the model at the first call. It must not import torch, transformers or bentoml.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, Self, TypeVar

from openllm_core.config.llm import LLMConfig
from openllm_core.errors import InvalidSetting
from openllm_core.options import StoreOptions
from openllm_core.schema import EmbeddingsOutput

from .adapters import bind
from .backends.base import BackendInfo
from .generation import Generation
from .llm import LLM

if TYPE_CHECKING:
    from .serialisation import StoreEntry

P = ParamSpec("P")
R = TypeVar("R")

NO_ADAPTERS = "No adapters available for current running server."  # 0.3.5's words, which its users compare


class _End:
    """No item is left."""


class Method(Generic[P, R]):
    """A method of a runner: called, or as 0.3.5 had it, by `run`, or by `async_run` in a program with an event loop."""

    def __init__(self, function: Callable[P, R]) -> None:
        self._function = function
        self.__doc__ = function.__doc__

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run it."""
        return self._function(*args, **kwargs)

    run = __call__

    async def async_run(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run it in a thread, so that the event loop goes on."""
        return await asyncio.to_thread(self._function, *args, **kwargs)


class StreamMethod(Method[P, Iterator[R]]):
    """A method that yields; `async_stream` yields in a program with an event loop."""

    async def async_stream(self, *args: P.args, **kwargs: P.kwargs) -> AsyncGenerator[R, None]:
        """The same items; leaving early, or cancelling, aborts the request, at its next item at the latest."""
        items = await asyncio.to_thread(self._function, *args, **kwargs)
        one_by_one = threading.Lock()  # a generator that runs cannot be closed

        def step() -> R | _End:
            with one_by_one:
                return next(items, _End())

        def close() -> None:
            with one_by_one:
                getattr(items, "close", lambda: None)()

        try:
            while not isinstance(item := await asyncio.to_thread(step), _End):
                yield item
        except asyncio.CancelledError:  # `step` may go on for long in its thread, where `close` waits for it
            asyncio.get_running_loop().run_in_executor(None, close)
            raise
        except GeneratorExit:
            await asyncio.to_thread(close)
            raise


class Runner:
    """A stored model and what it can do.

    Attributes:
        llm: the model; `runner.llm.start()` loads it, `close()` frees it.
        generate, generate_one, generate_iterator, embeddings: as `LLM` has them, each with `run` and `async_run`.
        max_batch_size, max_latency_ms, scheduling_strategy: as given. The first is the number of sequences run at once; the
            others have no effect, since a request joins the running batch at its next step.
    """

    def __init__(
        self,
        model_name: str | None = None,
        ensure_available: bool = False,
        init_local: bool = False,
        backend: str | None = None,
        llm_config: LLMConfig | None = None,
        *,
        model_id: str | None = None,
        max_batch_size: int | None = None,
        max_latency_ms: int | None = None,
        scheduling_strategy: Any = None,
        embedded: bool = False,
        store: StoreOptions | None = None,
        llm: LLM | None = None,
        **engine_options: Any,
    ) -> None:
        """Args:
        model_name: family, hub id, stored model or folder; None for the default model.
        ensure_available: accepted; a runner's model is always brought into the store.
        init_local: load the model now.
        backend: that runs it; default: OPENLLM_BACKEND, else the fastest one installed.
        llm_config: generation defaults; default: the environment's and the family's.
        model_id: id or folder, where `model_name` is a family.
        embedded, store, engine_options: as for `openllm.LLM`.
        llm: take this one instead of making one.

        Raises:
            InvalidSetting: an unknown option or a value that does not fit.
            OpenLLMError: the model cannot be found or fetched.
        """
        if backend is not None:
            engine_options["backend"] = backend
        if max_batch_size is not None:
            if max_batch_size < 1:
                raise InvalidSetting("max_batch_size must be >= 1.", param="max_batch_size")
            engine_options.setdefault("max_num_seqs", max_batch_size)
        self.max_batch_size, self.max_latency_ms = max_batch_size, max_latency_ms
        self.scheduling_strategy = scheduling_strategy
        self.llm = llm or LLM(
            model_name, model_id=model_id, embedded=embedded, store=store, llm_config=llm_config, **engine_options
        )
        self._entry = self._stored()
        self.generate = Method(self.llm.generate)
        self.generate_one = Method(self.llm.generate_one)
        self.generate_iterator = StreamMethod(self.llm.generate_iterator)
        self.embeddings = Method(self.llm.embeddings)
        if init_local:
            self.llm.start()

    def _stored(self) -> StoreEntry | None:
        """The store's entry, imported where it is absent; None where there is no model to keep (echo)."""
        if not self.llm.chosen_options().model_path:
            return None
        entry = self.llm.save_pretrained()
        self.llm.use_stored(entry)
        return entry

    # -- names --------------------------------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """`llm-<family>-runner`."""
        return self.llm.runner_name

    @property
    def llm_type(self) -> str:
        """The family in snake case."""
        return self.llm.llm_type

    @property
    def llm_tag(self) -> str:
        """`<name>:<version>` in the store; empty where there is no model."""
        return self._entry.tag if self._entry is not None else ""

    @property
    def identifying_params(self) -> dict[str, Any]:
        """Configuration and known ids of the family, as JSON texts."""
        return self.llm.identifying_params

    @property
    def config(self) -> LLMConfig:
        """Generation defaults."""
        return self.llm.config

    @property
    def backend(self) -> str:
        """That runs it."""
        return self.llm.chosen_options().backend

    @property
    def models(self) -> list[Any]:
        """Its `bentoml.Model`, in a list; empty where there is none."""
        return [self.download_model()] if self._entry is not None else []

    def __repr__(self) -> str:
        return f"Runner({self.name}, {self.llm_tag or self.backend})"

    # -- flags --------------------------------------------------------------------------------------------------------

    @property
    def supports_embeddings(self) -> bool:
        """Whether `embeddings` works: the model has some of its own. `embed` works all the same."""
        return self.llm.supports_embeddings

    @property
    def supports_hf_agent(self) -> bool:
        """Whether `generate_one` works."""
        return self.llm.supports_hf_agent

    @property
    def has_adapters(self) -> bool:
        """Whether it was given adapters."""
        return self.llm.has_adapters

    @property
    def peft_adapters(self) -> dict[str, Any]:
        """Its adapters' own configurations, in 0.3.5's shape: success, result by name, error_msg."""
        if not self.has_adapters:
            return {"success": False, "result": {}, "error_msg": NO_ADAPTERS}
        given = bind(self.llm.chosen_options(), self.llm.store_options).given
        return {"success": True, "result": {one.name: one.files.config for one in given}, "error_msg": ""}

    # -- calls --------------------------------------------------------------------------------------------------------

    def download_model(self) -> Any:
        """Its `bentoml.Model`; see `LLM.download_model`."""
        return self.llm.download_model()

    def embed(self, texts: str | Sequence[str]) -> EmbeddingsOutput:
        """Vectors of one text or several, in their order; see `LLM.embed`."""
        return self.llm.embed(texts)

    def __call__(self, prompt: str, **fields: Any) -> str:
        """The completion of a prompt as text."""
        return self.llm(prompt, **fields)

    def complete(self, prompt: str, **fields: Any) -> Generation:
        """The completion of a prompt with ids, reasons and token counts."""
        return self.llm.generate(prompt, **fields)

    def start(self) -> BackendInfo:
        """Load the model now; see `LLM.start`."""
        return self.llm.start()

    def close(self) -> None:
        """Free the model; the next call loads it again."""
        self.llm.close()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *details: object) -> None:
        self.close()
