"""HTTPClient: a client of an OpenLLM server, for code that waits.

What it sends and how answers are read is in `_base` and `_replies`; when it tries again in `_retry`. `AsyncHTTPClient`
is its twin: change both.
"""

from __future__ import annotations

import itertools
import ssl
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, TypeVar, overload

import httpx

from openllm_core.errors import NotFound
from openllm_core.schema import (
    AdapterList,
    ChatCompletion,
    ChatCompletionChunk,
    EmbeddingsOutput,
    Metadata,
    ModelCard,
    StreamFrame,
)

from . import _base, _retry
from ._base import BaseClient, Messages, ReturnResponse
from ._config import Deadline, make, resolve, transport_options
from ._replies import GenerationOutput, Readiness, read_config, read_configuration
from ._streaming import Stream, check_stream
from ._wire import Call, Outcome, Reply

if TYPE_CHECKING:
    from openllm_core.config.llm import LLMConfig

T = TypeVar("T")


class HTTPClient(BaseClient):
    """Client of an OpenLLM server. May be shared by threads; connections are kept and used again.

    Args:
        address: `http://host:port`, with a path prefix if there is one; a missing scheme means http. Default:
            `OPENLLM_ENDPOINT`, else http://localhost:3000.
        timeout: seconds a call may take, waits and retries included; on a stream, seconds until the answer begins,
            and of silence in it.
        api_key: default: `OPENLLM_API_KEY` (the first of a comma list).
        max_retries: times a call is sent again, when that is safe; `Retry-After` is honoured.
        verify: False, or a file or folder of certificates, or an SSL context, for https.
        proxy: proxy's address; default: the usual environment variables, except for a loopback address.
        headers: sent with every request.
        transport: an `httpx.BaseTransport` to send through instead of the network.

    Raises:
        InvalidSetting: an argument or environment variable is unusable.

    Every call raises `ConnectionFailed`, `TimedOut`, a `StatusError` when the server refuses, or `ClientError` with the
    code `malformed_response` when the answer is not what its route answers.
    """

    def __init__(
        self,
        address: str | None = None,
        timeout: float = 30,
        *,
        api_key: str | None = None,
        max_retries: int = 2,
        verify: bool | str | ssl.SSLContext = True,
        proxy: str | None = None,
        headers: Mapping[str, str] | None = None,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self._settings = resolve(address, timeout, api_key=api_key, max_retries=max_retries, headers=headers)
        options = transport_options(self._settings, verify=verify, proxy=proxy)
        self._inner = make(lambda: httpx.Client(transport=transport, **options))
        self._default_model: str | None = None

    def close(self) -> None:
        """Close all connections. May be called again."""
        self._inner.close()

    def __enter__(self) -> HTTPClient:
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
        outcome = self._probe("/livez", self._settings.timeout_s)
        if isinstance(outcome, Reply) and outcome.status == 200:
            return True
        raise self._failure(outcome)

    def health(self) -> Readiness:
        """Whether the server takes requests: true in a condition if so, and the reason if not. Asked once."""
        return self._readiness(self._probe("/readyz", self._settings.timeout_s))

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
            outcome = self._probe("/readyz", min(_base.PROBE_LIMIT_S, max(deadline.left_s(), 0.25)))
            if isinstance(outcome, Reply) and outcome.status == 200:
                return
            reason, wait = self._still_starting(outcome)
            left = deadline.left_s()
            if left <= 0:
                self._never_ready(timeout_s, reason)
            time.sleep(min(wait, left))

    # -- sending --------------------------------------------------------------------------------------------------

    def _send(self, call: Call[T]) -> T:
        outcome = self._retrying(call)
        if isinstance(outcome, Reply) and outcome.status == 200:
            self._note_ignored(outcome.headers)
            return call.read(outcome.content)
        assert not isinstance(outcome, httpx.Response)
        raise self._failure(outcome)

    def _stream(self, call: Call[T]) -> Stream[T]:
        return Stream(call, self._connect, self._interrupted)

    def _connect(self, call: Call[Any]) -> httpx.Response:
        outcome = self._retrying(call)
        if not isinstance(outcome, httpx.Response):
            raise self._failure(outcome)
        try:
            check_stream(outcome, self.address)
        except BaseException:
            outcome.close()
            raise
        self._note_ignored(outcome.headers)
        return outcome

    def _retrying(self, call: Call[Any]) -> httpx.Response | Outcome:
        deadline = Deadline(self._settings.timeout_s)
        for attempt in itertools.count():
            outcome = self._once(call, deadline)
            if isinstance(outcome, httpx.Response) or (isinstance(outcome, Reply) and outcome.status == 200):
                return outcome
            retries, left = self._settings.max_retries, deadline.left_s()
            wait = _retry.wait_s(call, outcome, attempt=attempt, max_retries=retries, left_s=left)
            if wait is None:
                return outcome
            time.sleep(wait)
        raise AssertionError("unreachable")

    def _probe(self, path: str, seconds: float) -> Outcome:
        outcome = self._once(_base.probe_call(path), Deadline(seconds))
        assert not isinstance(outcome, httpx.Response)
        return outcome

    def _once(self, call: Call[Any], deadline: Deadline) -> httpx.Response | Outcome:
        """Send a call once: the open response of a stream that begins, else the whole reply or what went wrong."""
        try:
            response = self._inner.send(self._inner.build_request(**self._request(call, deadline)), stream=True)
            if call.stream and response.status_code == 200:
                self._allow_silence(response)
                return response
            return self._read(response, deadline)
        except httpx.RequestError as error:
            return error

    def _read(self, response: httpx.Response, deadline: Deadline) -> Reply:
        parts: list[bytes] = []
        size = 0
        try:
            for part in response.iter_bytes():
                parts.append(part)
                size += len(part)
                if deadline.left_s() <= 0:
                    raise httpx.ReadTimeout("the answer was not complete in time")
                if response.status_code != 200 and size > _base.MAX_ERROR_BYTES:
                    break
        finally:
            response.close()
        return Reply(response.status_code, response.headers, b"".join(parts))
