"""Client: what every client can be asked, whatever carries the question.

`HTTPClient` and `GrpcClient` inherit from it and add how a call travels. Requests are built in `_base`. `AsyncClient` is its
twin: change both.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar, overload

from openllm_core.errors import NotFound, UnsupportedFeature
from openllm_core.schema import (
    AdapterList,
    ChatCompletion,
    ChatCompletionChunk,
    EmbeddingsOutput,
    Metadata,
    ModelCard,
    StreamFrame,
)

from . import _base
from ._agents import AsksAgents
from ._base import BaseClient, Messages, ReturnResponse
from ._config import Deadline
from ._replies import GenerationOutput, Readiness, read_config, read_configuration
from ._streaming import Stream
from ._wire import Call, Starting

if TYPE_CHECKING:
    from openai import OpenAI

    from openllm_core.config.llm import LLMConfig

T = TypeVar("T")


class Client(AsksAgents, BaseClient, ABC):
    """Asks an OpenLLM server; see `HTTPClient` and `GrpcClient`."""

    _default_model: str | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # -- generating -----------------------------------------------------------------------------------------------

    def generate(
        self,
        prompt: str,
        llm_config: Mapping[str, Any] | None = None,
        *,
        adapter_name: str | None = None,
        detail: bool = False,
        **sampling: Any,
    ) -> GenerationOutput:
        """Complete a raw prompt.

        Args:
            prompt: text; no chat template is applied.
            llm_config: fields of the model's configuration, flat or with `generation_config` nested.
            adapter_name: adapter to use; default: the server's.
            detail: ask for finish reasons, usage and logprobs.
            sampling: more fields of the configuration: max_tokens, temperature, seed, stop, …; None means default.
        """
        return self._send(_base.generate_call(prompt, llm_config, adapter_name, detail, sampling))

    def generate_stream(
        self,
        prompt: str,
        llm_config: Mapping[str, Any] | None = None,
        *,
        adapter_name: str | None = None,
        echo: bool = False,
        **sampling: Any,
    ) -> Stream[StreamFrame]:
        """Complete a raw prompt, piece by piece; the last frame carries `usage`.

        Args:
            echo: send the prompt first.

        The other arguments are those of `generate`. Leaving the stream early aborts the request.
        """
        return self._stream(_base.generate_stream_call(prompt, llm_config, adapter_name, echo, sampling))

    @overload
    def query(
        self,
        prompt: str,
        return_response: Literal["processed"] = "processed",
        *,
        adapter_name: str | None = None,
        **sampling: Any,
    ) -> str: ...

    @overload
    def query(
        self, prompt: str, return_response: Literal["raw"], *, adapter_name: str | None = None, **sampling: Any
    ) -> dict[str, Any]: ...

    @overload
    def query(
        self, prompt: str, return_response: Literal["attrs"], *, adapter_name: str | None = None, **sampling: Any
    ) -> GenerationOutput: ...

    def query(
        self,
        prompt: str,
        return_response: ReturnResponse = "processed",
        *,
        adapter_name: str | None = None,
        **sampling: Any,
    ) -> Any:
        """Complete a raw prompt.

        Args:
            return_response: `processed` for the text of the first response, `raw` for a dict of `responses` and
                `configuration`, `attrs` for a `GenerationOutput`.

        The other arguments are those of `generate`.
        """
        _base.check_return_response(return_response)
        return _base.returned(self.generate(prompt, adapter_name=adapter_name, **sampling), return_response)

    predict = query

    @overload
    def chat(
        self, messages: Messages, *, model: str | None = None, stream: Literal[False] = False, **sampling: Any
    ) -> ChatCompletion: ...

    @overload
    def chat(
        self, messages: Messages, *, model: str | None = None, stream: Literal[True], **sampling: Any
    ) -> Stream[ChatCompletionChunk]: ...

    def chat(self, messages: Messages, *, model: str | None = None, stream: bool = False, **sampling: Any) -> Any:
        """Answer a conversation with the model's own chat template.

        Args:
            messages: the conversation, or the user's one message.
            model: a served model name; default: the first that the server lists, asked for once.
            stream: give chunks as they come; leaving the stream early aborts the request.
            sampling: fields of a chat completion request: max_tokens, temperature, seed, stop, n, ….
        """
        name = model or self._default_model or _base.first_model(self.models(), self.address)
        try:
            if stream:
                answer: Any = self._stream(_base.chat_stream_call(messages, name, sampling)).open()
            else:
                answer = self._send(_base.chat_call(messages, name, sampling))
        except NotFound:
            self._default_model = None
            raise
        if model is None:
            self._default_model = name
        return answer

    def embed(self, texts: str | Sequence[str]) -> EmbeddingsOutput:
        """Embed one text or several."""
        return self._send(_base.embed_call(texts))

    # -- asking about the server ----------------------------------------------------------------------------------

    def models(self) -> list[ModelCard]:
        """What is served."""
        return self._send(_base.models_call())

    def adapters(self) -> AdapterList:
        """The server's adapters and which is the default; an error where it serves without any."""
        return self._send(_base.adapters_call())

    def set_default_adapter(self, name: str) -> AdapterList:
        """Make an adapter what requests without `adapter_name` get on `generate`; "base" is the model itself.

        Needs the admin key as `api_key` where the server has keys.
        """
        return self._send(_base.adapter_call("", name))

    def load_adapter(self, name: str) -> AdapterList:
        """Have the server load an adapter of its store; needs the admin key as `api_key` where the server has keys."""
        return self._send(_base.adapter_call("/load", name))

    def unload_adapter(self, name: str) -> AdapterList:
        """Have the server unload an adapter; requests that use it finish first."""
        return self._send(_base.adapter_call("/unload", name))

    def metadata(self) -> Metadata:
        """What is served, in OpenLLM's own words. Asked anew each time, as by each property below."""
        return self._send(_base.metadata_call())

    @property
    def model_name(self) -> str:
        """Family of the model."""
        return self.metadata().model_name

    @property
    def model_id(self) -> str:
        """Id of the model."""
        return self.metadata().model_id

    @property
    def backend(self) -> str:
        """Backend that runs it."""
        return self.metadata().backend

    @property
    def timeout(self) -> int:
        """The server's deadline of a request, seconds."""
        return self.metadata().timeout

    @property
    def configuration(self) -> dict[str, Any]:
        """The server's configuration."""
        return read_configuration(self.metadata())

    @property
    def config(self) -> LLMConfig:
        """The server's configuration as the typed object of the model's family."""
        return read_config(self.metadata())

    @property
    def supports_embeddings(self) -> bool:
        """Whether `embed` works."""
        return self.metadata().supports_embeddings

    @property
    def supports_hf_agent(self) -> bool:
        """Whether the server has an agent endpoint."""
        return self.metadata().supports_hf_agent

    def livez(self) -> bool:
        """Whether the server's process answers."""
        self._ask_alive()
        return True

    def health(self) -> Readiness:
        """Whether the server takes requests: true in a condition if so, and the reason if not. Asked once."""
        return self._ask_ready()

    def wait_until_ready(self, timeout_s: float = 300) -> None:
        """Return when the server takes requests; one that is not up yet is waited for too.

        Args:
            timeout_s: seconds to wait at most.

        Raises:
            TimedOut: it was not ready in time; the message says what it was doing.
            StatusError: waiting cannot help: it failed for good, or no such server is there.
        """
        deadline = Deadline(timeout_s)
        while True:
            starting = self._look(min(_base.PROBE_LIMIT_S, max(deadline.left_s(), 0.25)))
            if starting is None:
                return
            left = deadline.left_s()
            if left <= 0:
                self._never_ready(timeout_s, starting.reason)
            time.sleep(min(starting.wait_s, left))

    @property
    def openai(self) -> OpenAI:
        """OpenAI's client of this server.

        Raises:
            UnsupportedFeature: it speaks HTTP, and this client does not.
        """
        raise UnsupportedFeature(
            "OpenAI's client speaks HTTP alone.", hint="HTTPClient, at the server's HTTP port, has one.", param="openai"
        )

    # -- what each transport does -------------------------------------------------------------------------------------

    @abstractmethod
    def close(self) -> None:
        """Close all connections. May be called again."""

    @abstractmethod
    def _send(self, call: Call[T]) -> T:
        """Make a call and read its answer, trying again where `_retry` allows it."""

    @abstractmethod
    def _stream(self, call: Call[T]) -> Stream[T]:
        """The stream of a call that is made when it is opened."""

    @abstractmethod
    def _ask_alive(self) -> None:
        """Return if the server's process answers."""

    @abstractmethod
    def _ask_ready(self) -> Readiness:
        """What the server says of itself."""

    @abstractmethod
    def _look(self, seconds: float) -> Starting | None:
        """Look once whether the server is ready: what keeps it, or None when it is.

        Raises:
            ClientError: waiting will not help.
        """
