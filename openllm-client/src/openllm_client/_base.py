"""What both clients share: requests built, readiness judged, metadata read. No I/O.

`HTTPClient` and `AsyncHTTPClient` inherit from `BaseClient` and add only the sending. Wire messages are those of
`openllm_core.schema`; the environment was read by `_config`.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NoReturn, TypeVar, cast

import httpx
import orjson

from openllm_core import serde
from openllm_core.errors import ClientError, InvalidRequest, OpenLLMError, TimedOut
from openllm_core.schema import (
    AdapterList,
    ChatCompletion,
    ChatCompletionChunk,
    ChatMessage,
    EmbeddingsOutput,
    Metadata,
    ModelCard,
    StreamFrame,
)

from . import _errors
from ._config import CONNECT_LIMIT_S, ClientSettings, Deadline
from ._replies import (
    GenerationOutput,
    Readiness,
    read_adapters,
    read_chat,
    read_chunk,
    read_embeddings,
    read_frame,
    read_generation,
    read_metadata,
    read_models,
)
from ._retry import retry_after_s
from ._wire import Call, Outcome, Reply, Starting

T = TypeVar("T")

Messages = str | Sequence[Mapping[str, Any] | ChatMessage]
ReturnResponse = Literal["processed", "raw", "attrs"]

OPENAI_EXTRA = 'pip install "openllm-client[openai]"'
PROBE_LIMIT_S = 5.0  # one look at /readyz
MAX_ERROR_BYTES = 64 * 1024  # of the body of a refusal
POLL_S = 0.5  # between looks while nothing listens or the server names no time
_STARTING = frozenset({500, 502, 503, 504})  # a server that starts, or a proxy before one

_log = logging.getLogger("openllm_client")


class BaseClient:
    """Address and requests of a client; see `HTTPClient`."""

    _settings: ClientSettings

    @property
    def address(self) -> str:
        """Where the server is: scheme, host, port and path prefix."""
        return self._settings.base_url

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.address!r})"

    def _request(self, call: Call[Any], deadline: Deadline) -> dict[str, Any]:
        """Arguments of `build_request` for sending `call` now."""
        headers = {"accept": "text/event-stream" if call.stream else "application/json"}
        if call.stream:
            headers["accept-encoding"] = "identity"
        if call.content is not None:
            headers["content-type"] = "application/json"
        left = max(deadline.left_s(), 0.001)
        return {
            "method": call.method,
            "url": self.address + call.path,
            "content": call.content,
            "headers": headers,
            "timeout": httpx.Timeout(left, connect=min(left, CONNECT_LIMIT_S)),
        }

    def _allow_silence(self, response: httpx.Response) -> None:
        """From here on the time-out bounds the silence between two pieces, not what is left of the first wait."""
        response.request.extensions["timeout"]["read"] = self._settings.timeout_s

    def _openai_options(self, inner: Any) -> dict[str, Any]:
        """Arguments of OpenAI's own client, which sends through `inner`. It wants a key even where the server has none."""
        headers = dict(self._settings.headers)
        del headers["user-agent"]
        return {
            "http_client": inner,
            "base_url": f"{self.address}/v1",
            "api_key": headers.get("authorization", "").removeprefix("Bearer ") or "none",
            "timeout": self._settings.timeout_s,
            "max_retries": self._settings.max_retries,
            "default_headers": headers,
        }

    def _failure(self, outcome: Outcome) -> ClientError:
        return _errors.failure(outcome, self.address, self._settings.timeout_s)

    def _interrupted(self, error: httpx.RequestError | None, request_id: str | None) -> ClientError:
        return _errors.interrupted(self.address, self._settings.timeout_s, request_id, error)

    def _note_ignored(self, headers: httpx.Headers) -> None:
        """A parameter the server passed over must not go unseen."""
        ignored = headers.get("x-openllm-ignored")
        if ignored:
            self._warn_ignored(ignored)

    def _warn_ignored(self, names: str) -> None:
        _log.warning("%s ignored: %s", self.address, _errors.shown(names))

    def _readiness(self, outcome: Outcome) -> Readiness:
        if isinstance(outcome, Reply) and outcome.status in (200, 503):
            message = _errors.error_detail(outcome.content).get("message", "")
            ready = outcome.status == 200
            wait = None if ready else retry_after_s(outcome.headers)
            return Readiness(ready=ready, status=outcome.status, message="" if ready else message, retry_after_s=wait)
        raise self._failure(outcome)

    def _starting(self, outcome: Outcome) -> Starting | None:
        """What keeps the server from being ready; None when it is.

        Raises:
            ClientError: waiting will not help.
        """
        if isinstance(outcome, Reply) and outcome.status == 200:
            return None
        error = self._failure(outcome)
        if not isinstance(outcome, Reply):
            if isinstance(outcome, (httpx.UnsupportedProtocol, httpx.LocalProtocolError)):
                raise error
            return Starting(error, POLL_S)
        if outcome.status not in _STARTING or outcome.headers.get("x-should-retry", "").lower() == "false":
            raise error
        return Starting(error, POLL_S if error.retry_after_s is None else max(error.retry_after_s, 0.05))

    def _never_ready(self, timeout_s: float, last: OpenLLMError) -> NoReturn:
        raise TimedOut(
            f"{self.address} was not ready within {timeout_s:g} s: {last.message}", hint=last.hint, code=TimedOut.code
        ) from last


# -- requests -----------------------------------------------------------------------------------------------------


def generate_call(
    prompt: str, llm_config: Mapping[str, Any] | None, adapter_name: str | None, detail: bool, sampling: dict[str, Any]
) -> Call[GenerationOutput]:
    """`POST /v1/generate`."""
    body = _generate_body(prompt, llm_config, adapter_name, sampling)
    if detail:
        body["detail"] = True
    return _post("/v1/generate", body, read_generation)


def generate_stream_call(
    prompt: str, llm_config: Mapping[str, Any] | None, adapter_name: str | None, echo: bool, sampling: dict[str, Any]
) -> Call[StreamFrame]:
    """`POST /v1/generate_stream`."""
    body = _generate_body(prompt, llm_config, adapter_name, sampling)
    if echo:
        body["echo"] = True
    return _post("/v1/generate_stream", body, read_frame, stream=True)


def chat_call(messages: Messages, model: str, sampling: dict[str, Any]) -> Call[ChatCompletion]:
    """`POST /v1/chat/completions`."""
    return _post("/v1/chat/completions", _chat_body(messages, model, sampling), read_chat)


def chat_stream_call(messages: Messages, model: str, sampling: dict[str, Any]) -> Call[ChatCompletionChunk]:
    """`POST /v1/chat/completions` with `stream`."""
    body = _chat_body(messages, model, sampling) | {"stream": True}
    return _post("/v1/chat/completions", body, read_chunk, stream=True)


def embed_call(texts: str | Sequence[str]) -> Call[EmbeddingsOutput]:
    """`POST /v1/embeddings` with an array of texts."""
    return _post("/v1/embeddings", [texts] if isinstance(texts, str) else list(texts), read_embeddings)


def metadata_call() -> Call[Metadata]:
    """`GET /v1/metadata`."""
    return Call(method="GET", path="/v1/metadata", read=read_metadata, repeatable=True)


def adapters_call() -> Call[AdapterList]:
    """`GET /v1/adapters`."""
    return Call(method="GET", path="/v1/adapters", read=read_adapters, repeatable=True)


def adapter_call(verb: str, name: str) -> Call[AdapterList]:
    """`POST /v1/adapters`, or one of its sub-routes."""
    return _post(f"/v1/adapters{verb}", {"adapter_name": name}, read_adapters)


def models_call() -> Call[list[ModelCard]]:
    """`GET /v1/models`."""
    return Call(method="GET", path="/v1/models", read=read_models, repeatable=True)


def probe_call(path: str) -> Call[bytes]:
    """`GET` of a health route."""
    return Call(method="GET", path=path, read=bytes, repeatable=True)


def first_model(cards: list[ModelCard], address: str) -> str:
    """Name to send when the caller named none.

    Raises:
        ClientError: the server lists no model.
    """
    if not cards:
        raise _errors.malformed(f"{address} lists no model.")
    return cards[0].id


def returned(output: GenerationOutput, return_response: ReturnResponse) -> Any:
    """What `query` gives back: text, plain data, or the typed answer."""
    if return_response == "attrs":
        return output
    if return_response == "raw":
        return {"responses": output.responses, "configuration": output.configuration}
    return output.text


def check_return_response(return_response: str) -> None:
    """Refuse an unknown form before anything is generated.

    Raises:
        InvalidRequest: it is none of the three.
    """
    if return_response not in ("processed", "raw", "attrs"):
        raise InvalidRequest(
            f"return_response: {return_response!r} is not one of processed, raw, attrs.", param="return_response"
        )


def _post(path: str, body: Any, read: Callable[[bytes], T], *, stream: bool = False) -> Call[T]:
    return Call(method="POST", path=path, body=body, content=_json(body), read=read, stream=stream)


def _generate_body(
    prompt: str, llm_config: Mapping[str, Any] | None, adapter_name: str | None, sampling: dict[str, Any]
) -> dict[str, Any]:
    config = _given(llm_config or {}) | _given(sampling)
    body: dict[str, Any] = {"prompt": prompt, "llm_config": config}
    if adapter_name is not None:
        body["adapter_name"] = adapter_name
    return body


def _chat_body(messages: Messages, model: str, sampling: dict[str, Any]) -> dict[str, Any]:
    spoken: list[Any]
    if isinstance(messages, str):
        spoken = [{"role": "user", "content": messages}]
    else:
        spoken = [serde.unstructure(m, omit_none=True) if isinstance(m, ChatMessage) else dict(m) for m in messages]
    fields = _given(sampling)
    if "max_new_tokens" in fields:
        fields.setdefault("max_tokens", fields.pop("max_new_tokens"))
    return {"model": model, "messages": spoken} | fields


def _given(sampling: Mapping[str, Any]) -> dict[str, Any]:
    """Fields without those that are None: the server's default holds for them."""
    return {name: value for name, value in sampling.items() if value is not None}


def _json(body: Any) -> bytes:
    _refuse_non_finite(body, "")
    try:
        return orjson.dumps(body, option=orjson.OPT_NON_STR_KEYS)
    except TypeError as error:
        raise InvalidRequest(f"The request cannot be written as JSON: {error}.", code="invalid_json") from None


def _refuse_non_finite(value: Any, path: str) -> None:
    """JSON has no NaN or infinity, and orjson would write null, which asks for something else."""
    if isinstance(value, float) and not math.isfinite(value):
        raise InvalidRequest(f"{path} must be finite.", param=path)
    if isinstance(value, Mapping):
        for key, item in cast("Mapping[Any, Any]", value).items():
            _refuse_non_finite(item, f"{path}.{key}" if path else str(key))
    elif isinstance(value, (list, tuple)):
        for place, item in enumerate(cast("Sequence[Any]", value)):
            _refuse_non_finite(item, f"{path}[{place}]")
